"""The transfer of tickets from the feeds into the queue of the workers, and back."""

import time
from collections.abc import Iterable, Sequence

from ..backends.base import Clock, Ticket
from .hopper import SLOW, Hopper, is_slow
from .listeners import Statistics
from .pool import Pool
from .served import Served

__all__ = ["Tickets"]


class Tickets:
    """The tickets of all spoolers.

    :param stats: has the number of ended runs, which gives the rate of the workers.
    """

    def __init__(self, spoolers: Sequence[Served], pool: Pool, stats: Statistics, clock: Clock) -> None:
        self._spoolers = spoolers
        self._pool = pool
        self._stats = stats
        self._clock = clock
        self._hopper = Hopper([spooler.withholds for spooler in spoolers], time.monotonic())

    @property
    def exhausted(self) -> bool:
        """Whether the queue was empty at the last fill, so that workers may wait for a ticket."""
        return not self._hopper.waiting

    @property
    def plenty(self) -> bool:
        """Whether workers have enough to do for several naps."""
        return len(self._pool.queue) > self._hopper.enough(len(self._pool))

    @property
    def ready(self) -> int:
        """The number of ready tasks, in the feeds and in the queue."""
        return sum(spooler.state.ready for spooler in self._spoolers) + len(self._pool.queue)

    def wait(self) -> float | None:
        """Return the seconds until tickets that no worker begins may have to be taken back; None if never."""
        if any(process.ahead for process in self._pool.processes()):
            return SLOW
        return self._hopper.wait(len(self._pool.queue))  # the last fill may have added some

    def fill(self) -> None:
        """Keep the queue filled in order. Take its tickets back for a more urgent task, or when a pause begins."""
        if self._pool.stopping:
            return
        now = time.monotonic()
        waiting = len(self._pool.queue)
        if self._must_recall(waiting, now):
            self.recall()
            waiting = 0
        ready = self._pool.ready()
        if not ready:  # otherwise the spoolers that withhold would get no share until then
            return
        idle = 0
        if self._hopper.withholds:
            self._hopper.note_done(self._stats.done, now)
            idle = sum(not process.shown() for process in ready)
        while tickets := self._take(self._hopper.shares(waiting, idle)):
            self._hopper.note_taken(ticket.rank for _, ticket in tickets)
            self.give_back(self._pool.queue.put(tickets, workers=len(self._pool)))
            waiting += len(tickets)

    def recall(self) -> None:
        """Take back all tickets that no worker has begun."""
        self.give_back(self._pool.queue.recall())
        self.recall_ahead()

    def recall_ahead(self) -> None:
        """Take back all tasks that workers have claimed ahead and not begun."""
        for process in self._pool.processes():
            if process.ahead:
                self.give_back(process.recall())

    def recall_from_slow(self) -> None:
        """Take back the tasks that workers have claimed ahead behind a long run."""
        now = self._clock()
        for process in self._pool.processes():
            if process.ahead and is_slow((registration.since() for registration in process.registrations), now):
                self.give_back(process.recall())

    def give_back(self, tickets: Iterable[tuple[int, Ticket]]) -> None:
        """Return tickets to their feeds."""
        for index, ticket in tickets:
            self._spoolers[index].release([ticket])

    def _must_recall(self, waiting: int, now: float) -> bool:
        return self._hopper.count(
            waiting,
            self._stats.done,
            now,
            ranks=[first.rank for one in self._spoolers if (first := one.state.head) is not None],
            paused=waiting > 0 and any(one.state.paused for one in self._spoolers),
            workers=len(self._pool),
            capacity=self._pool.queue.capacity,
        )

    def _take(self, shares: Sequence[int]) -> list[tuple[int, Ticket]]:
        return [
            (index, ticket)
            for index, spooler in enumerate(self._spoolers)
            if shares[index] > 0
            for ticket in spooler.take(shares[index])
        ]
