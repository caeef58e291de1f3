"""The PostgreSQL backend behaves like the memory backend; see ``tests/conformance/test_state_machine.py``."""

import subprocess
from typing import ClassVar

import psycopg
import pytest
from hypothesis import HealthCheck, settings

from unspool.backends.postgres import PostgresBackend
from unspool.backends.postgres.names import Names
from unspool.backends.postgres.session import CLAIMS
from unspool.message import Claim, Disposition, Refusal
from unspool.settings import Settings
from unspool.testing.exchange import claim_one, settle_one

from ..conformance.test_state_machine import LikeMemory
from .conftest import queue_in


def ended_process() -> int:
    """Return the pid of a process that has ended."""
    ended = subprocess.Popen(["true"])
    ended.wait()
    return ended.pid


class PostgresLikeMemory(LikeMemory):
    """Each claim is made by a worker with its own session, which can be killed."""

    url: ClassVar[str]

    def __init__(self) -> None:
        self.address = queue_in(self.url)
        self.free: list[PostgresBackend] = []
        self.working: dict[str, PostgresBackend] = {}
        super().__init__()

    def make(self) -> PostgresBackend:
        return PostgresBackend(self.address, Settings(), clock=self.clock)

    def open(self) -> None:
        self.spool = self.make()
        self.feed = self.spool.feed()

    def claim(self, ref: str) -> Claim | Refusal:
        worker = self.free.pop() if self.free else self.make()
        claim = claim_one(worker, ref)
        if isinstance(claim, Claim):
            self.working[ref] = worker
        else:
            self.free.append(worker)
        return claim

    def settle_claim(self, claim: Claim, disposition: Disposition) -> float | None:
        worker = self.working.pop(claim.ref)
        until = settle_one(worker, claim, disposition)
        self.free.append(worker)
        return until

    def kill(self, claim: Claim) -> None:
        worker = self.working.pop(claim.ref)
        connection = worker.session.connection
        assert connection is not None
        connection.close()
        with psycopg.connect(self.url) as control:  # waits for the lock: the server has noticed when it gives it
            control.execute("SELECT pg_advisory_xact_lock(%s)", [CLAIMS + claim.token])
            # This process plays the worker and lives on; a worker that lives keeps its task without a session.
            keys = [worker.session.known_key(role) for role in ("worker", "claim")]
            control.execute("UPDATE unspool.process SET pid = %s WHERE key = ANY(%s)", [ended_process(), keys])

    def look(self) -> None:
        self.spool.session.rows("switches", Names(self.address).values())  # brings all notifications along
        super().look()

    def clean(self) -> None:
        for worker in self.free:
            worker.close()


PostgresLikeMemory.TestCase.settings = settings(
    max_examples=10,
    stateful_step_count=25,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)


@pytest.mark.timeout(600)
class TestPostgresLikeMemory(PostgresLikeMemory.TestCase):
    """No random sequence of commands has different results on the two backends."""

    @pytest.fixture(autouse=True)
    def there(self, database: str) -> None:
        PostgresLikeMemory.url = database
