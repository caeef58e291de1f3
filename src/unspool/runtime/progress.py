"""The display of a supervisor's progress."""

from collections.abc import Callable

from .listeners import Statistics
from .pool import Pool
from .tickets import Tickets
from .timers import Interval

__all__ = ["Progress"]

_EVERY = 0.2  # seconds


class Progress:
    """Calls a display with the statistics, up to five times a second while runs end.

    :param display: None to show nothing.
    """

    def __init__(
        self, display: Callable[[Statistics], None] | None, stats: Statistics, tickets: Tickets, pool: Pool
    ) -> None:
        self._display = display
        self._stats = stats
        self._tickets = tickets
        self._pool = pool
        self._interval = Interval(_EVERY)
        self._shown = 0  # the runs that had ended at the last call

    def wait(self) -> float | None:
        """Return the seconds until ``turn`` must be called; None if no run has ended since."""
        return None if self._display is None or self._shown == self._stats.done else self._interval.left()

    def turn(self) -> None:
        """Call the display if it is time."""
        if self._display is not None and self._interval.begin():
            self.show()

    def show(self) -> None:
        """Call the display now."""
        if self._display is not None:
            self._shown = self._stats.done
            self._stats.backlog = self._tickets.ready
            self._stats.workers = len(self._pool)
            self._display(self._stats)
