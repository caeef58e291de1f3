"""The feed, which tells the supervisor which tasks are due, and when to look again."""

import math
from collections.abc import Iterable

from unspool.backends.base import Clock, FeedState, Ticket
from unspool.errors import SpoolerUnusable

from .store import Store

__all__ = ["SqliteFeed"]

_POLL = 0.2  # seconds between two polls
_PAGE = 1000  # the number of tickets that are read at once
_PAUSED = "SELECT 1 FROM switch WHERE name = 'paused' AND value"
_DUE = """
SELECT rank, due, number, holder FROM task
WHERE aside = '' AND due <= ? ORDER BY rank, due, number LIMIT ?
"""


class SqliteFeed:
    """Implement ``unspool.backends.base.Feed`` by a query every 0.2 s."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._ready: list[Ticket] = []
        self._out: set[str] = set()
        self._next_look = 0.0
        self._paused = False
        self._available = True

    def fileno(self) -> int | None:
        return None

    def refresh(self) -> FeedState:
        now = self._clock()
        if now >= self._next_look:
            self._look(now)
        startable = [] if self._paused else self._ready
        return FeedState(
            more=False,
            head=startable[0] if startable else None,
            ready=len(self._ready),
            idle=not startable and not self._out,
            paused=self._paused,
            available=self._available,
            next_due=self._next_look,
        )

    def take(self, limit: int) -> list[Ticket]:
        taken = [] if self._paused else self._ready[:limit]
        self._ready = self._ready[len(taken) :]
        self._out.update(ticket.ref for ticket in taken)
        if not self._ready:  # there may be more than a page
            self._next_look = 0.0
        return taken

    def release(self, tickets: Iterable[Ticket]) -> None:
        self.recheck([ticket.ref for ticket in tickets])

    def done(self, ref: str, until: float | None) -> None:
        self._out.discard(ref)
        if until is not None:
            self._next_look = min(self._next_look, until)

    def recheck(self, refs: Iterable[str] | None = None) -> None:
        self._out.difference_update(list(self._out) if refs is None else refs)
        self._next_look = 0.0

    def close(self) -> None:
        """Do nothing, because no connection is kept."""

    def _look(self, now: float) -> None:
        due, following, self._next_look = [], None, now + _POLL
        try:
            with self._store.reading() as database:
                self._paused = database.execute(_PAUSED).fetchone() is not None
                due = database.execute(_DUE, (now, _PAGE + len(self._out))).fetchall()
                later = "SELECT min(due) FROM task WHERE aside = '' AND due > ?"
                (following,) = database.execute(later, (now,)).fetchone()
            self._available = True
        except SpoolerUnusable:
            self._available = False
        self._ready = [
            Ticket(rank, due, ref)
            for rank, due, number, holder in due
            if (ref := str(number)) not in self._out and not self._store.is_held(holder)
        ]
        self._next_look = min(self._next_look, following or math.inf)
