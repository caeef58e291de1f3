"""Queues of their own on a real server, and places with real supervisors that serve them."""

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
    """The URL of a spooler that nobody has used yet."""
    return f"{url}?spooler=q{uuid.uuid4().hex}{more}"


def at(place: Place, url: str) -> Place:
    """A place whose programs use this spooler."""
    place.env |= {"UNSPOOL_SPOOLERS": url, "UNSPOOL_SECRET_KEY": KEY}
    return place


def until(wanted: Callable[[], bool]) -> None:
    """Waits until this is so, looking again and again: a server tells a test nothing."""
    end = time.monotonic() + 2 * PATIENCE
    while not wanted():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.05)


def crash(backend: NatsBackend, ref: str) -> None:
    """Leave what a killed worker leaves: the record of a run whose process is dead."""
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
    """A spooler of the test's own."""
    return queue_on(nats_server.url, "&lease=2")


@pytest.fixture
def served(place: Place, url: str) -> Place:
    """A place that uses it."""
    return at(place, url)


@pytest.fixture
def opened() -> Iterator[Open]:
    """Opens backends, and closes them when the test ends."""
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
    """The test's spooler, looked at from the test's own process."""
    return opened(url)


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Server]:
    """A server that the test may harm."""
    server = Server(tmp_path / "server").start()
    yield server
    server.remove()
