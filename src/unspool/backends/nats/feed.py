"""The tasks that NATS has delivered to a supervisor: ready, early, handed to workers, or running elsewhere.

``Consumer`` puts arrivals into an inbox when it reads the connection, which ``refresh`` and all requests do.
"""

import contextlib
import heapq
import logging
import time
from collections import deque
from collections.abc import Iterable

from ...errors import SpoolerUnusable
from ..base import Clock, FeedState, Ticket
from . import runs
from .cluster import Cluster
from .consumer import Consumer, Delivery
from .jetstream import JetStream
from .overdue import Overdue
from .registrations import Registrations
from .requests import ApiError, Unreachable, deletion
from .runs import Run
from .switches import NatsSwitches
from .tasks import Tasks

__all__ = ["NatsFeed"]

_log = logging.getLogger("unspool")
_WINDOW = 16
_MOST = 512  # maximum number of tasks held ready
_EARLY = 10_000  # maximum number of early tasks held; the server keeps the others
_LOOK = 0.05  # seconds between two checks that the queue is empty
_STUCK = 1.0  # seconds after which unclaimed tasks are returned, because others may have idle workers
_BACK = (0.25, 5.0)  # seconds between attempts to reach servers that are away: first and maximum
_LOOK_AGAIN = 1.0  # seconds after a full scan that failed
_MOMENT = 0.1  # if half of the held tasks are taken in less than these seconds, more are held
_BUSY = 1.0  # seconds between two checks whether delivered tasks still run elsewhere


class NatsFeed:
    """Implement ``base.Feed`` for NATS.

    :param hold: seconds before its due time from which a task is kept here.
    :param look: seconds between two checks of an empty queue.
    :param window: the minimum number of tasks held ready while workers take them. Among these the order is exact.
    """

    def __init__(
        self,
        place: Cluster,
        switches: NatsSwitches,
        registrations: Registrations,
        tasks: Tasks,
        clock: Clock,
        *,
        hold: float,
        look: float = _LOOK,
        window: int = _WINDOW,
    ) -> None:
        self._place = place
        self._tasks = tasks
        self._clock = clock
        self._hold = hold
        self._look = look
        self._inbox: deque[Delivery] = deque()
        self._ready: list[Delivery] = []
        self._early: list[tuple[float, Delivery]] = []
        self._held: dict[str, Delivery] = {}
        self._out: dict[str, Delivery] = {}
        self._busy: set[str] = set()
        self._window = self._wanted = window
        self._certain = False
        self._next_sweep = self._next_busy = 0.0
        self._taken_at = self._halved_at = time.monotonic()
        self._released: list[int] = []  # records of claims that were given back, which are not deleted yet
        self._pump = Consumer(place, switches, registrations, Overdue(place, tasks), self._inbox.append)
        self._next_look = clock() + self._period
        self._next_try, self._wait = 0.0, _BACK[0]
        self._connect(first=True)

    def _connect(self, *, first: bool) -> None:
        """Open the connection, or set when to try again.

        :raises SpoolerUnusable: if a server answers for the first time but cannot be used.
        """
        try:
            self._pump.connect()
        except SpoolerUnusable as error:
            self._pump.stream.close()
            if first and not isinstance(error, Unreachable):
                raise
            if first:
                _log.warning("%s; trying again", error)
            self._next_try, self._wait = time.monotonic() + self._wait, min(self._wait * 2, _BACK[1])
            return
        self._wait = _BACK[0]
        self._next_look = self._clock() + self._period
        self._ask()

    # --- base.Feed

    def fileno(self) -> int | None:
        return self._pump.stream.open().fileno() if self._connected else None

    @property
    def _paused(self) -> bool:
        return self._pump.switches.paused

    @property
    def _connected(self) -> bool:
        return self._pump.connected

    def refresh(self) -> FeedState:
        self._pump.stream.poll()
        if not self._connected and time.monotonic() >= self._next_try:
            self._connect(first=False)
        self._take_in()
        more = False
        if self._connected:
            with contextlib.suppress(SpoolerUnusable, OSError):  # it is tried again
                more = self._catch_up()
            self._pump.advance()
            self._take_in()
        return self._state(more)

    def _catch_up(self) -> bool:
        """Check what events do not report. Return whether ``refresh`` must be called again."""
        if self._released:
            self._delete_released()
        more = self._pump.work()
        if self._ready and self._look and time.monotonic() >= self._taken_at + _STUCK:
            self._let_go()
        if self._clock() >= self._next_look:
            self._look_whole()
        if self._busy and time.monotonic() >= self._next_busy:
            self._look_at_busy()
        more |= self._sweep()
        self._next_look = min(self._next_look, self._clock() + self._period)
        return more

    def _state(self, more: bool) -> FeedState:
        first, paused, connected = self._first(), self._paused, self._connected
        return FeedState(
            more=more,
            head=_ticket(first) if first and not paused else None,
            ready=len(self._ready),
            idle=not self._out and self._certain and connected and (paused or first is None),
            paused=paused,
            available=connected,
            next_due=self._next_refresh(),
        )

    def _next_refresh(self) -> float:
        now, real = self._clock(), time.monotonic()
        if not self._connected:
            return now + max(self._next_try - real, 0.0)
        times = [self._next_look, now + max(self._pump.next_due - real, 0.0)]
        if self._ready:
            times.append(now + max(self._taken_at + _STUCK - real, 0.0))
        if self._early:
            times.append(self._early[0][0])
        if self._busy:
            times.append(now + max(self._next_busy - real, 0.0))
        # If ``take`` empties ``_ready`` after this, the sweep waits for the end of a run, which is needed for idleness.
        if not self._certain and not self._ready:
            times.append(now + max(self._next_sweep - real, 0.0))
        return min(times)

    def take(self, limit: int) -> list[Ticket]:
        if self._paused or not self._connected:
            return []
        self._taken_at = time.monotonic()
        wanted, self._wanted = self._wanted, max(min(limit, _MOST), self._pace(), self._window)
        taken: list[Ticket] = []
        while len(taken) < limit and (delivery := self._first()) is not None:
            heapq.heappop(self._ready)
            del self._held[delivery.token]
            self._out[delivery.token] = delivery
            taken.append(_ticket(delivery))
        if taken or wanted != self._wanted:
            self._ask()
        return taken

    def _pace(self) -> int:
        """Return how many tasks to hold: as many as workers take in a moment, so that tasks are not requested one by
        one."""
        if 2 * len(self._ready) > self._wanted:
            return self._wanted
        now = time.monotonic()
        lasted, self._halved_at = now - self._halved_at, now
        if lasted < _MOMENT:
            return min(2 * self._wanted, _MOST)
        return self._wanted if lasted < 4 * _MOMENT else self._wanted // 2

    def release(self, tickets: Iterable[Ticket]) -> None:
        tickets = list(tickets)
        self._released += [ticket.token for ticket in tickets if ticket.token]
        with contextlib.suppress(SpoolerUnusable):  # ``refresh`` tries it again; until then the tasks are busy
            self._delete_released()
        for ticket in tickets:
            self._return(ticket.ref)

    def _delete_released(self) -> None:
        names, stream = self._place.names, self._pump.stream
        for answer in stream.ask_all([deletion(names.state, record) for record in self._released]):
            if isinstance(answer, SpoolerUnusable) and not (isinstance(answer, ApiError) and answer.nothing_there):
                raise answer
        self._released.clear()

    def done(self, ref: str, until: float | None) -> None:
        self._busy.discard(ref)
        delivery = self._out.pop(ref, None)
        self._certain = False
        if delivery is None:
            return
        self._pump.progress.pop(delivery.reply, None)
        if until is not None:
            self._give_back(delivery, until - self._clock())
        self._offer_again(ref)

    def recheck(self, refs: Iterable[str] | None = None) -> None:
        if refs is not None:
            self._busy.update(ref for ref in refs if ref in self._out)
        else:
            self._busy.update(self._out)
            self._next_busy = 0.0
            self._look_at_busy()

    def close(self) -> None:
        self._pump.stop(self._unbegun)

    def _unbegun(self) -> list[Delivery]:
        self._take_in()
        return [*self._held.values(), *self._out.values()]

    # --- parts

    @property
    def _period(self) -> float:
        return self._pump.switches.period

    def _take_in(self) -> None:
        now = self._clock()
        arrived = False
        while self._inbox:
            self._keep(self._inbox.popleft(), now)
            arrived = True
        while self._early and self._early[0][0] <= now:
            _, delivery = heapq.heappop(self._early)
            if self._held.get(delivery.token) is delivery:
                heapq.heappush(self._ready, delivery)
        if arrived:
            self._ask()

    def _keep(self, delivery: Delivery, now: float) -> None:
        former = self._held.get(delivery.token)
        if former is not None:
            if former.seq > delivery.seq:
                self._pump.progress.pop(delivery.reply, None)
                return
            self._pump.progress.pop(former.reply, None)
        if delivery.at_once and delivery.due > now:  # the sender's clock is ahead of this one
            delivery = delivery._replace(due=now)
        wait = delivery.due - now
        if wait > 0 and (wait > self._hold or len(self._early) >= _EARLY):
            self._held.pop(delivery.token, None)
            self._give_back(delivery, wait - min(self._hold, 1.0))
            return
        self._held[delivery.token] = delivery
        if wait > 0:
            heapq.heappush(self._early, (delivery.due, delivery))
        elif delivery.token not in self._out:
            heapq.heappush(self._ready, delivery)

    def _first(self) -> Delivery | None:
        """Return the first task that may be handed out."""
        while self._ready:
            delivery = self._ready[0]
            if self._held.get(delivery.token) is delivery and delivery.token not in self._out:
                return delivery
            heapq.heappop(self._ready)  # a later message of this task has arrived
        return None

    def _return(self, ref: str, due: float = 0.0) -> None:
        """Hold a task again that was handed to a worker, unless a later message of it has arrived."""
        self._busy.discard(ref)
        delivery = self._out.pop(ref, None)
        if delivery is None or ref in self._held:
            self._offer_again(ref)
        else:
            delivery = delivery._replace(due=max(delivery.due, due), at_once=delivery.at_once and not due)
            self._keep(delivery, self._clock())

    def _offer_again(self, ref: str) -> None:
        """Offer the held message of a task that is no longer handed out."""
        delivery = self._held.get(ref)
        if delivery is not None and delivery.due <= self._clock():
            heapq.heappush(self._ready, delivery)

    def _ask(self) -> None:
        room = self._wanted - len(self._ready)
        if 2 * room >= self._wanted or room < 0:
            self._pump.ask(room)

    def _let_go(self) -> None:
        """Return the ready tasks to the server, because all workers are busy and other supervisors may have idle
        ones."""
        self._wanted = 0
        for delivery in self._ready:
            if self._held.get(delivery.token) is delivery:
                del self._held[delivery.token]
                self._give_back(delivery, 0.0)
        self._ready.clear()
        self._ask()

    def _give_back(self, delivery: Delivery, delay: float) -> None:
        self._pump.back(delivery.reply, delay)

    def _look_whole(self) -> None:
        self._next_look = self._clock() + _LOOK_AGAIN
        self._pump.look()
        self._next_look = self._clock() + self._period

    def _sweep(self) -> bool:
        """Check with the server when the queue seems empty. Return whether tasks were found."""
        now = time.monotonic()
        if self._first() is not None and self._look:
            return False
        if now < self._next_sweep or (self._certain and self._look):
            return False
        self._next_sweep = now + self._look
        self._certain = False
        found = self._pump.sweep()
        self._certain = not found
        self._take_in()
        return found

    def _look_at_busy(self) -> None:
        """Offer tasks again that are no longer running elsewhere, and forget those that no longer exist."""
        self._next_busy = time.monotonic() + (_BUSY if self._look else 0.0)
        with contextlib.suppress(SpoolerUnusable):
            for ref, due in self._released_elsewhere(list(self._busy)).items():
                if due is None:
                    self.done(ref, None)
                else:
                    self._return(ref, due)

    def _released_elsewhere(self, refs: list[str]) -> dict[str, float | None]:
        """Return when each of these tasks, if not running, may run again. The value is None for a message of another
        feed."""
        stream, names = self._pump.stream, self._place.names
        found: dict[str, float | None] = {}
        known = self._runs(stream)
        for ref in refs:
            run, delivery = known.get(ref), self._out.get(ref)
            stored = stream.last(names.tasks, names.task("*", "*", ref))
            if stored is None or delivery is None or stored.seq != delivery.seq:
                found[ref] = None
            elif run is None or not run.is_of(stored):
                found[ref] = delivery.due
            elif not runs.is_held(stream, names, run):
                if run.prefetched:  # what a dead worker had not begun was given back before
                    self._tasks.mark(stream, ref)
                found[ref] = max(delivery.due, run.until)
        return found

    def _runs(self, stream: JetStream) -> dict[str, Run]:
        found = map(Run.of, stream.read(self._place.names.state, self._place.names.run("*")))
        return {run.token: run for run in found if run is not None}


def _ticket(delivery: Delivery) -> Ticket:
    return Ticket(delivery.rank, delivery.due, delivery.token)
