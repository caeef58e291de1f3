"""A server that is killed reads its files again: what has left the queue stays away."""

import itertools
from pathlib import Path
from typing import Any

import pytest

from tests.nats.conftest import Open, queue_on, until
from tests.nats.server import Server
from unspool import codec
from unspool.backends.nats import NatsBackend, jetstream
from unspool.backends.nats.jetstream import JetStream
from unspool.backends.nats.lane import Broken
from unspool.backends.nats.place import Place
from unspool.message import Ack, Bury, Claim, Message, Release, Retry, State


def send(backend: NatsBackend, **options: Any) -> str:
    """Sends a task; its id."""
    (id,) = backend.send([codec.encode(Message("task"))._replace(**options)])
    return id


def claim(backend: NatsBackend, id: str) -> Claim:
    """Claims a task."""
    found = backend.claim(id.rpartition("/")[2])
    assert isinstance(found, Claim), found
    return found


def settle(backend: NatsBackend, id: str, *dispositions: Ack | Retry | Release | Bury) -> None:
    """Runs a task so often."""
    for disposition in dispositions:
        backend.settle(claim(backend, id), disposition)
    backend.flush()


def ended(backend: NatsBackend) -> None:
    """A task that fails, and then succeeds."""
    settle(backend, send(backend, due=1.0), Retry(0.0), Release(), Retry(0.0), Ack())


def removed(backend: NatsBackend) -> None:
    """A task that a person makes ready, twice, and then removes."""
    id = send(backend, due=1.0)
    backend.retry(id)
    backend.retry(id)
    backend.remove(id)


def brought_back(backend: NatsBackend) -> None:
    """A task that is set aside, retried, set aside again, and removed."""
    id = send(backend, due=1.0)
    settle(backend, id, Bury("first"))
    backend.retry(id)
    settle(backend, id, Bury("second"))
    backend.remove(id)


def carried(backend: NatsBackend) -> None:
    """Tasks that are carried to another queue: one that waits, and one that was set aside."""
    ids = [send(backend, due=1.0), send(backend)]
    settle(backend, ids[1], Bury("hopeless"))
    parcels = backend.depot.leave(ids)
    assert len(parcels) == 2
    backend.depot.gone(backend.depot.left(parcels, "there"))


def accepted(backend: NatsBackend) -> None:
    """A task that is offered twice by its carrier, arrives, and is removed."""
    parcels = backend.depot.leave([send(backend)])
    backend.depot.accept(parcels)
    backend.depot.accept(parcels)
    backend.depot.confirm(parcels)
    backend.depot.gone(parcels)
    (id,) = [entry.id for entry in backend.entries() if "/moved-" in entry.id]
    backend.remove(id)


def test_what_has_left_stays_away(own_server: Server, opened: Open) -> None:
    """Of tasks that were written again, and have then left the queue in any way, nothing is there after a kill."""
    backend = opened(queue_on(own_server.url))
    id = send(backend)  # a part of the file that is empty is dropped
    for way in (ended, removed, brought_back, carried, accepted):
        way(backend)
        assert sum(backend.counts().values()) == 1, way
    own_server.kill()
    own_server.start()
    until(lambda: backend._place.stream().link.connected)
    assert [entry.id for entry in backend.entries()] == [id]
    assert backend.counts() == dict.fromkeys(State, 0) | {State.READY: 1}


@pytest.mark.timeout(180)
def test_kills_at_each_step(own_server: Server, opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server is killed before each write that retries and ends a task: when it has ended nothing of it is there."""
    ask, steps = JetStream._ask, itertools.count()
    deadly = -1
    monkeypatch.setattr(jetstream, "_ANSWER", 0.5)  # a request that was lost with the server is soon repeated

    async def dies(self: JetStream, subject: str, data: bytes, *rest: Any) -> Any:
        if (not subject.startswith("$JS.API.") or ".DELETE." in subject) and next(steps) == deadly:
            own_server.kill()
            own_server.start()
        return await ask(self, subject, data, *rest)

    def none(self: Place, stream: JetStream) -> None:
        raise Broken("each request is to be counted")

    monkeypatch.setattr(JetStream, "_ask", dies)
    monkeypatch.setattr(Place, "_opened_lane", none)
    backend = opened(queue_on(own_server.url))
    kept = send(backend)
    for deadly in itertools.count():
        id = send(backend, due=1.0)
        begun = claim(backend, id)
        steps = itertools.count()  # from here on
        backend.settle(begun, Retry(0.0))
        settle(backend, id, Ack())
        writes, steps = next(steps), itertools.count(deadly + 1)
        own_server.kill()
        own_server.start()
        until(lambda: backend._place.stream().link.connected)
        assert [entry.id for entry in backend.entries()] == [kept]
        if writes <= deadly:
            break
    assert deadly == 4  # the task again, its former message, the record of the second run, the end


def test_streams_of_an_earlier_version(url: str, opened: Open, caplog: pytest.LogCaptureFixture) -> None:
    """Streams in which the server drops former messages are changed so that it does not, and their tasks are there."""
    before = opened(url)
    id = send(before)

    async def change(stream: JetStream) -> None:
        for name in (before._names.tasks, before._names.aside):
            found = await stream.info(name, patience=5)
            assert found
            await stream.api(f"STREAM.UPDATE.{name}", found["config"] | {"max_msgs_per_subject": 1}, patience=5)

    async def limits(stream: JetStream) -> list[int]:
        found = [await stream.info(name, patience=5) for name in (before._names.tasks, before._names.aside)]
        return [one["config"]["max_msgs_per_subject"] for one in found if one]

    before._place.call(change)
    assert before._place.call(limits) == [1, 1]
    after = opened(url)
    settle(after, id, Retry(0.0), Ack())
    assert after._place.call(limits) == [-1, -1]
    assert sum(after.counts().values()) == 0
    assert not caplog.records


def test_streams_that_may_not_be_changed(tmp_path: Path, opened: Open, caplog: pytest.LogCaptureFixture) -> None:
    """Where the user may not change a stream of an earlier version, it is used as it is, and a line says what to do."""
    users = """authorization { users: [
        { user: all, password: all },
        { user: some, password: some, permissions: { publish: { deny: "$JS.API.STREAM.UPDATE.>" } } }
    ] }"""
    server = Server(tmp_path / "server", more=users).start()
    try:
        url = queue_on(server.url.replace("//", "//all:all@"))
        maker = opened(url)
        id, names = send(maker), maker._names

        async def change(stream: JetStream) -> None:
            found = await stream.info(names.tasks, patience=5)
            assert found
            await stream.api(f"STREAM.UPDATE.{names.tasks}", found["config"] | {"max_msgs_per_subject": 1}, patience=5)

        maker._place.call(change)
        user = opened(url.replace("all:all", "some:some"), patience=0.5)
        settle(user, id, Retry(0.0), Ack())
        assert sum(user.counts().values()) == 0
        assert f"nats stream edit {names.tasks} --max-msgs-per-subject=-1" in caplog.text
    finally:
        server.remove()
