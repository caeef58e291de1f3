"""Sending: acknowledged tasks are stored completely and in order."""

import threading

from ... import codec, inspection
from ...backends.base import REF_SIZE, Backend
from ...message import Content, Message, Record, State
from ..clock import FakeClock
from ..exchange import content_of, sealed
from .harness import TICK, BackendTests, Queue

__all__ = ["SendingTests"]


class SendingTests(BackendTests):
    """``Backend.send``."""

    def test_ids_come_in_order(self, backend: Backend) -> None:
        """A batch returns one id per task, in order and all different, and each finds its own task."""
        ids = backend.send([sealed(codec.encode(Message(f"task {number}"))) for number in range(20)])
        entries = [inspection.find(backend, id) for id in ids]
        assert len(set(ids)) == 20
        assert [entry and entry.task for entry in entries] == [f"task {number}" for number in range(20)]

    def test_nothing_to_send(self, backend: Backend) -> None:
        """Sending no tasks returns no ids and changes nothing."""
        assert backend.send([]) == []
        assert sum(backend.counts().tasks.values()) == 0

    def test_a_mixed_batch(self, queue: Queue) -> None:
        """Priorities and due times may be mixed in a batch."""
        later = queue.clock() + 60
        queue.backend.send(
            [
                sealed(Content({"msg": b"plain"}, b"", None, None)),
                sealed(Content({"msg": b"later"}, b"", 1, later)),
                sealed(Content({"msg": b"urgent"}, b"", 0, None)),
            ]
        )
        queue.clock.advance(TICK)
        assert queue.labels(State.READY) == ["urgent", "plain"]
        assert queue.labels(State.DEFERRED) == ["later"]

    def test_bytes_arrive_unchanged(self, queue: Queue) -> None:
        """Variables and body are returned as they were sent: empty, binary, or with a name that is not ASCII."""
        vars = {"msg": b"bytes", "empty": b"", "binary": bytes(range(256)), "clé": "é".encode()}
        queue.backend.send([sealed(Content(vars, bytes(range(256)) * 3, None, None))])
        content = content_of(queue.begin())
        assert dict(content.vars) == vars
        assert content.body == bytes(range(256)) * 3
        assert content.sealed

    def test_any_size(self, queue: Queue) -> None:
        """A message of more than 64 KiB, the limit of the variables, and a body of megabytes are accepted."""
        text, payload = "m" * 100_000, b"p" * 3_000_000
        queue.backend.send([sealed(codec.encode(Message(text, payload)))])
        message = codec.decode(content_of(queue.begin()))
        assert message.message == text
        assert message.payload == payload

    def test_refs_are_short(self, queue: Queue) -> None:
        """A ref fits into the records that processes exchange."""
        queue.send("task", priority=999_999_999)
        (ticket,) = queue.take()
        assert 0 < len(ticket.ref.encode()) <= REF_SIZE

    def test_after_close(self, backend: Backend) -> None:
        """A closed backend can be used again. Closing only releases resources."""
        backend.close()
        (id,) = backend.send([sealed(codec.encode(Message("task")))])
        backend.record([Record(id, "task", "processed", 1, 1.0, 1.0, 1)])
        for _ in range(2):
            backend.close()
        assert inspection.find(backend, id) is not None

    def test_many_threads(self, backend: Backend, clock: FakeClock) -> None:
        """Threads may send concurrently. No task is lost, and no two share an id."""
        ids: list[str] = []

        def send() -> None:
            for _ in range(25):
                ids.extend(backend.send([sealed(codec.encode(Message("task")))]))

        threads = [threading.Thread(target=send) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        clock.advance(TICK)
        assert len(set(ids)) == 100
        assert backend.counts().tasks[State.READY] == 100
