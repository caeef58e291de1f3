"""Transfers: late processes, workers that begin a task at the same time, and messages of other programs."""

import re
from typing import Any

import pytest

from tests.nats.conftest import Open
from unspool import codec, inspection
from unspool.backends.change import RunNow
from unspool.backends.depot import Parcel
from unspool.backends.nats import NatsBackend, depot
from unspool.backends.nats.jetstream import JetStream
from unspool.backends.nats.stored import HEADER
from unspool.errors import PayloadRefused
from unspool.message import Claim, Message, Refusal, RefusalKind, Retry, State
from unspool.testing.exchange import claim_one, sealed, settle_one


def send(backend: NatsBackend) -> str:
    """Send a task, and return its id."""
    return backend.send([sealed(codec.encode(Message("task")))])[0]


def test_a_late_carrier_changes_nothing(url: str, opened: Open) -> None:
    """If another process has taken over a transfer, no further step of the first one has an effect."""
    one, other = opened(url), opened(url)
    id = send(one)
    late = one.depot.leave([id])
    depot._carried.clear()  # noqa: SLF001  as if its process had died
    (taken,) = other.depot.departures()
    assert taken.key == late[0].key
    assert one.depot.left(late, "there") == []
    (noted,) = other.depot.left([taken], "elsewhere")
    one.depot.stay(late)
    one.depot.gone(late)
    (entry,) = inspection.tasks(other)
    assert "is being moved" in entry.reason
    other.depot.gone([noted])
    assert list(inspection.tasks(other)) == []


def test_a_worker_that_is_just_beginning(url: str, opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that has read a task before its transfer finds that it is gone, and does not run it."""
    worker, carrier = opened(url), opened(url)
    id = send(worker)
    first = claim_one(worker, id.rpartition("/")[2])
    assert isinstance(first, Claim)
    settle_one(worker, first, Retry(0.0))  # otherwise the record is written before the task is read
    publish, left, begun = JetStream.publish, list[Parcel](), list[str]()

    def late(self: JetStream, stream: str, subject: str, *rest: Any, **more: Any) -> int:
        if f".run.{id.rpartition('/')[2]}" in subject and not begun:
            begun.append(subject)
            left.extend(carrier.depot.leave([id]))
            carrier.depot.gone(carrier.depot.left(left, "there"))
        return publish(self, stream, subject, *rest, **more)

    monkeypatch.setattr(JetStream, "publish", late)
    refusal = claim_one(worker, id.rpartition("/")[2])
    assert isinstance(refusal, Refusal)
    assert refusal.kind is RefusalKind.GONE
    assert len(left) == 1
    assert list(inspection.tasks(worker)) == []


def test_what_was_put_back_and_accepted_again(url: str, opened: Open) -> None:
    """A task that is accepted twice, the second time as dead, is stored once and can be retried."""
    source, here = opened(url), opened(url.replace("spooler=", "spooler=to-"))
    (parcel,) = source.depot.leave([send(source)])
    here.depot.accept([parcel])
    dead = parcel._replace(state=State.DEAD, reason="no luck", attempts=3)
    here.depot.accept([dead])
    here.depot.confirm([dead])
    (entry,) = inspection.tasks(here)
    assert (entry.state, entry.reason, entry.attempts) == (State.DEAD, "no luck", 3)
    here.change(entry.id, RunNow())
    assert {state: count for state, count in here.counts().tasks.items() if count} == {State.READY: 1}


def test_what_is_too_large(backend: NatsBackend) -> None:
    """A task larger than the servers' limit is refused, and no task of its batch is listed."""
    parcel = Parcel("key", "elsewhere/1", State.CORRUPT, bytes(8 << 20), None, 0.0)
    with pytest.raises(PayloadRefused, match="raise max_payload"):
        backend.depot.accept([parcel])
    assert sum(backend.counts().tasks.values()) == 0


@pytest.mark.parametrize("header", ["", "no JSON", '{"due": 1, "attempts": 0, "crashes": 0, "passage": ["a*b", 1]}'])
def test_what_anybody_wrote(backend: NatsBackend, header: str) -> None:
    """A message that leaves by its subject alone is shown, and is taken on under a good key."""

    def write(stream: JetStream) -> None:
        subject = backend.cluster.names.task("leaving", "none", "forged")
        stream.publish(backend.cluster.names.tasks, subject, b"what", {HEADER: header})

    backend.cluster.call(write)
    entry = inspection.find(backend, "forged")
    assert entry is not None
    assert "is being moved" in entry.reason
    (parcel,) = backend.depot.departures()
    assert (parcel.data, parcel.destination) == (b"what", "")
    assert re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", parcel.key)
