"""A signal ends a run cleanly: alone after the step that runs, as one of many processes after a step all agree on."""

import os
import signal
import threading

import jax
from jax.experimental import multihost_utils

# What a scheduler sends before it takes the machine away, and Ctrl-C.
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stop:
    """Inside its `with`, `reached(step)` becomes true once SIGTERM or SIGINT came; then it is true itself.

    With several processes JAX's own handler takes SIGTERM: whichever process gets it, all of them learn of it and stop after
    the same step, the first that none has passed yet (about a second later).
    """

    def __init__(self):
        self.signal, self._before, self._many = 0, {}, jax.process_count() > 1

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS[1:] if self._many else SIGNALS:
                self._before[number] = signal.signal(number, self._pass_on if self._many else self._on_signal)
        return self

    def __exit__(self, *error):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, number, frame):
        del frame
        # Ctrl-C a second time ends at once; schedulers send TERM again and again, and the run may still be saving.
        if number == self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number

    def _pass_on(self, number, frame):
        del number, frame
        os.kill(os.getpid(), signal.SIGTERM)

    def reached(self, step: int) -> bool:
        """Whether to stop after `step`, the same in every process. To be asked once for each step, in order."""
        if self._many and multihost_utils.reached_preemption_sync_point(step):
            self.signal = signal.SIGTERM
        return bool(self)

    def __bool__(self):
        return bool(self.signal)
