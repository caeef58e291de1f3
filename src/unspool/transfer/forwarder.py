"""The forwarding of tasks from directories to servers. Tasks wait in the directory while the server is away.

It is one process with one loop. The feed of a directory returns all waiting tasks in order, due or not, and a carrier
transfers them. Nothing can be lost with the process: tasks that are not confirmed are in the directory.
"""

import contextlib
import logging
import random
import selectors
import signal
import time
from collections.abc import Iterable, Sequence

from .. import registry
from ..backends.base import Backend, Feed, FeedState, Ticket
from ..backends.depot import Outbox
from ..errors import OptionRefused, SpoolerUnusable
from ..inspection import exists, find
from ..printable import counted
from ..routes import destination
from ..runtime.signals import Signals
from .carrier import Batch, Carrier, carrier_between

__all__ = ["Forwarder", "Pair", "Route", "forwarded", "forwarder"]

Pair = tuple[Backend, Backend]
"""A directory, and the destination of its tasks."""

_log = logging.getLogger("unspool")
_BATCH = 200  # tasks in one batch
_AGAIN = 1.0  # seconds until a task that another process had is checked again
_PATIENCE = (0.1, 30.0)  # seconds between attempts to reach a server that is away: at first, and at most
_JITTER = 0.25  # the fraction by which these are changed at random, so that not all machines return at once
_LONGEST = 3600.0


class Route:
    """One directory, and the destination of its tasks.

    :raises OptionRefused: if the tasks of the spooler cannot be forwarded.
    :raises SpoolerUnusable: if the directory cannot be used.
    """

    def __init__(self, source: Backend, destination: Backend, carrier: Carrier) -> None:
        if not isinstance(source, Outbox):
            raise OptionRefused(f"spooler {source.name} is not a directory; its tasks cannot be forwarded")
        self.source = source.name
        self.destination = destination.name
        self.sent = 0
        self.problem = ""
        """Why nothing can be sent now; empty if tasks can be sent."""
        self._backend: Backend = source
        self._there = destination
        self._ahead = source.ahead
        self._carrier = carrier
        self._feed: Feed = source.outbox()
        self._state = FeedState()
        self._registration = source.register("forwarder")
        self._resume = True
        self._next_try = 0.0
        self._patience = _PATIENCE[0]

    def fileno(self) -> int | None:
        """Return the descriptor that becomes readable when a task arrives."""
        return self._feed.fileno()

    @property
    def idle(self) -> bool:
        """Whether no task is waiting, except during a pause."""
        return not self._resume and self._state.idle

    def turn(self) -> bool:
        """Forward one batch. Return True if another one may be ready."""
        if time.monotonic() < self._next_try:
            return False
        self._state = self._feed.refresh()
        more = self._state.more
        tickets = [] if self._resume else self._feed.take(_BATCH)
        try:
            if self.problem:
                exists(self._there)
            if self._resume:
                self._note_batch(self._carrier.resume())
                self._resume, more = False, True
            elif tickets:
                self._carry(tickets)
                more = True  # the state is outdated, so refresh the feed before the next wait
        except SpoolerUnusable as error:
            self._lose(error, tickets)
            return False
        if self.problem and (tickets or more):
            _log.warning("spooler %s is back", self.destination)  # the level of the message about its loss
            self.problem, self._patience = "", _PATIENCE[0]
        return more

    def wait(self) -> float:
        """Return the seconds after which ``turn`` should be called even if nothing happens."""
        if (left := self._next_try - time.monotonic()) > 0:
            return left
        due = self._state.next_due
        return _LONGEST if due is None else max(0.0, min(due - self._feed_time(), _LONGEST))

    def close(self) -> None:
        """Release all resources. The next forwarder continues unfinished transfers."""
        self._feed.close()
        self._registration.detach()
        self._registration.close()
        self._backend.close()

    def _carry(self, tickets: Sequence[Ticket]) -> None:
        ids = {f"{self.source}/{ticket.ref}": ticket for ticket in tickets}
        batch = self._carrier.carry(ids)
        done = {parcel.id for parcel in batch.moved} | {one.id for one in batch.stayed}
        for id, ticket in ids.items():
            left = id in done or find(self._backend, id) is None
            self._feed.done(ticket.ref, None if left else self._feed_time() + _AGAIN)
        self._note_batch(batch)

    def _note_batch(self, batch: Batch) -> None:
        self.sent += len(batch.moved)
        if batch.moved:
            _log.info("%s of %s forwarded to %s", counted(len(batch.moved), "task"), self.source, self.destination)
        for one in batch.stayed:
            _log.error("task %s is not forwarded: %s", one.id, one.reason)

    def _lose(self, error: SpoolerUnusable, tickets: Sequence[Ticket]) -> None:
        """Log once that the server is away or unusable, and schedule the next attempt."""
        self._feed.release(tickets)
        if not self.problem:
            reason = error.strerror or error
            _log.warning("%s; tasks are kept in %s, and forwarded when it is back", reason, self.source)
        self.problem = str(error.strerror or error)
        self._resume = True
        self._next_try = time.monotonic() + self._patience * (1 + random.uniform(-_JITTER, _JITTER))  # noqa: S311
        self._patience = min(self._patience * 2, _PATIENCE[1])

    def _feed_time(self) -> float:
        return time.time() + self._ahead


class Forwarder:
    """Runs routes until it is told to stop.

    :param burst: whether to stop when no task is waiting, or a server is away.
    :param lifeline: a descriptor. When it becomes readable, for example because its other end is closed, this stops.
    """

    def __init__(self, routes: Sequence[Route], *, burst: bool = False, lifeline: int | None = None) -> None:
        self._routes = routes
        self._burst = burst
        self._lifeline = lifeline
        self._signals = Signals()
        self._stopping = False

    def run(self) -> int:
        """Forward tasks, and return their number.

        :raises SpoolerUnusable: with ``burst``, if a server is away.
        """
        self._signals.catch()
        try:
            for route in self._routes:
                _log.info("forwarding %s to %s", route.source, route.destination)
            while not self._stopping:
                more = [route.turn() for route in self._routes]
                self._obey(self._signals.take())
                if self._burst and not any(more) and all(route.idle or route.problem for route in self._routes):
                    break
                if not any(more) and not self._stopping:
                    self._wait()
        finally:
            self._signals.release()
            for route in self._routes:
                route.close()
        sent = sum(route.sent for route in self._routes)
        _log.info("stopped: %s forwarded", counted(sent, "task"))
        for route in self._routes:
            if self._burst and route.problem:
                raise SpoolerUnusable(route.problem)
        return sent

    def _obey(self, numbers: Sequence[int]) -> None:
        if self._lifeline is None:  # otherwise the process at the other end decides
            self._stopping |= any(number != signal.SIGHUP for number in numbers)

    def _wait(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._signals.fileno(), selectors.EVENT_READ)
            if self._lifeline is not None:
                selector.register(self._lifeline, selectors.EVENT_READ)
            for route in self._routes:
                if not route.problem and (fd := route.fileno()) is not None:
                    with contextlib.suppress(KeyError):
                        selector.register(fd, selectors.EVENT_READ)
            ready = selector.select(min(route.wait() for route in self._routes))
        self._signals.drain()
        self._stopping |= any(key.fd == self._lifeline for key, _ in ready)
        self._obey(self._signals.take())


def forwarded(chosen: Iterable[Backend]) -> list[Pair]:
    """Return those of the spoolers that are forwarded, each with its destination."""
    found = ((backend, destination(backend.name)) for backend in chosen)
    return [(backend, registry.backend(name)) for backend, name in found if name is not None]


def forwarder(pairs: Sequence[Pair], *, burst: bool = False, lifeline: int | None = None) -> Forwarder:
    """Return the forwarder of these spoolers."""
    routes = [Route(source, there, carrier_between(source, there, refuse=True)) for source, there in pairs]
    return Forwarder(routes, burst=burst, lifeline=lifeline)
