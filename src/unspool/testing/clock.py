"""A clock that tests move."""

import time

__all__ = ["FakeClock", "ShiftedClock"]

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
        """Move on, and return the new time.

        :raises ValueError: for a negative number.
        """
        if seconds < 0:
            raise ValueError(f"a clock does not go back by {-seconds} s; make a new one to test that")
        self.now += seconds
        return self.now


class ShiftedClock:
    """A clock that returns the real time (unix seconds) plus the seconds that it was advanced by."""

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
