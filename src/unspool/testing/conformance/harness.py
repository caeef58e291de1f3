"""The base class of the suite, and the operations that the tests are made of."""

import os
import signal
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ... import codec, inspection
from ...backends.base import Backend, Clock, Feed, FeedState, Ticket
from ...backends.keyvalue import KeyValue
from ...message import Claim, Disposition, Message, Refusal, RefusalKind, State
from ..clock import FakeClock
from ..exchange import claim_one, content_of, sealed, settle_one
from ..waiting import readable

__all__ = ["TICK", "BackendTests", "Queue"]

TICK = 0.001
"""Seconds by which the clock advances with each sent task, so that the order of the tasks is unambiguous."""

_POLL = 1.0  # seconds by which the clock advances for a feed that notices changes only by polling
_LOOKS = 50  # the most refreshes of a feed, a tenth of a second apart, while a test waits for a change


class BackendTests(ABC):
    """The base class of each test class. Its abstract methods are implemented by the tests of a backend."""

    @abstractmethod
    def make_backend(self, clock: Clock, place: Path) -> Backend:
        """Return a backend with this clock.

        If the backend's ``Capabilities.forks`` is true, a second call with the same directory returns another object
        for the same queue, as in another process.

        :param place: a directory for this test. It is empty at the first call.
        """

    @abstractmethod
    def damage(self, backend: Backend, id: str) -> None:
        """Change a byte of a stored waiting task without using the backend."""

    def crash(self, backend: Backend, ref: str) -> None:
        """Claim the task in a child process and kill the child while it runs. Return when it is dead."""
        pid = os.fork()
        if pid == 0:
            try:
                claim_one(backend, ref)
            finally:
                os.kill(os.getpid(), signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
        self.sync(backend)

    def sync(self, backend: Backend) -> None:  # noqa: B027  most backends have nothing to wait for
        """Wait until the backend and its feed have noticed all earlier changes of the queue and all ended processes.

        Override this if a server reports them with a delay. A kernel reports them at once.
        """

    @pytest.fixture
    def clock(self) -> FakeClock:
        """Return the clock of the test."""
        return FakeClock()

    @pytest.fixture
    def backend(self, clock: FakeClock, tmp_path: Path) -> Iterator[Backend]:
        """Yield the empty backend under test."""
        backend = self.make_backend(clock, tmp_path)
        yield backend
        backend.close()

    @pytest.fixture
    def queue(self, backend: Backend, clock: FakeClock) -> Iterator["Queue"]:
        """Yield the backend under test with a feed."""
        if not backend.capabilities.feeds:
            pytest.skip("this backend has no feeds")
        queue = Queue(backend, clock, lambda ref: self.crash(backend, ref), self.sync)
        yield queue
        queue.close()

    @pytest.fixture
    def other(self, queue: "Queue", clock: FakeClock, tmp_path: Path) -> Iterator[Backend]:
        """Yield another process's view of the queue."""
        if not queue.backend.capabilities.forks:
            pytest.skip("no other process sees this backend's tasks")
        backend = self.make_backend(clock, tmp_path)
        yield backend
        backend.close()

    @pytest.fixture
    def kv(self, backend: Backend) -> KeyValue:
        """Return the table of the backend under test."""
        return backend.kv

    @pytest.fixture
    def shared(self, backend: Backend, kv: KeyValue) -> KeyValue:
        """Return the table of the backend under test, if other processes see it too."""
        if not backend.capabilities.forks:
            pytest.skip("no other process sees this backend's table")
        return kv


class Queue:
    """A backend and its feed, with the operations of a supervisor and a worker."""

    def __init__(
        self, backend: Backend, clock: FakeClock, crash: Callable[[str], None], sync: Callable[[Backend], None]
    ) -> None:
        self.backend = backend
        self.clock = clock
        self._sync = sync
        self.feed: Feed = backend.feed()
        self._crash = crash

    def send(self, label: str, *, priority: int | None = None, due: float | None = None, payload: Any = None) -> str:
        """Send a task that listings show as ``label``, and return its id."""
        self.clock.advance(TICK)
        return self.backend.send([sealed(codec.encode(Message(label, payload, None, priority, due)))])[0]

    def look(self) -> FeedState:
        """Let the feed process changes, and return its state."""
        if self.feed.fileno() is None:
            self.clock.advance(_POLL)
        self._sync(self.backend)
        while (state := self.feed.refresh()).more:
            pass
        return state

    def look_until(self, done: Callable[[], bool]) -> None:
        """Let the feed process changes until ``done`` returns True, but not for more than a few seconds."""
        for _ in range(_LOOKS):
            self.look()
            fd = self.feed.fileno()
            if done() or fd is None:
                break
            readable(fd, 0.1)

    def take(self, count: int = 1) -> list[Ticket]:
        """Return the next tickets. Fail unless there are ``count``."""
        taken: list[Ticket] = []

        def enough() -> bool:
            taken.extend(self.feed.take(count - len(taken)))
            return len(taken) == count

        self.look_until(enough)
        assert len(taken) == count, f"the feed gave {len(taken)} tickets of {count}"
        return taken

    def gives_nothing(self) -> bool:
        """Return whether the feed has no task to run after it has processed all changes."""
        self.look()
        return not self.feed.take(1)

    def begin(self) -> Claim:
        """Claim the next available task, as a worker does."""
        while True:
            (ticket,) = self.take()
            claim = claim_one(self.backend, ticket.ref)
            if not isinstance(claim, Refusal):
                return claim
            self.refused(ticket, claim)

    def refused(self, ticket: Ticket, refusal: Refusal) -> None:
        """Tell the feed that a ticket could not be claimed."""
        if refusal.kind is RefusalKind.BUSY:
            self.feed.recheck([ticket.ref])
        else:
            self.feed.done(ticket.ref, refusal.until)

    def end(self, claim: Claim, disposition: Disposition) -> float | None:
        """Settle a claim, tell the feed, and return when to check the task again."""
        until = settle_one(self.backend, claim, disposition)
        self.feed.done(claim.ref, until)
        return until

    def crash(self, ref: str) -> None:
        """Kill a worker while it runs a ticket, and let the supervisor notice."""
        self._crash(ref)
        self.feed.recheck()
        self.look()

    def order(self, count: int) -> list[str]:
        """Return the labels of the next tasks in the order in which they start. They stay claimed."""
        return [codec.task_label(content_of(self.begin()).vars) for _ in range(count)]

    def labels(self, *states: State) -> list[str]:
        """Return the labels in a listing of these states (all if none is given), in its order."""
        return [entry.task for entry in inspection.tasks(self.backend, frozenset(states or State))]

    def state(self, id: str) -> State | None:
        """Return the state of a task, or None if it is gone."""
        entry = inspection.find(self.backend, id)
        return entry.state if entry else None

    def close(self) -> None:
        """Close the feed."""
        self.feed.close()
