"""The times at which a supervisor must act even without an event."""

import time
from collections.abc import Callable

from ..backends.base import Clock

__all__ = ["Interval", "Timers"]

_LONGEST = 3600.0  # seconds of a wait; periods may be longer than the kernel accepts

Timer = Callable[[], float | None]
"""Returns the seconds until something is due; None if nothing is."""


class Timers:
    """The timers of everything that becomes due without an event."""

    def __init__(self) -> None:
        self._timers: list[Timer] = []

    def add(self, timer: Timer) -> None:
        """Add a timer."""
        self._timers.append(timer)

    def wait(self) -> float | None:
        """Return the seconds until the first timer is due, at most an hour; None if no timer is set."""
        waits = [wait for timer in self._timers if (wait := timer()) is not None]
        return min(max(0.0, min(waits)), _LONGEST) if waits else None


class Interval:
    """An action that is repeated with at least this many seconds in between."""

    def __init__(self, seconds: float, timer: Clock = time.monotonic) -> None:
        self._seconds = seconds
        self._timer = timer
        self._next = 0.0

    def left(self) -> float:
        """Return the seconds until it is due; 0 or less if it is."""
        return self._next - self._timer()

    def begin(self) -> bool:
        """Return whether it is due. The interval then begins again."""
        now = self._timer()
        if now < self._next:
            return False
        self._next = now + self._seconds
        return True
