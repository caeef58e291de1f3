"""A server whose storage is full: workers continue, which frees storage."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest

from tests.nats.conftest import Open, at, number, queue_on, tasks_of, until
from tests.nats.server import Server
from tests.runtime.conftest import Place
from unspool import codec, inspection
from unspool.backends.change import Remove
from unspool.backends.nats import NatsBackend
from unspool.backends.nats.jetstream import JetStream
from unspool.backends.nats.names import ARRIVING, DEAD, LATER, SOON, on_the_way
from unspool.backends.nats.overdue import Overdue
from unspool.backends.nats.requests import Unreachable
from unspool.errors import SpoolerUnusable
from unspool.message import Ack, Claim, Message, State
from unspool.testing.exchange import claim_one, sealed, settle_one

APP = """
    @Spooler.task
    def done(text): note("done"); return True
"""

POSTPONED = 5


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Server]:
    """Yield a server with little storage."""
    server = Server(tmp_path / "server", storage="4MB").start()
    yield server
    server.remove()


@pytest.fixture
def full(small: Server, place: Place, opened: Open) -> NatsBackend:
    """Return a place whose spooler has filled the storage."""
    url = queue_on(small.url)
    at(place, url).write_app(APP)
    place.call("""
        from unspool.errors import SpoolerUnusable
        try:
            while True: done("x" * 20000)
        except SpoolerUnusable as error:
            note("refused", error)
    """)
    (line,) = place.lines()
    assert "the storage is full" in line
    return opened(url)


def test_workers_that_start_make_room(full: NatsBackend, place: Place) -> None:
    """Workers run all tasks even if they start when there is no room for a registration or a record.

    The reserve is restored afterwards.
    """
    waiting = full.counts().tasks[State.READY]
    assert waiting > 50
    running = place.run()
    until(lambda: place.lines().count("done") == waiting)
    until(lambda: not sum(full.counts().tasks.values()))
    assert running.stop() == 0
    assert reserves(full) == 0
    assert place.run("--burst").end() == 0
    assert reserves(full) == 1


def test_no_reserve(full: NatsBackend, place: Place) -> None:
    """Without a reserve, a supervisor starts and logs why it runs nothing.

    It runs tasks once a user has removed some.
    """
    drop_reserve(full)
    with pytest.raises(SpoolerUnusable, match="the storage is full"):
        full.send([sealed(codec.encode(Message("task", "x" * 20000))) for _ in range(100)])
    running = place.run()
    running.wait_for_message("no task is begun until there is room: NATS at")
    for entry in list(inspection.tasks(full))[-10:]:
        full.change(entry.id, Remove())
    place.wait_for_line("done")
    running.signal(signal.SIGKILL)


def test_a_batch_for_which_there_is_no_room(small: Server, opened: Open) -> None:
    """The error says which tasks of the batch are stored, so that only the others need to be sent again."""
    backend = opened(queue_on(small.url))
    before = backend.send([sealed(codec.encode(Message("task", "x" * 3000))) for _ in range(10)])
    with pytest.raises(SpoolerUnusable, match="the storage is full") as caught:
        backend.send([sealed(codec.encode(Message("task", "x" * 3000))) for _ in range(2000)])
    assert len(caught.value.sent) > 500  # more than are under way at once
    assert {entry.id for entry in inspection.tasks(backend)} == {*before, *caught.value.sent}


def reserves(backend: NatsBackend) -> int:
    """Return the number of reserves."""
    return number(backend, on_the_way(ARRIVING, DEAD))


def drop_reserve(backend: NatsBackend) -> None:
    """Delete the reserve, as workers without room do."""
    assert backend.cluster.call(backend.cluster.reserve._spend)  # noqa: SLF001  the last resort of a worker


def fill(backend: NatsBackend) -> None:
    """Send tasks until the storage is full."""
    with pytest.raises(SpoolerUnusable, match="the storage is full"):
        backend.send([sealed(codec.encode(Message("task", "x" * 200_000))) for _ in range(100)])


def empty(backend: NatsBackend) -> None:
    """Delete all tasks."""
    backend.cluster.call(lambda stream: stream.api(f"STREAM.PURGE.{backend.cluster.names.tasks}"))


@pytest.fixture
def other(small: Server, opened: Open) -> NatsBackend:
    """Return another spooler, which fills the storage."""
    return opened(queue_on(small.url))


@pytest.fixture
def withheld(small: Server, other: NatsBackend, place: Place, opened: Open) -> NatsBackend:
    """Return a spooler whose deferred tasks have become due while the storage is full."""
    url = queue_on(small.url, "&lease=2")
    at(place, url).write_app(APP)
    backend, due = opened(url), time.time() + 3
    place.call(f"""
        from datetime import datetime
        for _ in range({POSTPONED}): done.using(postpone=datetime.fromtimestamp({due}))("")
    """)
    fill(other)
    until(lambda: time.time() > due)
    return backend


def test_what_becomes_due_while_the_storage_is_full(withheld: NatsBackend, place: Place) -> None:
    """If the server cannot release deferred tasks, a supervisor with the reserve runs each of them once."""
    running = place.run()
    place.wait_for_line("done", POSTPONED)
    until(lambda: not sum(withheld.counts().tasks.values()))
    assert running.stop() == 0
    assert place.lines() == ["done"] * POSTPONED


def test_what_becomes_due_while_there_is_no_reserve(withheld: NatsBackend, other: NatsBackend, place: Place) -> None:
    """Deferred tasks that the server cannot release are listed as deferred.

    A supervisor runs them as soon as there is room, without a restart, and logs that they are late.
    """
    drop_reserve(withheld)
    fill(other)
    running = place.run()
    running.wait_for_message("no task is begun until there is room: NATS at")
    assert withheld.counts().tasks == dict.fromkeys(State, 0) | {State.DEFERRED: POSTPONED}
    assert [entry.state for entry in inspection.tasks(withheld)] == [State.DEFERRED] * POSTPONED
    assert all(entry.due < time.time() for entry in inspection.tasks(withheld))
    empty(other)
    running.wait_for(lambda line: f"kept {POSTPONED} tasks back beyond their time" in line["message"])
    place.wait_for_line("done", POSTPONED)
    until(lambda: not sum(withheld.counts().tasks.values()))
    assert running.stop() == 0
    assert place.lines() == ["done"] * POSTPONED
    assert reserves(withheld) == 1


@pytest.mark.parametrize("restarted", [False, True])
def test_a_supervisor_that_dies_when_it_lets_tasks_out(
    withheld: NatsBackend, other: NatsBackend, small: Server, monkeypatch: pytest.MonkeyPatch, restarted: bool
) -> None:
    """A task that a supervisor has released runs once, even if a restarted server releases it as well."""
    empty(other)
    overdue, names = Overdue(withheld.cluster, tasks_of(withheld)), withheld.cluster.names

    def dies() -> bool:
        try:
            withheld.cluster.call(lambda stream: list(overdue.look(stream)))
        except Unreachable:
            return True
        return False

    with monkeypatch.context() as patch:
        patch.setattr(JetStream, "delete", Mock(side_effect=Unreachable("the supervisor is killed")))
        until(dies)
    assert number(withheld, SOON) == 1
    if restarted:
        small.kill()
        small.start()
        until(lambda: withheld.cluster.call(lambda stream: not stream.open().closed))
        until(lambda: number(withheld, LATER) == 0)
    else:
        withheld.cluster.call(lambda stream: list(overdue.look(stream)))
    ids = {entry.id for entry in inspection.tasks(withheld)}
    assert len(ids) == POSTPONED
    for id in ids:
        claim = claim_one(withheld, id.rpartition("/")[2])
        assert isinstance(claim, Claim), claim
        settle_one(withheld, claim, Ack())
    assert list(inspection.tasks(withheld)) == []
    assert sum(withheld.counts().tasks.values()) == 0
    assert withheld.cluster.call(lambda stream: stream.last(names.tasks, ">")) is None
