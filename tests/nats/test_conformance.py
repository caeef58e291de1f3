"""The conformance suite on NATS JetStream, with a real server.

The clock is the tests' own here, so the feeds hold deferred tasks themselves; that the server keeps them back is tested
in ``tests/nats``.
"""

import hashlib
from pathlib import Path

import pytest

from tests.nats.server import Server
from unspool import address
from unspool.backends.base import Backend, Clock
from unspool.backends.nats import NatsBackend
from unspool.backends.nats.jetstream import JetStream
from unspool.backends.nats.stored import HEADER
from unspool.settings import Settings
from unspool.testing import BackendConformance


class TestNats(BackendConformance):
    @pytest.fixture(autouse=True)
    def server(self, nats_server: Server) -> None:
        self.url = nats_server.url

    def make_backend(self, clock: Clock, place: Path) -> Backend:
        spooler = hashlib.sha256(str(place).encode()).hexdigest()[:12]
        where = address.parse(f"{self.url}?spooler={spooler}&lease=3")
        more = {"schedules": False, "hold": float("inf"), "look": 0.0, "window": 1000}
        return NatsBackend(where, Settings(), clock=clock, **more)

    def damage(self, backend: Backend, id: str) -> None:
        assert isinstance(backend, NatsBackend)
        place, token = backend.cluster, id.rpartition("/")[2]

        def alter(stream: JetStream) -> None:
            subject = place.names.task("*", "*", token)
            stored = stream.last(place.names.tasks, subject)
            assert stored is not None
            data = stored.data[:-1] + bytes([stored.data[-1] ^ 1])
            stream.publish(place.names.tasks, stored.subject, data, {HEADER: stored.header})
            stream.delete(place.names.tasks, stored.seq)

        place.call(alter)
