"""The due tasks that a uWSGI process has found, in the order of execution.

uWSGI offers tasks in the arbitrary order of the directory, so the handler uses this list instead. A look reads names
only, which contain a lower bound of the due time. A process that claims a task reads the exact time and passes it to
``later``.
"""

import heapq
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator

from ...base import Clock, Ticket
from ..directory import Directory
from ..layout import priority_of, rank_of
from ..names import hint
from ..scan import priorities, read, tasks

__all__ = ["DueList"]

_LIMIT = 50_000  # maximum number of tasks in the list
_SHARE = 20  # looks take at most 1/20 of the time
_FREE = 0.002  # seconds of a look that do not count, so that a small directory can be read whenever needed
_BUSY = 1.0  # seconds for which a process leaves a task alone that another process runs
# Seconds by which a name may be ahead of its task, for example after the clock was set back; the claim corrects it.
_SLACK = 1.0


class DueList:
    """The due tasks of some parts of a directory.

    :param parts: returns the parts to read; called at each look.
    """

    def __init__(self, directory: Directory, clock: Clock, parts: Callable[[], Iterable[str]]) -> None:
        self._directory = directory
        self._clock = clock
        self._parts = parts
        self._due: deque[str] = deque()
        self._later: dict[str, float] = {}
        self._busy: set[str] = set()
        self._not_before = 0.0
        self.next_due: float | None = None
        """The due time of the first deferred task that the last look found (Unix time)."""
        self.priorities: list[str] = []
        """The priority directories that the last look found in these parts."""

    def __bool__(self) -> bool:
        return bool(self._due)

    def next(self) -> str | None:
        """Remove and return the ref of the next task, or None if the list is empty."""
        return self._due.popleft() if self._due else None

    @property
    def may_look(self) -> bool:
        """Return whether another look is allowed. A long look delays the next one."""
        return time.monotonic() >= self._not_before

    @property
    def busy(self) -> list[str]:
        """Return the tasks that another process held when they were last tried. That process may end at any moment."""
        return list(self._busy)

    def tried(self, ref: str) -> None:
        """Take a task off the busy list when it is tried once more. If it is still busy, call ``later``.

        Most busy tasks have been run by then, and must not be tried at each offer until the next look.
        """
        self._busy.discard(ref)

    def look(self) -> None:
        """Read the directory and replace the list with the tasks that are due now."""
        started, now = time.monotonic(), self._clock()
        later: dict[str, float] = {}
        self.next_due = None
        self.priorities = []
        due = (ticket for ticket in self._tickets() if self._is_due(ticket, now, later))
        self._due = deque(ticket.ref for ticket in heapq.nsmallest(_LIMIT, due))
        self._later = later
        self._busy &= later.keys()
        ended = time.monotonic()
        self._not_before = ended + _SHARE * max(0.0, ended - started - _FREE)

    def later(self, ref: str, until: float | None) -> None:
        """Do not list a task before this time (Unix time); None if another process runs it."""
        if len(self._later) < _LIMIT:
            self._later[ref] = self._clock() + _BUSY if until is None else until
            if until is None:
                self._busy.add(ref)

    def _is_due(self, ticket: Ticket, now: float, later: dict[str, float]) -> bool:
        """Return whether a task is due. If it is not, note its due time."""
        known = ticket.ref in self._later
        if ticket.due <= now if known else ticket.due <= now + _SLACK:
            return True
        if known:
            later[ticket.ref] = ticket.due
        self.next_due = ticket.due if self.next_due is None else min(ticket.due, self.next_due)
        return False

    def _tickets(self) -> Iterator[Ticket]:
        for part in self._parts():
            lead = f"{part}/" if part else ""
            rank = rank_of(priority_of(lead))
            for entries in read(self._directory, part):
                self.priorities += priorities(entries)
                for entry in tasks(entries):
                    ref = lead + entry.name
                    yield Ticket(rank, self._later.get(ref) or hint(entry.name), ref)
