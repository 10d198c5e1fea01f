"""Steps whose loss or gradient is not finite: counted, tolerated within limits, remembered over a restart."""

from absl import logging


class BadSteps:
    """The bad steps of a run. `train_step` leaves them without an update, so a few of them do no harm.

    The count is saved with each checkpoint, so a resumed run ends, or goes on, where the uninterrupted one would have.
    """

    def __init__(self, allowed: int, window: int):
        """allowed: how many of the last `window` steps may be bad; 0 = none."""
        self.allowed, self.window = allowed, window
        self.total, self.recent = 0, []  # recent: the bad ones of the last `window` steps

    def note(self, step: int, loss: float, grad_norm: float) -> bool:
        """Count a bad step and log it; returns whether they are too many now."""
        self.total += 1
        self.recent = [s for s in self.recent if s > step - self.window] + [step]
        logging.warning(
            "step %d: loss or gradient is not finite (loss %g, gradient norm %g), so nothing is updated; "
            "%d such of the last %d steps, train.max_bad_steps=%d",
            step, loss, grad_norm, len(self.recent), self.window, self.allowed,
        )  # fmt: skip
        return len(self.recent) > self.allowed

    def get_state(self) -> dict:
        """Return the counts as JSON."""
        return {"total": self.total, "recent": list(self.recent)}

    def set_state(self, state: dict) -> None:
        """Go on from saved counts."""
        self.total, self.recent = int(state["total"]), [int(s) for s in state["recent"]]


class Position:
    """The data iterator and the bad steps as one: what a checkpoint holds besides arrays."""

    def __init__(self, iterator, bad: BadSteps):
        self.iterator, self.bad = iterator, bad

    def get_state(self) -> dict:
        """Return both states; the iterator's keys stay at the top, where checkpoints have always had them."""
        return {**self.iterator.get_state(), "bad_steps": self.bad.get_state()}

    def set_state(self, state: dict) -> None:
        """Set both. Checkpoints from before bad steps were counted have none."""
        state = dict(state)
        self.bad.set_state(state.pop("bad_steps", {"total": 0, "recent": []}))
        self.iterator.set_state(state)
