"""The memory backend passes the conformance suite."""

from pathlib import Path

from unspool.backends.base import Backend, Clock
from unspool.backends.memory import MemoryBackend
from unspool.message import Claim
from unspool.testing import BackendConformance
from unspool.testing.exchange import claim_one


class TestMemory(BackendConformance):
    def make_backend(self, clock: Clock, place: Path) -> Backend:
        return MemoryBackend(clock=clock)

    def damage(self, backend: Backend, id: str) -> None:
        assert isinstance(backend, MemoryBackend)
        data = backend.stored(id)
        backend.alter(id, data[:-1] + bytes([data[-1] ^ 1]))

    def crash(self, backend: Backend, ref: str) -> None:
        assert isinstance(backend, MemoryBackend)
        claim = claim_one(backend, ref)
        assert isinstance(claim, Claim)
        backend.crash(claim)
