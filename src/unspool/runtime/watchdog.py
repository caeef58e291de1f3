"""The decision to kill a worker that does not end, or that sends no reports."""

from collections.abc import Set

__all__ = ["LATER", "LOST", "Watchdog"]

LATER = 12.0
"""The factor by which a worker may take longer to end while a spooler that must store its runs is unreachable."""
LOST = "lost its descriptors, which a task closed"

Run = tuple[int, str]

_TO_DIE = 1.0  # seconds between the end of a worker's pipe and its death


class _Grace:
    """A grace period. It begins when a state is first seen, and is reset when the state has passed."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.deadline: float | None = None

    def is_over(self, now: float, *, seen: bool) -> bool:
        """Return whether the state has lasted longer than the period."""
        if not seen:
            self.deadline = None
        elif self.deadline is None:
            self.deadline = now + self._seconds
        return self.deadline is not None and now >= self.deadline


class Watchdog:
    """Watches one worker. All times are in seconds of a monotonic timer.

    :param ending: seconds that it may take to end after its last run, or to report the end of a run.
    """

    def __init__(self, ending: float) -> None:
        self._ending = _Grace(ending)
        self._ending_without_spooler = _Grace(LATER * ending)
        self._deaf = _Grace(_TO_DIE)
        self._mute = _Grace(ending)
        self._every = ending
        self._next_look: float | None = None
        self._untold: set[Run] = set()  # runs that were seen, and whose end was not reported

    @property
    def deadline(self) -> float | None:
        """Return when the worker must be checked again even without an event; None if never."""
        graces = (self._ending, self._ending_without_spooler, self._deaf, self._mute)
        times = (*(grace.deadline for grace in graces), self._next_look)
        return min((time for time in times if time is not None), default=None)

    def told(self, run: Run) -> None:
        """Note that the worker has reported the end of a run."""
        self._untold.discard(run)

    def look(
        self, now: float, shown: Set[Run], begun: Set[Run], *, to_end: bool, away: bool, closed: bool
    ) -> str | None:
        """Return why the worker must be killed now; None if it must not.

        :param shown: the runs that its registrations show.
        :param begun: the runs whose start it has reported, but not their end.
        :param to_end: whether it is ending, or was told to end.
        :param away: whether a spooler is unreachable, for which it may be waiting.
        :param closed: whether the pipe for its reports is closed.
        """
        ends = to_end and not shown and not begun
        if self._ending.is_over(now, seen=ends and not away) or self._ending_without_spooler.is_over(now, seen=ends):
            return "did not end in time and was killed"
        if self._deaf.is_over(now, seen=closed):
            return LOST
        self._untold |= shown
        self._next_look = now + self._every if self._untold else None  # there may be no other event
        # A worker that drains its coroutines may have put a task back without a report, to run it alone afterwards.
        if self._mute.is_over(now, seen=not begun and bool(self._untold - shown)):
            return "was killed: it did not report the end of a run"
        return None
