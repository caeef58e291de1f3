"""Signed tasks: with a secret key, what its holders sent is run, and nothing else is even decoded."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ... import codec
from ...backends.base import Backend
from ...message import Claim, Message, Refusal, RefusalKind, State
from ...signing import Signer
from ..clock import FakeClock
from .harness import Ground

__all__ = ["SigningTests"]

_QUEUE = "mail"
_NEW, _OLD = "new " * 10, "old " * 10
_MINUTE = 60.0  # after which no ground takes a task for one that is still being written

Having = Callable[..., Backend]


class SigningTests(Ground):
    """A backend that was made with a signer. ``having(*keys)`` is another process's view of the queue, with these."""

    @pytest.fixture
    def having(self, backend: Backend, clock: FakeClock, tmp_path: Path) -> Iterator[Having]:
        """Makes views of one queue by processes that have different keys."""
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
        """What a worker that has this backend gets of the only task."""
        clock.advance(_MINUTE)
        feed = backend.feed()
        while feed.refresh():
            pass
        (ticket,) = feed.take(2)
        answer = backend.claim(ticket.ref)
        feed.close()
        return answer

    def test_signed(self, having: Having, clock: FakeClock) -> None:
        """Who has the key gets the envelope as it was sent."""
        sent = codec.encode(Message("task", {"to": "ann"}, priority=5))
        having(_NEW).send([sent])
        claim = self._claim(having(_NEW), clock)
        assert isinstance(claim, Claim)
        assert (claim.envelope.vars, claim.envelope.body, claim.envelope.sealed) == (sent.vars, sent.body, True)

    def test_rotation(self, having: Having, clock: FakeClock) -> None:
        """The first key signs, all verify: so what was signed with the old one is still run."""
        having(_OLD).send([codec.encode(Message("task"))])
        assert isinstance(self._claim(having(_NEW, _OLD), clock), Claim)

    def test_without_a_key(self, having: Having, clock: FakeClock) -> None:
        """A worker that has no key yet runs what is signed already."""
        having(_NEW).send([codec.encode(Message("task"))])
        assert isinstance(self._claim(having(), clock), Claim)

    @pytest.mark.parametrize(
        ("sender", "reason"),
        [((), "unsigned"), ((_OLD,), "signature does not match"), ((_OLD, _NEW), "signature does not match")],
        ids=["unsigned", "another key", "another key first"],
    )
    def test_not_ours(self, having: Having, clock: FakeClock, sender: tuple[str, ...], reason: str) -> None:
        """What no key of the worker's has signed is set aside, and a listing says why. No attempt is counted."""
        (id,) = having(*sender).send([codec.encode(Message("task"))])
        worker = having(_NEW)
        refusal = self._claim(worker, clock)
        assert isinstance(refusal, Refusal)
        assert refusal.kind is RefusalKind.CORRUPT
        entry = worker.find(id)
        assert entry is not None
        assert (entry.state, entry.attempts) == (State.CORRUPT, 0)
        assert reason in entry.reason
        assert reason in refusal.detail

    def test_another_queue(self, having: Having, clock: FakeClock) -> None:
        """A task that was signed for one queue is none in another."""
        having(_NEW, queue="bulk").send([codec.encode(Message("task"))])
        refusal = self._claim(having(_NEW), clock)
        assert isinstance(refusal, Refusal)
        assert refusal.detail == "signed for the queue 'bulk', and this is 'mail'"

    def test_brought_back(self, having: Having, clock: FakeClock) -> None:
        """A task that was set aside for its signature runs when its key has been added."""
        (id,) = having(_OLD).send([codec.encode(Message("task"))])
        assert isinstance(self._claim(having(_NEW), clock), Refusal)
        worker = having(_NEW, _OLD)
        worker.retry(id)
        assert isinstance(self._claim(worker, clock), Claim)
