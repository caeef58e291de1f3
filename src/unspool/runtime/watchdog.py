"""When a worker has to be killed although none of its runs overruns: it does not end, or cannot be heard."""

from collections.abc import Set

__all__ = ["LATER", "LOST", "Watchdog"]

LATER = 12.0
"""How many times as long the end of a worker may take while a spooler is away, which has to know what it has run."""
LOST = "lost its descriptors, which a task closed"

Run = tuple[int, str]

_TO_DIE = 1.0  # seconds between the end of a worker's pipe and its death


class _Grace:
    """A grace period, which begins when a state is first seen and ends when the state has passed."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.deadline: float | None = None

    def is_over(self, now: float, *, seen: bool) -> bool:
        """Whether the state has lasted for longer than the period."""
        if not seen:
            self.deadline = None
        elif self.deadline is None:
            self.deadline = now + self._seconds
        return self.deadline is not None and now >= self.deadline


class Watchdog:
    """Watches one worker. All times are seconds of a timer.

    :param ending: seconds that it may take to end once it runs nothing, or to report the end of a run.
    """

    def __init__(self, ending: float) -> None:
        self._ending = _Grace(ending)
        self._ending_without_spooler = _Grace(LATER * ending)
        self._deaf = _Grace(_TO_DIE)
        self._mute = _Grace(ending)
        self._every = ending
        self._next_look: float | None = None
        self._untold: set[Run] = set()  # runs that were seen, and whose end was not told

    @property
    def deadline(self) -> float | None:
        """When the worker has to be looked at again even if nothing happens; None if never."""
        graces = (self._ending, self._ending_without_spooler, self._deaf, self._mute)
        times = (*(grace.deadline for grace in graces), self._next_look)
        return min((time for time in times if time is not None), default=None)

    def told(self, run: Run) -> None:
        """Notes that the worker has told the end of a run."""
        self._untold.discard(run)

    def look(
        self, now: float, shown: Set[Run], begun: Set[Run], *, to_end: bool, away: bool, closed: bool
    ) -> str | None:
        """Why the worker has to be killed now; None if it has not.

        :param shown: the runs that its signs of life show.
        :param begun: the runs of which it has told the beginning, and not yet the end.
        :param to_end: whether it is about to end, or was told to.
        :param away: whether a spooler is away, for which it may be waiting.
        :param closed: whether the pipe on which it reports has ended.
        """
        ends = to_end and not shown and not begun
        if self._ending.is_over(now, seen=ends and not away) or self._ending_without_spooler.is_over(now, seen=ends):
            return "did not end in time and was killed"
        if self._deaf.is_over(now, seen=closed):
            return LOST
        self._untold |= shown
        self._next_look = now + self._every if self._untold else None  # nothing else may come from one that is mute
        # A worker that drains its coroutines may have put a task back without a report, to run it alone afterwards.
        if self._mute.is_over(now, seen=not begun and bool(self._untold - shown)):
            return "was killed: it did not report the end of a run"
        return None
