"""A clock that tests move."""

import time

__all__ = ["FakeClock", "ShiftedClock"]

_AHEAD = 60.0


class FakeClock:
    """A clock that returns the same Unix time until it is advanced.

    It starts a minute ahead of the real time, because files in a directory have times of the kernel's clock, and a task
    that is sent to run at once must not appear to be in the future.

    :param now: the start time; None for the default.
    """

    def __init__(self, now: float | None = None) -> None:
        self.now = float(int(time.time() + _AHEAD)) if now is None else now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> float:
        """Advance the clock, and return the new time.

        :raises ValueError: for a negative number.
        """
        if seconds < 0:
            raise ValueError(f"a clock does not go back by {-seconds} s; make a new one to test that")
        self.now += seconds
        return self.now


class ShiftedClock:
    """A clock that returns the real Unix time plus the seconds by which it was advanced."""

    def __init__(self) -> None:
        self._ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self._ahead

    def advance(self, seconds: float) -> float:
        """Advance the clock, and return the new time.

        :raises ValueError: for a negative number.
        """
        if not seconds >= 0:
            raise ValueError(f"a clock does not go back by {-seconds} s; make a new one to test that")
        self._ahead += seconds
        return self()
