"""What the suite stands on: what a backend's own tests supply, and the moves that the tests are made of."""

import os
import signal
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ... import codec
from ...backends.base import Backend, Clock, Feed, Ticket
from ...message import Claim, Disposition, Message, Refusal, RefusalKind, State
from ...signing import Signer
from ..clock import FakeClock
from ..waiting import readable

__all__ = ["PATIENCE", "TICK", "Ground", "Queue"]

TICK = 0.001
"""Seconds by which the clock moves with each task that is sent, so that first in, first out has one answer."""

_POLL = 1.0  # seconds by which the clock moves where a feed learns of changes only by looking again
PATIENCE = 50  # looks of a tenth of a second at a feed that is told of changes from outside


class Ground(ABC):
    """What to supply; every test class of the suite is an heir."""

    @abstractmethod
    def make_backend(self, clock: Clock, place: Path, signer: Signer | None = None) -> Backend:
        """A backend with this clock, whose tasks are signed and verified by ``signer`` if there is one.

        :param place: a directory of the test's own, empty at first. Called again with the same one, where the backend's
            ``Capabilities.forks`` is true, it returns another object for the same queue, as another process would.
        """

    @abstractmethod
    def damage(self, backend: Backend, id: str) -> None:
        """Alters a byte of what is stored of a waiting task, behind the backend's back."""

    def crash(self, backend: Backend, ref: str) -> None:
        """Lets a worker claim the task and be killed while it runs. Returns when it is dead."""
        pid = os.fork()
        if pid == 0:
            try:
                backend.claim(ref)
            finally:
                os.kill(os.getpid(), signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
        self.bury(pid)

    def bury(self, pid: int) -> None:  # noqa: B027  most grounds have nothing to wait for
        """Wait until the ground has noticed that a process has ended or closed its backend. Kernels notice at once."""

    def tell(self, feed: Feed) -> None:  # noqa: B027  the same
        """Waits until a feed has been told of all that was done before; a kernel has told at once."""

    @pytest.fixture
    def clock(self) -> FakeClock:
        """The time of the test."""
        return FakeClock()

    @pytest.fixture
    def backend(self, clock: FakeClock, tmp_path: Path) -> Iterator[Backend]:
        """The backend under test, empty."""
        backend = self.make_backend(clock, tmp_path)
        yield backend
        backend.close()

    @pytest.fixture
    def queue(self, backend: Backend, clock: FakeClock) -> Iterator["Queue"]:
        """The same with a feed."""
        if not backend.capabilities.feeds:
            pytest.skip("this backend has no feeds")
        queue = Queue(backend, clock, lambda ref: self.crash(backend, ref), self.tell)
        yield queue
        queue.close()

    @pytest.fixture
    def other(self, queue: "Queue", clock: FakeClock, tmp_path: Path) -> Iterator[Backend]:
        """Another process's view of the queue."""
        if not queue.backend.capabilities.forks:
            pytest.skip("no other process sees this backend's tasks")
        backend = self.make_backend(clock, tmp_path)
        yield backend
        backend.close()


class Queue:
    """A backend and its feed, with what a supervisor and a worker do to them."""

    def __init__(
        self, backend: Backend, clock: FakeClock, crash: Callable[[str], None], tell: Callable[[Feed], None]
    ) -> None:
        self.backend = backend
        self.clock = clock
        self._tell = tell
        self.feed: Feed = backend.feed()
        self._crash = crash

    def send(self, label: str, *, priority: int | None = None, due: float | None = None, payload: Any = None) -> str:
        """Sends a task that listings will call ``label``."""
        self.clock.advance(TICK)
        return self.backend.send([codec.encode(Message(label, payload, None, priority, due))])[0]

    def look(self) -> None:
        """Lets the feed take in what is new."""
        if self.feed.fileno() is None:
            self.clock.advance(_POLL)
        self._tell(self.feed)
        while self.feed.refresh():
            pass

    def take(self, count: int = 1) -> list[Ticket]:
        """The next tickets; fails unless there are so many."""
        taken: list[Ticket] = []
        for _ in range(PATIENCE):
            self.look()
            taken += self.feed.take(count - len(taken))
            fd = self.feed.fileno()
            if len(taken) == count or fd is None:
                break
            readable(fd, 0.1)
        assert len(taken) == count, f"the feed gave {len(taken)} tickets of {count}"
        return taken

    def gives_nothing(self) -> bool:
        """Whether the feed, up to date, has nothing to run."""
        self.look()
        return not self.feed.take(1)

    def begin(self) -> Claim:
        """Claims the next task that can be, as a worker would."""
        while True:
            (ticket,) = self.take()
            claim = self.backend.claim(ticket.ref)
            if not isinstance(claim, Refusal):
                return claim
            self.refused(ticket, claim)

    def refused(self, ticket: Ticket, refusal: Refusal) -> None:
        """Lets the feed know that a ticket could not be claimed."""
        if refusal.kind is RefusalKind.BUSY:
            self.feed.busy(ticket.ref)
        else:
            self.feed.settled(ticket.ref, refusal.until)

    def end(self, claim: Claim, disposition: Disposition) -> float | None:
        """Settles a claim and lets the feed know; when it is to be looked at again."""
        until = self.backend.settle(claim, disposition)
        self.backend.flush()
        self.feed.settled(claim.ref, until)
        return until

    def crash(self, ref: str) -> None:
        """A worker dies while it runs a ticket that was taken; the supervisor notices."""
        self._crash(ref)
        self.feed.doubt()
        self.look()

    def order(self, count: int) -> list[str]:
        """The labels of the next tasks, in the order in which they are begun; they stay claimed."""
        return [codec.task_label(self.begin().envelope.vars) for _ in range(count)]

    def labels(self, *states: State) -> list[str]:
        """The labels that a listing of these states (all, if none is given) shows, in its order."""
        return [entry.task for entry in self.backend.entries(frozenset(states or State))]

    def state(self, id: str) -> State | None:
        """Where a task stands; None if it is gone."""
        entry = self.backend.find(id)
        return entry.state if entry else None

    def close(self) -> None:
        """Ends the feed."""
        self.feed.close()
