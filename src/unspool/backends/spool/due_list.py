"""What a process of uWSGI has noted of due tasks, in the order of running.

uWSGI offers tasks in the order of the directory, which is none, so the handler goes by this list. It is made by reading
names, which hold a lower bound of the due time; a process that claims a task finds the exact time, and passes it to
``later``.
"""

import contextlib
import heapq
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator

from ..base import Clock, Ticket
from .layout import Directory, hint, is_priority, is_task, priority_of, rank_of

__all__ = ["DueList"]

_LIMIT = 50_000  # tasks that are noted at a time
_SHARE = 20  # of the time, at most one part in so many goes into looking
_FREE = 0.002  # seconds of looking that do not count: a small directory is looked at whenever there is reason to
_BUSY = 1.0  # seconds for which a process leaves a task alone that another process runs
_SLACK = 1.0  # seconds by which a name may be ahead of its task, as after the clock was set back; a claim finds out


class DueList:
    """The due tasks of some parts of a directory.

    :param parts: which parts, asked at each look.
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
        """When the first of those that the last look found deferred is due (unix seconds)."""
        self.priorities: list[str] = []
        """The directories of priorities that the last look found in these parts."""

    def __bool__(self) -> bool:
        return bool(self._due)

    def next(self) -> str | None:
        """Return the ref of the next task, which is then no longer noted; None if none is."""
        return self._due.popleft() if self._due else None

    @property
    def may_look(self) -> bool:
        """Whether enough time has passed since the last look, which may have been long."""
        return time.monotonic() >= self._not_before

    @property
    def busy(self) -> list[str]:
        """The tasks that somebody else had when they were last tried; who has one may die any moment, or only have
        looked at it."""
        return list(self._busy)

    def tried(self, ref: str) -> None:
        """A busy one is tried once more; whoever finds it busy again says so to ``later``. Most have been run by then,
        and must not be tried at each offer until the next look."""
        self._busy.discard(ref)

    def look(self) -> None:
        """Note what is due now, in place of what was noted before."""
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
        """Do not note a task before this time (unix seconds); None if another process runs it."""
        if len(self._later) < _LIMIT:
            self._later[ref] = self._clock() + _BUSY if until is None else until
            if until is None:
                self._busy.add(ref)

    def _is_due(self, ticket: Ticket, now: float, later: dict[str, float]) -> bool:
        """Return whether a task is due. If not, note when it will be."""
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
            with contextlib.suppress(OSError), os.scandir(self._directory.path(part)) as entries:
                for name in (entry.name for entry in entries):
                    if is_task(name):
                        ref = lead + name
                        yield Ticket(rank, self._later.get(ref) or hint(name), ref)
                    elif is_priority(name):
                        self.priorities.append(name)
