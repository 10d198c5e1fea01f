"""Signals to a run of one process: TERM however often lets it save, only a second Ctrl-C ends it at once."""
import os
import signal

import pytest

from medvlp_jax.preemption import SIGNALS, Stop


def send(*signals):
    for number in signals:
        os.kill(os.getpid(), number)


@pytest.mark.parametrize("signals", [[signal.SIGTERM], [signal.SIGTERM] * 3, [signal.SIGINT, signal.SIGTERM, signal.SIGINT]])
def test_the_run_is_asked_to_stop_and_the_handlers_are_put_back(signals):
    before = [signal.getsignal(number) for number in SIGNALS]
    with Stop() as stop:
        assert not stop.reached(1)
        send(*signals)
        assert stop.reached(2) and stop.signal == signals[-1]
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_a_second_ctrl_c_ends_at_once():
    with pytest.raises(KeyboardInterrupt), Stop():
        send(signal.SIGINT, signal.SIGINT)
