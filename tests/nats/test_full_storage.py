"""A server whose storage is full: workers go on, and so make room."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.nats.conftest import Open, at, queue_on, until
from tests.nats.server import Server
from tests.runtime.conftest import Place
from unspool import codec
from unspool.backends.nats import NatsBackend
from unspool.backends.nats.names import ARRIVING, DEAD, on_the_way
from unspool.errors import SpoolerUnusable
from unspool.message import Message, State

APP = """
    @Spooler.task
    def done(text): note("done"); return True
"""


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Server]:
    """A server that stores little."""
    server = Server(tmp_path / "server", storage="4MB").start()
    yield server
    server.remove()


@pytest.fixture
def full(small: Server, place: Place, opened: Open) -> NatsBackend:
    """A spooler whose senders have filled the storage."""
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
    """All tasks are run by workers that start when there is no room for a sign of life or the record of a run; the
    reserve, which was used up, is there again when they have ended."""
    waiting = full.counts()[State.READY]
    assert waiting > 50
    running = place.run()
    until(lambda: place.lines().count("done") == waiting)
    until(lambda: not sum(full.counts().values()))
    assert running.stop() == 0
    assert reserves(full) == 0
    assert place.run("--burst").end() == 0
    assert reserves(full) == 1


def test_no_reserve(full: NatsBackend, place: Place) -> None:
    """Where the reserve is used up as well, a supervisor starts, and says in a line why it begins nothing; it begins as
    soon as a person removes some tasks."""
    names = full._names
    found = full._place.call(lambda stream: stream.last(names.aside, names.reserve, patience=5))
    assert found is not None
    full._place.call(lambda stream: stream.delete(names.aside, found.seq, patience=5))
    with pytest.raises(SpoolerUnusable, match="the storage is full"):
        full.send([codec.encode(Message("task", "x" * 20000)) for _ in range(100)])
    running = place.run()
    running.wait_for_message("no task is begun until there is room: NATS at")
    for entry in list(full.entries())[-10:]:
        full.remove(entry.id)
    place.wait_for_line("done")
    running.signal(signal.SIGKILL)


def test_a_batch_for_which_there_is_no_room(small: Server, opened: Open) -> None:
    """The error says which tasks of the batch are in the queue, so that only the others need be sent again."""
    backend = opened(queue_on(small.url))
    before = backend.send([codec.encode(Message("task", "x" * 3000)) for _ in range(10)])
    with pytest.raises(SpoolerUnusable, match="the storage is full") as caught:
        backend.send([codec.encode(Message("task", "x" * 3000)) for _ in range(2000)])
    assert len(caught.value.sent) > 500  # more than are under way at once
    assert {entry.id for entry in backend.entries()} == {*before, *caught.value.sent}


def reserves(backend: NatsBackend) -> int:
    """How many there are."""
    return backend._place.call(lambda stream: backend._listing._number(stream, on_the_way(ARRIVING, DEAD)))
