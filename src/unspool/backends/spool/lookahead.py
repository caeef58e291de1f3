"""A bounded lookahead on a queue that may hold a million tasks. No I/O.

Ready tickets are kept in a heap by priority and due time, deferred ones in a heap by due time. When a heap holds more
than twice its limit, the later half is dropped and the last kept ticket becomes the horizon. Tickets beyond the horizon
are unknown, so none is handed out until a new scan has moved the horizon. The order therefore holds for the whole
queue, and memory does not grow with it.
"""

import heapq
import math
from collections.abc import Iterable

from ..base import Ticket

__all__ = ["Lookahead"]


_FIRST = 3  # the first scan keeps this fraction of the limit
_NOTHING = Ticket(-1, 0.0, "")  # sorts before all tickets
_EVERYTHING = Ticket(1 << 62, 0.0, "")  # sorts after all tickets


class Lookahead:
    """Tickets that are ready, deferred or handed out.

    :param limit: the number of ready tickets, and of deferred tickets, to keep.
    """

    def __init__(self, limit: int = 50_000) -> None:
        self._limit = limit
        self._kept = limit  # kept of each kind after a cut
        self._ready: list[Ticket] = []
        self._deferred: list[tuple[float, Ticket]] = []  # includes forgotten tickets, which ``_until`` lacks
        self._until: dict[str, float] = {}
        self._held: set[str] = set()
        self._out: set[str] = set()
        self._horizon: Ticket | None = None
        self._barrier: Ticket | None = None
        self._deferred_horizon: float | None = None

    @property
    def lacking(self) -> bool:
        """Return whether tickets were dropped and few of their kind are left, so that a scan is needed."""
        few = self._limit // 3
        return (self._horizon is not None and (len(self._ready) <= few or self._ready[0] > self._horizon)) or (
            self._deferred_horizon is not None and len(self._until) <= few
        )

    @property
    def room(self) -> int:
        """Return how many tickets of each kind a scan should add. Up to twice as many are accepted."""
        return self._kept

    @property
    def ready(self) -> int:
        """Return the number of ready tickets."""
        return len(self._ready)

    @property
    def out(self) -> int:
        """Return the number of tickets that are handed out."""
        return len(self._out)

    @property
    def size(self) -> int:
        """Return how many tickets are in memory. Forgotten ones count until they are deleted."""
        return len(self._ready) + len(self._deferred)

    def handed_out(self) -> list[str]:
        """Return the refs that are handed out."""
        return list(self._out)

    def __contains__(self, ref: str) -> bool:
        return ref in self._held or ref in self._out

    def add(self, ticket: Ticket, now: float) -> None:
        """Add a ticket, unless it is known or beyond the horizon."""
        if ticket.ref in self._held or ticket.ref in self._out:
            return
        if ticket.due > now:
            self._defer(ticket, ticket.due)
        elif self._horizon is None or ticket <= self._horizon:
            self._held.add(ticket.ref)
            heapq.heappush(self._ready, ticket)
            if len(self._ready) > 2 * self._kept:
                self._cut_ready()

    def take(self, limit: int) -> list[Ticket]:
        """Return the first ready tickets and mark them as handed out."""
        taken: list[Ticket] = []
        ready, held, out = self._ready, self._held, self._out
        last = self._last_known
        while ready and len(taken) < limit and ready[0] <= last:
            ticket = heapq.heappop(ready)
            held.discard(ticket.ref)
            out.add(ticket.ref)
            taken.append(ticket)
        return taken

    def peek(self) -> Ticket | None:
        """Return the ticket that ``take`` would return first."""
        return self._ready[0] if self._ready and self._ready[0] <= self._last_known else None

    @property
    def _last_known(self) -> Ticket:
        """Return the last ticket before which all tickets are known."""
        return min(self._barrier or _EVERYTHING, self._horizon or _EVERYTHING)

    def release(self, tickets: Iterable[Ticket]) -> None:
        """Make tickets ready again that were handed out and not started."""
        for ticket in tickets:
            if ticket.ref in self._out:
                self._out.discard(ticket.ref)
                self._held.add(ticket.ref)
                heapq.heappush(self._ready, ticket)

    def done(self, ref: str) -> None:
        """Forget a ticket that was handed out and has ended."""
        self._out.discard(ref)

    def defer(self, ticket: Ticket, until: float) -> None:
        """Defer a ticket until a time."""
        if ticket.ref not in self:
            self._defer(ticket, until)

    def promote(self, now: float) -> None:
        """Make the tickets ready that have become due."""
        while (due := self.next_due()) is not None and due <= now:
            until, ticket = heapq.heappop(self._deferred)
            self.forget_deferred(ticket.ref)
            self.add(ticket._replace(due=until), now)

    def forget_deferred(self, ref: str) -> None:
        """Forget a deferred ticket, so that it can be added again."""
        if self._until.pop(ref, None) is not None:
            self._held.discard(ref)

    def next_due(self) -> float | None:
        """Return when the first deferred ticket becomes due, or None."""
        while self._deferred and not self._is_deferred(self._deferred[0]):
            heapq.heappop(self._deferred)
        return self._deferred[0][0] if self._deferred else None

    @property
    def forgetful(self) -> bool:
        """Return whether deferred tickets were dropped. A scan that reads only names would then report them as
        ready."""
        return self._deferred_horizon is not None

    def hold_back(self) -> None:
        """Hand out nothing until the end of the first scan. To end early, this scan keeps fewer tickets."""
        self._barrier = _NOTHING
        self._kept = max(self._limit // _FIRST, 1)

    def open_horizon(self) -> None:
        """Accept all tickets that a scan finds. Tickets beyond the former horizon are held back until the scan ends."""
        if self._horizon is not None:
            self._barrier = self._horizon
        self._horizon = self._deferred_horizon = None

    def lift_barrier(self) -> None:
        """End a scan: the tickets are complete and in order."""
        self._barrier = None
        self._kept = self._limit

    def narrow(self, last: Ticket) -> None:
        """Note that a scan skipped ready tickets after this one for lack of room."""
        if self._horizon is None or last < self._horizon:
            self._horizon = last
            if self._ready and max(self._ready) > last:
                self._keep(sorted(ticket for ticket in self._ready if ticket <= last))

    def narrow_deferred(self, last: Ticket) -> None:
        """Note that a scan skipped deferred tickets after this one for lack of room."""
        if self._deferred_horizon is None or last.due < self._deferred_horizon:
            self._deferred_horizon = last.due
            for until, ticket in filter(self._is_deferred, set(self._deferred)):
                if until > last.due:
                    self.forget_deferred(ticket.ref)

    def latest(self, rank: int, now: float) -> tuple[float, float, float]:
        """Return three times. A scan of this rank accepts due times up to the first, and from the second to the
        third."""
        ready, deferred = now, math.inf
        if self._horizon is not None and self._horizon.rank <= rank:
            ready = min(self._horizon.due, now) if self._horizon.rank == rank else -math.inf
        if self._deferred_horizon is not None:
            deferred = self._deferred_horizon
        return ready, now, deferred

    def _defer(self, ticket: Ticket, until: float) -> None:
        if self._deferred_horizon is not None and until > self._deferred_horizon:
            return
        self._held.add(ticket.ref)
        self._until[ticket.ref] = until
        heapq.heappush(self._deferred, (until, ticket))
        if len(self._deferred) > 2 * self._kept:
            self._cut_deferred()

    def _is_deferred(self, item: tuple[float, Ticket]) -> bool:
        return self._until.get(item[1].ref) == item[0]

    def _cut_deferred(self) -> None:
        kept = sorted(filter(self._is_deferred, set(self._deferred)))
        for _, ticket in kept[self._kept :]:
            self.forget_deferred(ticket.ref)
            self._deferred_horizon = kept[self._kept - 1][0]
        self._deferred = kept[: self._kept]

    def _cut_ready(self) -> None:
        kept = sorted(self._ready)[: self._kept]  # a sorted list is a heap
        self._horizon = kept[-1]
        self._keep(kept)

    def _keep(self, kept: list[Ticket]) -> None:
        self._held.difference_update(ticket.ref for ticket in self._ready)
        self._held.update(ticket.ref for ticket in kept)
        self._ready = kept
