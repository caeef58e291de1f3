"""Seals: the bytes of a task survive storage, and a task with an invalid seal is set aside with a reason."""

import pytest

from ... import codec, inspection
from ...backends.change import RunNow
from ...message import Claim, Message, Refusal, RefusalKind, State
from ...seal import Seal
from ...signing import Signer
from ..exchange import claim_one, sealed
from .harness import BackendTests, Queue

__all__ = ["SigningTests"]

_QUEUE = "mail"
_NEW, _OLD = "new " * 10, "old " * 10
_MINUTE = 60.0  # after which no backend treats a task as still being written


def _seal(*keys: str, queue: str = _QUEUE) -> Seal:
    """Return the seal of a process with these keys."""
    return Seal(queue, Signer(keys, queue) if keys else None)


class SigningTests(BackendTests):
    """One process sends a task, and another one, with other keys, claims it."""

    @staticmethod
    def _send(queue: Queue, seal: Seal) -> str:
        return queue.backend.send([sealed(codec.encode(Message("task", {"to": "ann"}, priority=5)), seal)])[0]

    @staticmethod
    def _claim(queue: Queue, seal: Seal) -> Claim | Refusal:
        """Return the claim or refusal of the only task for a worker with this seal."""
        queue.clock.advance(_MINUTE)
        (ticket,) = queue.take()
        answer = claim_one(queue.backend, ticket.ref, seal)
        if isinstance(answer, Refusal):
            queue.refused(ticket, answer)
        return answer

    def test_signed(self, queue: Queue) -> None:
        """A worker with the key gets the content as it was sent."""
        self._send(queue, _seal(_NEW))
        claim = self._claim(queue, _seal(_NEW))
        assert isinstance(claim, Claim)
        sent = codec.encode(Message("task", {"to": "ann"}, priority=5))
        content = _seal(_NEW).open(claim.envelope)
        assert (content.vars, content.body, content.priority, content.sealed) == (sent.vars, sent.body, 5, True)

    def test_rotation(self, queue: Queue) -> None:
        """The first key signs and all keys verify, so a task signed with the old key still runs."""
        self._send(queue, _seal(_OLD))
        assert isinstance(self._claim(queue, _seal(_NEW, _OLD)), Claim)

    def test_without_a_key(self, queue: Queue) -> None:
        """A worker without a key runs signed tasks."""
        self._send(queue, _seal(_NEW))
        assert isinstance(self._claim(queue, _seal()), Claim)

    @pytest.mark.parametrize(
        ("sender", "reason"),
        [((), "unsigned"), ((_OLD,), "signature does not match"), ((_OLD, _NEW), "signature does not match")],
        ids=["unsigned", "another key", "another key first"],
    )
    def test_not_ours(self, queue: Queue, sender: tuple[str, ...], reason: str) -> None:
        """A task that no key of the worker has signed becomes corrupt with a reason. No attempt is counted."""
        id = self._send(queue, _seal(*sender))
        refusal = self._claim(queue, _seal(_NEW))
        assert isinstance(refusal, Refusal)
        assert refusal.kind is RefusalKind.CORRUPT
        entry = inspection.find(queue.backend, id)
        assert entry is not None
        assert (entry.state, entry.attempts) == (State.CORRUPT, 0)
        assert reason in entry.reason
        assert reason in refusal.detail

    def test_another_queue(self, queue: Queue) -> None:
        """A task signed for one queue is refused in another."""
        self._send(queue, _seal(_NEW, queue="bulk"))
        refusal = self._claim(queue, _seal(_NEW))
        assert isinstance(refusal, Refusal)
        assert refusal.detail == "signed for the queue 'bulk', and this is 'mail'"

    def test_a_pickle_is_refused(self, queue: Queue) -> None:
        """A worker sets a pickle aside if its spooler is on a server and has no secret key."""
        self._send(queue, _seal())
        refusal = self._claim(queue, Seal(_QUEUE, None, pickles=False))
        assert isinstance(refusal, Refusal)
        assert refusal.kind is RefusalKind.CORRUPT
        assert "pickled" in refusal.detail

    def test_retried_with_its_key(self, queue: Queue) -> None:
        """A task refused for its signature runs after its key has been added and it is retried."""
        id = self._send(queue, _seal(_OLD))
        refusal = self._claim(queue, _seal(_NEW))
        assert isinstance(refusal, Refusal)
        queue.backend.change(id, RunNow())
        assert isinstance(self._claim(queue, _seal(_NEW, _OLD)), Claim)
