"""Hosts whose clocks are wrong. All times are measured by the clock of the server."""

import contextlib
import time
from collections.abc import Iterator

import pytest

from unspool import inspection
from unspool.address import Address
from unspool.backends.keyvalue import Until
from unspool.backends.postgres import PostgresBackend
from unspool.message import Ack, Claim, Content, Envelope, Refusal, RefusalKind, Retry, State
from unspool.settings import Settings
from unspool.testing.exchange import claim_one, sealed, settle_one

HOUR = 3600.0


class Wrong(PostgresBackend):
    """A backend on a host whose clock is wrong by a number of seconds."""

    def __init__(self, address: Address, ahead: float) -> None:
        super().__init__(address, Settings())
        self.ahead = ahead

    def local(self) -> float:
        """Return the time that the clock of the host shows."""
        return time.time() + self.ahead

    def _local(self) -> float:
        return self.local()


@pytest.fixture(params=[-HOUR, HOUR])
def wrong(request: pytest.FixtureRequest, address: Address) -> Iterator[Wrong]:
    """Yield a backend on a host whose clock is an hour slow or fast."""
    with contextlib.closing(Wrong(address, request.param)) as backend:
        yield backend


@pytest.fixture
def right(address: Address) -> Iterator[Wrong]:
    """Yield a backend on a host whose clock is right."""
    with contextlib.closing(Wrong(address, 0.0)) as backend:
        yield backend


def task(word: bytes, due: float | None = None) -> Envelope:
    return sealed(Content({"msg": b"task"}, word, None, due))


def number(id: str) -> str:
    return id.rpartition("/")[2]


def test_order_is_the_servers(right: Wrong, wrong: Wrong) -> None:
    """Tasks run in the order in which they were sent, whatever the clocks of the senders show."""
    sent = [number(each.send([task(b"x")])[0]) for each in (wrong, right, wrong, right)]
    with contextlib.closing(right.feed()) as feed:
        feed.refresh()
        assert [ticket.ref for ticket in feed.take(10)] == sent


def test_a_postponed_task_of_a_wrong_sender(right: Wrong, wrong: Wrong) -> None:
    """A deferred task is due after as many seconds as its sender means. No host starts it early."""
    soon = wrong.local() + 60
    (id,) = wrong.send([task(b"x", soon)])
    for backend in (right, wrong):
        entry = inspection.find(backend, id)
        assert entry is not None
        assert entry.state is State.DEFERRED
        assert entry.due == pytest.approx(time.time() + 60, abs=20)
        refused = claim_one(backend, number(id))
        assert isinstance(refused, Refusal)
        assert refused.kind is RefusalKind.EARLY
        assert refused.until == pytest.approx(backend.local() + 60, abs=20)


def test_an_overdue_task_of_a_wrong_sender(right: Wrong, wrong: Wrong) -> None:
    """A due time that is past for the sender is past for all hosts, and determines the order."""
    late = number(right.send([task(b"late")])[0])
    early = number(wrong.send([task(b"early", wrong.local() - 60)])[0])
    with contextlib.closing(right.feed()) as feed:
        feed.refresh()
        assert [ticket.ref for ticket in feed.take(10)] == [early, late]


def test_an_item_of_a_wrong_process(right: Wrong, wrong: Wrong) -> None:
    """An item lasts as many seconds as its process means, for all processes."""
    version = wrong.kv.put("new", b"", life=Until(wrong.local() + 60))
    assert version
    assert wrong.kv.put("replaced", b"", expect=wrong.kv.put("replaced", b""), life=Until(wrong.local() + 60))
    wrong.kv.put("past", b"", life=Until(wrong.local() - 60))
    for backend in (right, wrong):
        assert [key for key, _ in backend.kv.scan("")] == ["new", "replaced"]
        with backend.connector.lend() as connection:
            rows = backend.kv._read(connection, ["new", "replaced"]).values()  # noqa: SLF001  the time that is left
        assert [row.rest for row in rows] == 2 * [pytest.approx(60, abs=20)]


def test_a_wrong_worker_retries_in_time(right: Wrong, wrong: Wrong) -> None:
    """The back-off is as long as the worker means, and no host starts the task earlier."""
    ref = number(wrong.send([task(b"x")])[0])
    claim = claim_one(wrong, ref)
    assert isinstance(claim, Claim)
    settle_one(wrong, claim, Retry(wrong.local() + 60))
    refused = claim_one(right, ref)
    assert isinstance(refused, Refusal)
    assert refused.kind is RefusalKind.EARLY
    assert refused.until == pytest.approx(time.time() + 60, abs=20)


def test_a_wrong_supervisor_wakes_in_time(right: Wrong, wrong: Wrong) -> None:
    """A feed returns, by the clock of its host, when the next task is due by the clock of the server."""
    right.send([task(b"x", time.time() + 60)])
    with contextlib.closing(wrong.feed()) as feed:
        feed._clock = wrong.local  # type: ignore[attr-defined]  # noqa: SLF001  the clock of the host
        state = feed.refresh()
        assert feed.take(1) == []
        assert state.next_due == pytest.approx(wrong.local() + min(60, wrong.switch().period), abs=20)


def test_a_wrong_worker_serves_what_is_due(right: Wrong, wrong: Wrong) -> None:
    """A task that is due by the clock of the server runs on every host."""
    ref = number(right.send([task(b"x")])[0])
    with contextlib.closing(wrong.feed()) as feed:
        feed._clock = wrong.local  # type: ignore[attr-defined]  # noqa: SLF001  the clock of the host
        feed.refresh()
        assert [ticket.ref for ticket in feed.take(1)] == [ref]
        claim = claim_one(wrong, ref)
        assert isinstance(claim, Claim)
        settle_one(wrong, claim, Ack())
    assert sum(right.counts().tasks.values()) == 0
