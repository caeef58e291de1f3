"""Signed tasks: with a secret key, only tasks signed with a known key are decoded and run."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ... import codec, inspection
from ...backends.base import Backend
from ...backends.change import RunNow
from ...message import Claim, Message, Refusal, RefusalKind, State
from ...signing import Signer
from ..clock import FakeClock
from ..exchange import claim_one
from .harness import Ground

__all__ = ["SigningTests"]

_QUEUE = "mail"
_NEW, _OLD = "new " * 10, "old " * 10
_MINUTE = 60.0  # after which no backend treats a task as still being written

Having = Callable[..., Backend]


class SigningTests(Ground):
    """A backend with a signer. ``having(*keys)`` returns another process's view of the queue with these keys."""

    @pytest.fixture
    def having(self, backend: Backend, clock: FakeClock, tmp_path: Path) -> Iterator[Having]:
        """Yield a function that returns views of one queue by processes with different keys."""
        if not (backend.capabilities.forks and backend.capabilities.feeds):
            pytest.skip("no other process sees this backend's tasks, or hands them out")
        made: list[Backend] = []

        def having(*keys: str, queue: str = _QUEUE) -> Backend:
            made.append(self.make_backend(clock, tmp_path, Signer(keys, queue) if keys else None))
            return made[-1]

        yield having
        for one in made:
            one.close()

    def _claim(self, backend: Backend, clock: FakeClock) -> Claim | Refusal:
        """Return the claim or refusal of the only task for a worker with this backend."""
        clock.advance(_MINUTE)
        feed = backend.feed()
        while feed.refresh().more:
            pass
        (ticket,) = feed.take(2)
        answer = claim_one(backend, ticket.ref)
        feed.close()
        return answer

    def test_signed(self, having: Having, clock: FakeClock) -> None:
        """A worker with the key gets the envelope as it was sent."""
        sent = codec.encode(Message("task", {"to": "ann"}, priority=5))
        having(_NEW).send([sent])
        claim = self._claim(having(_NEW), clock)
        assert isinstance(claim, Claim)
        assert (claim.envelope.vars, claim.envelope.body, claim.envelope.sealed) == (sent.vars, sent.body, True)

    def test_rotation(self, having: Having, clock: FakeClock) -> None:
        """The first key signs and all keys verify, so a task signed with the old key still runs."""
        having(_OLD).send([codec.encode(Message("task"))])
        assert isinstance(self._claim(having(_NEW, _OLD), clock), Claim)

    def test_without_a_key(self, having: Having, clock: FakeClock) -> None:
        """A worker without a key runs signed tasks."""
        having(_NEW).send([codec.encode(Message("task"))])
        assert isinstance(self._claim(having(), clock), Claim)

    @pytest.mark.parametrize(
        ("sender", "reason"),
        [((), "unsigned"), ((_OLD,), "signature does not match"), ((_OLD, _NEW), "signature does not match")],
        ids=["unsigned", "another key", "another key first"],
    )
    def test_not_ours(self, having: Having, clock: FakeClock, sender: tuple[str, ...], reason: str) -> None:
        """A task that no key of the worker has signed becomes corrupt with a reason. No attempt is counted."""
        (id,) = having(*sender).send([codec.encode(Message("task"))])
        worker = having(_NEW)
        refusal = self._claim(worker, clock)
        assert isinstance(refusal, Refusal)
        assert refusal.kind is RefusalKind.CORRUPT
        entry = inspection.find(worker, id)
        assert entry is not None
        assert (entry.state, entry.attempts) == (State.CORRUPT, 0)
        assert reason in entry.reason
        assert reason in refusal.detail

    def test_another_queue(self, having: Having, clock: FakeClock) -> None:
        """A task signed for one queue is refused in another."""
        having(_NEW, queue="bulk").send([codec.encode(Message("task"))])
        refusal = self._claim(having(_NEW), clock)
        assert isinstance(refusal, Refusal)
        assert refusal.detail == "signed for the queue 'bulk', and this is 'mail'"

    def test_brought_back(self, having: Having, clock: FakeClock) -> None:
        """A task refused for its signature runs after its key has been added and it is retried."""
        (id,) = having(_OLD).send([codec.encode(Message("task"))])
        assert isinstance(self._claim(having(_NEW), clock), Refusal)
        worker = having(_NEW, _OLD)
        worker.change(id, RunNow())
        assert isinstance(self._claim(worker, clock), Claim)
