"""A clock that tests move."""

import time

__all__ = ["FakeClock"]

_AHEAD = 60.0


class FakeClock:
    """Gives the same time (unix seconds) until it is advanced.

    It starts a minute ahead of the real time, for a directory's files carry times of the kernel's own clock: what is
    sent for at once must not seem to lie in the future.

    :param now: where it starts instead.
    """

    def __init__(self, now: float | None = None) -> None:
        self.now = float(int(time.time() + _AHEAD)) if now is None else now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> float:
        """Moves on, and returns the new time.

        :raises ValueError: for a negative number.
        """
        if seconds < 0:
            raise ValueError(f"a clock does not go back by {-seconds} s; make a new one to test that")
        self.now += seconds
        return self.now
