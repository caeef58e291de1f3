"""The NATS backend behaves like the memory backend for random sequences of commands: see ``tests/conformance``."""

import uuid

import pytest
from hypothesis import HealthCheck, settings

from tests.conformance.test_state_machine import SpoolLikeMemory, Task
from tests.nats.conftest import crash, until
from tests.nats.server import Server
from unspool import address
from unspool.backends.nats import NatsBackend
from unspool.backends.nats.feed import NatsFeed
from unspool.message import State
from unspool.settings import Settings


class NatsLikeMemory(SpoolLikeMemory):
    url = ""

    def open(self) -> None:
        self.where = getattr(self, "where", None) or f"{self.url}?spooler=m{uuid.uuid4().hex}"
        more = {"schedules": False, "hold": float("inf"), "look": 0.0, "window": 1000}
        self.spool = NatsBackend(address.parse(self.where), Settings(), clock=self.clock, **more)  # type: ignore[arg-type, assignment]
        feed = self.spool.feed()
        assert isinstance(feed, NatsFeed)
        self.feed = feed  # type: ignore[assignment]
        waiting = self.memory.counts().tasks[State.READY] + self.memory.counts().tasks[State.DEFERRED]
        # What the last feed has released takes a moment.
        until(lambda: not feed.refresh().more and len(feed._held) == waiting)  # noqa: SLF001  what the feed holds itself

    def die(self, task: Task) -> None:
        """Store what remains after a worker was killed: the record of a run whose process has ended."""
        assert task.held
        here, there = task.held
        crash(self.spool, here.ref)  # type: ignore[arg-type]
        self.memory.crash(there)
        task.held = None


NatsLikeMemory.TestCase.settings = settings(
    max_examples=6,
    stateful_step_count=25,
    deadline=None,
    derandomize=False,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)


@pytest.fixture(autouse=True)
def server(nats_server: Server) -> None:
    """Set the server of the queues."""
    NatsLikeMemory.url = nats_server.url


@pytest.mark.timeout(600)  # a failure takes minutes to be made small
class TestNatsLikeMemory(NatsLikeMemory.TestCase):
    """No random sequence of commands has different results on the two backends."""
