"""Fixtures: queues on a real server, and places whose supervisors serve them."""

import secrets
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.nats.server import Server
from tests.runtime.conftest import PATIENCE, Place, place
from unspool import address
from unspool.backends.nats import NatsBackend, runs
from unspool.backends.nats.jetstream import JetStream
from unspool.backends.nats.runs import Process, Run
from unspool.backends.nats.tasks import Tasks
from unspool.settings import Settings

__all__ = ["place"]

KEY = secrets.token_urlsafe(32)

Open = Callable[[str], NatsBackend]


def queue_on(url: str, more: str = "") -> str:
    """Return the URL of a new spooler."""
    return f"{url}?spooler=q{uuid.uuid4().hex}{more}"


def at(place: Place, url: str) -> Place:
    """Make the programs of a place use this spooler. Return the place."""
    place.env |= {"UNSPOOL_SPOOLERS": url, "UNSPOOL_SECRET_KEY": KEY}
    return place


def until(wanted: Callable[[], bool]) -> None:
    """Wait until a condition holds. It is checked repeatedly, because no event reports it."""
    end = time.monotonic() + 2 * PATIENCE
    while not wanted():
        assert time.monotonic() < end, "the condition did not become true"
        time.sleep(0.05)


def crash(backend: NatsBackend, ref: str) -> None:
    """Store what remains after a worker was killed: the record of a run whose process is dead."""
    names = backend.cluster.names

    def kill(stream: JetStream) -> None:
        record = stream.last(names.state, names.run(ref))
        assert record is not None
        run = Run.of(record)
        assert run is not None
        gone = run._replace(process=Process(runs.host(), 4_190_000, "1"))
        stream.publish(names.state, names.run(ref), gone.dump())

    backend.cluster.call(kill)


def tasks_of(backend: NatsBackend) -> Tasks:
    """Return the tasks of a queue, for a test that does a single step of a call."""
    return Tasks(backend.cluster, time.time, schedules=True)


def number(backend: NatsBackend, kind: str) -> int:
    """Return the number of messages of a kind, as the server counts them."""
    names = backend.cluster.names
    info = backend.cluster.call(lambda stream: stream.info(names.stream(kind), count=names.task(kind, "*", "*")))
    assert info is not None
    return int(info.get("total", 0))


@pytest.fixture
def url(nats_server: Server) -> str:
    """Return the URL of a new spooler."""
    return queue_on(nats_server.url, "&lease=2")


@pytest.fixture
def served(place: Place, url: str) -> Place:
    """Return a place whose programs use the spooler of the test."""
    return at(place, url)


@pytest.fixture
def opened() -> Iterator[Open]:
    """Yield a function that opens backends. They are closed when the test ends."""
    made: list[NatsBackend] = []

    def opened(url: str, **more: float) -> NatsBackend:
        found = address.parse(url)
        made.append(NatsBackend(found, Settings(), **more))  # type: ignore[arg-type]
        return made[-1]

    yield opened
    for one in made:
        one.close()


@pytest.fixture
def backend(url: str, opened: Open) -> NatsBackend:
    """Return a backend of the test process for the spooler of the test."""
    return opened(url)


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Server]:
    """Yield a server that the test may stop or kill."""
    server = Server(tmp_path / "server").start()
    yield server
    server.remove()
