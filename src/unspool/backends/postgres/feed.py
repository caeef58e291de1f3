"""The due tasks of a queue: announced by NOTIFY, fetched in batches.

A notification is a hint; only a look at the table is certain. A look happens at the start, when the queue was changed,
when a task becomes due, and once per period. While other supervisors hold tasks, their sessions are checked each
second. A supervisor whose session has ended holds no tasks any more.
"""

import logging
import time
from collections.abc import Iterable, Mapping

from ... import forks
from ...errors import SpoolerUnusable
from ..base import Clock, FeedState, Ticket
from .absence import GRACE, judge
from .history import History
from .names import Names
from .registrations import Registrations
from .session import CLAIMS, PROCESSES, Session
from .sqlstate import ReadOnly, Transient

__all__ = ["PostgresFeed"]

_log = logging.getLogger("unspool")
_WATCH = 1.0  # seconds between checks of supervisors that hold tasks, and of this supervisor's tasks that others run
_DOUBT = (0.01, 0.5)  # seconds between checks of tasks that a dead worker may have held: first and maximum
_DOUBT_ENDS = 5.0  # seconds after which a task that is still locked counts as run by a live process
_BACK = (0.1, 5.0)  # seconds between attempts to reach an unreachable server
_BACKLOG = 10_000  # maximum number of ready tasks that are counted
_COUNT = 1.0  # seconds between counts of the ready tasks; in between, the tasks that are taken are subtracted


class PostgresFeed:
    """Implement ``base.Feed``. Tasks that it hands out are withheld from other supervisors."""

    def __init__(
        self,
        session: Session,
        names: Names,
        registrations: Registrations,
        history: History,
        clock: Clock | None,
        period: float,
    ) -> None:
        self._session = session
        self._names = names
        self._registrations = registrations
        self._default_period = period
        self._history = history
        self._fixed = clock
        self._clock = clock or time.time
        self._is_inherited = False
        self._out: set[str] = set()
        self._back: dict[str, int] = {}  # not started and not returned yet: the fence of each prefetched claim, or 0
        self._busy: set[str] = set()
        self._doubted: dict[str, float] = {}  # the end of the doubt, by the monotonic clock
        self._vain: set[str] = set()  # the doubted tasks that no worker has started
        self._suspicious = False  # whether a started task may have lost its worker
        self._reconciled = 0  # the session in which the tasks on the server were last compared with those known here
        self._absent: dict[int, float] = {}  # supervisors without a session, and since when, by the monotonic clock
        self._first: Ticket | None = None
        self._ready = False  # whether more tasks may be available
        self._backlog = 0  # the number of ready tasks when they were last counted, less those taken since
        self._changed = True
        self._looked = False
        self._paused = False
        self._others = True
        self._gone = False
        self._next_due: float | None = 0.0  # by this program's clock
        self._next_look = 0.0
        self._next_doubt = self._next_watch = self._next_count = self._next_try = 0.0  # by the monotonic clock
        self._patience = _BACK[0]
        self._doubt_every = _DOUBT[0]
        session.show("feed")
        try:
            session.listen(self.changed)
        except ReadOnly:
            raise
        except Transient as error:
            self._lose(error)
        self._reconciled = session.number
        forks.register(after_in_child=self._leave_to_parent)

    def _leave_to_parent(self) -> None:
        self._is_inherited = True

    def changed(self) -> None:
        """Note that the queue has changed, so that the next ``refresh`` looks at the table."""
        self._changed = True

    # --- base.Feed

    def fileno(self) -> int | None:
        return self._session.fileno()

    def refresh(self) -> FeedState:
        if not self._gone or time.monotonic() >= self._next_try:
            try:
                self._catch_up()
            except SpoolerUnusable as error:
                self._lose(error)
            else:
                self._gone, self._patience = False, _BACK[0]
        return self._state()

    def _catch_up(self) -> None:
        self._session.hear()
        self._give_back()
        self._recover()
        now = self._clock()
        if self._looked and now >= self._next_look:
            self._suspicious = True  # this look also finds own tasks that an earlier one missed
        drained = self._ready and self._first is None and not self._out
        due = self._next_look if self._next_due is None else min(self._next_look, self._next_due)
        if self._changed or drained or now >= due:
            self._look(now)
        elif self._must_count():
            self._count()
        self._history.trim()

    def _state(self) -> FeedState:
        now = self._clock()
        became_due = self._next_due is not None and self._next_due <= now  # before it was known here
        ready = (self._ready or self._changed) and not self._paused
        return FeedState(
            more=not self._gone and (became_due or self._must_count()),
            head=None if self._paused else self._first,
            ready=self._backlog,
            idle=not (self._out or self._doubted or self._suspicious or ready or self._gone),
            paused=self._paused,
            available=not self._gone,
            next_due=self._next_refresh(now),
        )

    def _next_refresh(self, now: float) -> float:
        real = time.monotonic()
        if self._gone:
            return now + max(0.0, self._next_try - real)
        times = [self._next_look]
        times += [] if self._next_due is None else [self._next_due]
        times += [now + max(0.0, self._next_doubt - real)] if self._doubted or self._suspicious else []
        times += [now + max(0.0, self._next_watch - real)] if self._others or self._busy else []
        return now if self._changed or self._back else min(times)

    def take(self, limit: int) -> list[Ticket]:
        if self._paused or self._gone or not self._ready:
            return []
        try:
            self._give_back()
            rows = sorted(self._session.rows("take", self._values(limit=limit)))
        except SpoolerUnusable as error:
            self._lose(error)
            raise
        self._ready, self._first = len(rows) == limit, None
        self._backlog = max(self._backlog - len(rows), 0) if self._ready else 0
        tickets = [Ticket(rank, due, str(number)) for rank, due, number in rows]
        refs = {ticket.ref for ticket in tickets}
        self._out |= refs
        if self._doubted:  # an earlier claim of the task was doubted
            self._vain -= refs
            self._doubted = {ref: ends for ref, ends in self._doubted.items() if ref not in refs}
        return tickets

    def release(self, tickets: Iterable[Ticket]) -> None:
        for ticket in tickets:
            self._out.discard(ticket.ref)
            if ticket.token:
                self._registrations.take_back(ticket.ref)
            self._back[ticket.ref] = ticket.token or self._back.get(ticket.ref, 0)
            self._backlog += 1

    def done(self, ref: str, until: float | None) -> None:
        self._out.discard(ref)
        self._busy.discard(ref)
        self._history.ended(1)
        if until is not None:
            self._doubt([ref])  # the task may still be owned, if its worker could not reach the server
            self._vain.add(ref)
            self._next_due = until if self._next_due is None else min(self._next_due, until)

    def recheck(self, refs: Iterable[str] | None = None) -> None:
        if refs is None:
            self._suspicious = True  # ended runs that the worker could not settle are no longer handed out
            self._doubt(self._out - self._registrations.running_here())
        else:
            held = set(refs)
            self._out -= held
            self._busy |= held

    def close(self) -> None:
        if self._is_inherited:
            return
        try:
            self._give_back()
            self._give(dict.fromkeys(self._out, 0))  # some of these may be running
            self._session.drop("feed")
        except SpoolerUnusable as error:  # the next supervisor finds the tasks that this one held
            _log.warning("%s", error)

    # --- parts

    def _look(self, now: float) -> None:
        """Make due tasks ready, then read the state of the queue."""
        self._changed, self._looked = False, True
        if self._next_due is not None and now >= self._next_due:
            self._session.execute("promote", self._values())
        there, paused, period, rank, due, number, later, others = self._session.execute("look", self._values())
        self._paused = paused
        self._first = None if number is None else Ticket(rank, due, str(number))
        self._ready = number is not None
        self._backlog = max(self._backlog, 1) if self._ready else 0
        self._next_due = None if later is None else later + now - there
        self._next_look = now + (period or self._default_period)
        if others and not self._others:
            self._next_watch = time.monotonic() + _WATCH
        self._others = others

    def _must_count(self) -> bool:
        return self._ready and time.monotonic() >= self._next_count

    def _count(self) -> None:
        """Count the ready tasks. The count follows a look or ``take``, so that no task waits for it."""
        self._backlog = int(self._session.execute("backlog", self._values(limit=_BACKLOG))[0])
        self._next_count = time.monotonic() + _COUNT

    def _give_back(self) -> None:
        if self._back:
            # A worker has started the rest, or the answer to its claim was lost.
            if self._give(self._back) < len(self._back):
                self._suspicious, self._next_doubt = True, 0.0
            self._back = {}
            self._changed = True

    def _give(self, fences: Mapping[str, int]) -> int:
        """Return these tasks to the queue. Return how many of them this supervisor owned."""
        values = self._values(ids=_numbers(fences), fences=list(fences.values()))
        row = self._session.execute("give_back", values)
        return row[0] if row else 0

    def _doubt(self, refs: Iterable[str]) -> None:
        ends = time.monotonic() + _DOUBT_ENDS
        self._doubted |= dict.fromkeys(refs, ends)
        self._next_doubt, self._doubt_every = 0.0, _DOUBT[0]

    def _recover(self) -> None:
        """Free the tasks that no worker runs any more."""
        now = time.monotonic()
        self._session.key("feed")  # reopens a lost session
        renewed = self._session.number != self._reconciled
        # Other processes may have lost their sessions too, so their tasks and those of our workers are checked.
        if renewed:
            self._absent.clear()
            self._suspicious, self._next_doubt = True, 0.0
        doubting = (self._suspicious or bool(self._doubted)) and now >= self._next_doubt
        watching = (self._others or bool(self._busy)) and now >= self._next_watch
        if not doubting and not watching:
            return
        number = self._session.number
        running = self._registrations.running_here()
        values = self._values(
            ids=_numbers({*self._doubted, *self._busy}),
            vain=_numbers(self._vain),
            ran=_numbers(self._registrations.ran),
            running=_numbers(running),
            known=_numbers({*self._out, *self._back, *self._busy, *running}),
            others=watching,
            doubting=doubting,
            **(self._absent_ones(now) if watching else {"dead": [], "living": []}),
        )
        freed, held = self._session.execute("recover", values)
        if renewed and self._session.number == number:
            self._reconciled = number
        for number in freed or ():
            self._out.discard(str(number))
            self._registrations.ran.discard(str(number))
            self._changed = True
        held_refs = {str(number) for number in held or ()}
        if doubting and self._suspicious:
            self._suspicious = False
            self._doubted |= dict.fromkeys(held_refs - running, now + _DOUBT_ENDS)
        if not self._doubted:
            self._registrations.ran.clear()
        self._busy &= held_refs
        self._doubted = {ref: ends for ref, ends in self._doubted.items() if ref in held_refs and ends > now}
        self._vain &= self._doubted.keys()
        self._next_doubt, self._doubt_every = now + self._doubt_every, min(self._doubt_every * 2, _DOUBT[1])
        if watching:
            self._next_watch = now + _WATCH
            self._changed = True

    def _absent_ones(self, now: float) -> dict[str, list[int]]:
        """Return the supervisors that cannot return to their tasks, and their workers that are alive."""
        rows = self._session.rows("absent", self._values())
        self._absent = {key: self._absent.get(key, now) for key, *_ in rows}
        returning = (None, "feed", "absent")
        return judge(
            (key, role not in returning or now - self._absent[key] >= GRACE, *more) for key, role, *more in rows
        )

    def _values(self, **more: object) -> dict[str, object]:
        values = {"clock": self._fixed() if self._fixed else None, "owner": self._session.key("feed")}
        return values | {"claims": CLAIMS, "processes": PROCESSES} | self._names.values() | more

    def _lose(self, error: SpoolerUnusable) -> None:
        """Note that the server is unreachable or refuses requests, log it once, and try again later."""
        if not self._gone:
            _log.error("%s", error.strerror or error)
        self._gone, self._changed, self._first = True, True, None
        self._next_try = time.monotonic() + self._patience
        self._patience = min(self._patience * 2, _BACK[1])


def _numbers(refs: Iterable[str]) -> list[int]:
    return [int(ref) for ref in refs]
