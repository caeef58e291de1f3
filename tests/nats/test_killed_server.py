"""A killed server reads its files again, and tasks that have left the queue do not return."""

import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.nats.conftest import Open, queue_on, tasks_of, until
from tests.nats.server import Server
from unspool import codec, inspection
from unspool.backends.change import Remove, RunNow
from unspool.backends.nats import NatsBackend, connection
from unspool.backends.nats.jetstream import JetStream
from unspool.backends.nats.requests import Request
from unspool.backends.nats.stored import HEADER
from unspool.message import Ack, Bury, Claim, Message, Refusal, RefusalKind, Release, Retry, State
from unspool.testing.exchange import claim_one, sealed, settle_one


def send(backend: NatsBackend, **options: Any) -> str:
    """Send a task, and return its id."""
    (id,) = backend.send([sealed(codec.encode(Message("task"))._replace(**options))])
    return id


def claim(backend: NatsBackend, id: str) -> Claim:
    """Claim a task."""
    found = claim_one(backend, id.rpartition("/")[2])
    assert isinstance(found, Claim), found
    return found


def settle(backend: NatsBackend, id: str, *dispositions: Ack | Retry | Release | Bury) -> None:
    """Run a task a number of times."""
    for disposition in dispositions:
        settle_one(backend, claim(backend, id), disposition)


def ended(backend: NatsBackend) -> None:
    """Run a task that fails, and then succeeds."""
    settle(backend, send(backend, due=1.0), Retry(0.0), Release(), Retry(0.0), Ack())


def removed(backend: NatsBackend) -> None:
    """Retry a task twice as a user does, and remove it."""
    id = send(backend, due=1.0)
    backend.change(id, RunNow())
    backend.change(id, RunNow())
    backend.change(id, Remove())


def brought_back(backend: NatsBackend) -> None:
    """Set a task aside, retry it, set it aside again, and remove it."""
    id = send(backend, due=1.0)
    settle(backend, id, Bury("first"))
    backend.change(id, RunNow())
    settle(backend, id, Bury("second"))
    backend.change(id, Remove())


def carried(backend: NatsBackend) -> None:
    """Transfer a waiting task and a dead one to another queue."""
    ids = [send(backend, due=1.0), send(backend)]
    settle(backend, ids[1], Bury("hopeless"))
    parcels = backend.depot.leave(ids)
    assert len(parcels) == 2
    backend.depot.gone(backend.depot.left(parcels, "there"))


def accepted(backend: NatsBackend) -> None:
    """Accept a task twice, as after a repeated transfer, and remove it."""
    parcels = backend.depot.leave([send(backend)])
    backend.depot.accept(parcels)
    backend.depot.accept(parcels)
    backend.depot.confirm(parcels)
    backend.depot.gone(parcels)
    (id,) = [entry.id for entry in inspection.tasks(backend) if "/moved-" in entry.id]
    backend.change(id, Remove())


def test_what_has_left_stays_away(own_server: Server, opened: Open) -> None:
    """After a kill, no task is listed or counted that has left the queue, whatever was written for it before."""
    backend = opened(queue_on(own_server.url))
    id = send(backend)  # a part of the file that is empty is dropped
    for way in (ended, removed, brought_back, carried, accepted):
        way(backend)
        assert sum(backend.counts().tasks.values()) == 1, way
    own_server.kill()
    own_server.start()
    until(lambda: backend.cluster.call(lambda stream: not stream.open().closed))
    assert [entry.id for entry in inspection.tasks(backend)] == [id]
    assert backend.counts().tasks == dict.fromkeys(State, 0) | {State.READY: 1}


@pytest.mark.timeout(180)
def test_kills_at_each_step(own_server: Server, opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server is killed before each write that retries and ends a task.

    Once the task has ended, none of its messages returns.
    """
    ask, steps = JetStream._ask_some, itertools.count()  # noqa: SLF001  to lose an answer
    deadly = -1
    monkeypatch.setattr(connection, "ANSWER", 0.5)  # a request that was lost with the server is soon repeated

    def dies(self: JetStream, requests: Sequence[Request], some: Sequence[int], *rest: Any) -> None:
        for subject in (requests[index].subject for index in some):
            writes = (not subject.startswith("$JS.API.") and ".live." not in subject) or ".DELETE." in subject
            if writes and next(steps) == deadly:
                own_server.kill()
                own_server.start()
        ask(self, requests, some, *rest)

    monkeypatch.setattr(JetStream, "_ask_some", dies)
    backend = opened(queue_on(own_server.url))
    kept = send(backend)
    for deadly in itertools.count():
        id = send(backend, due=1.0)
        begun = claim(backend, id)
        steps = itertools.count()  # from here on
        settle_one(backend, begun, Retry(0.0))
        settle(backend, id, Ack())
        writes, steps = next(steps), itertools.count(deadly + 1)
        own_server.kill()
        own_server.start()
        until(lambda: backend.cluster.call(lambda stream: not stream.open().closed))
        assert [entry.id for entry in inspection.tasks(backend)] == [kept]
        if writes <= deadly:
            break
    # The task again, its former message; a record as of a new task and its deletion, unless the record of the first run
    # is still there; the record of the second run; the record of the end, the end.
    assert deadly in (6, 7)


def test_streams_of_an_earlier_version(url: str, opened: Open, caplog: pytest.LogCaptureFixture) -> None:
    """Streams of an earlier version, in which the server drops former messages, are changed. Their tasks remain."""
    before = opened(url)
    id = send(before)

    def change(stream: JetStream) -> None:
        for name in (before.cluster.names.tasks, before.cluster.names.aside):
            found = stream.info(name)
            assert found
            stream.api(f"STREAM.UPDATE.{name}", found["config"] | {"max_msgs_per_subject": 1})
        found = stream.info(before.cluster.names.state)
        assert found
        subjects = [one for one in found["config"]["subjects"] if ".ended." not in one]
        stream.api(f"STREAM.UPDATE.{before.cluster.names.state}", found["config"] | {"subjects": subjects})
        subject, header = (
            before.cluster.names.task("soon", "none", "old"),
            {HEADER: '{"due": 1.0, "attempts": 1, "crashes": 0, "anew": true}'},
        )
        stored = tasks_of(before).last(stream, before.cluster.names.tasks, id.rpartition("/")[2], None)
        assert stored
        stream.publish(before.cluster.names.tasks, subject, stored.data, header)

    def limits(stream: JetStream) -> list[int]:
        found = [stream.info(name) for name in (before.cluster.names.tasks, before.cluster.names.aside)]
        return [one["config"]["max_msgs_per_subject"] for one in found if one]

    before.cluster.call(change)
    assert before.cluster.call(limits) == [1, 1]
    after = opened(url)
    settle(after, id, Retry(0.0), Ack())
    assert after.cluster.call(limits) == [-1, -1]
    old = claim(after, "old")
    assert (old.attempts, old.token.facts.version) == (2, 1)
    settle_one(after, old, Ack())
    assert sum(after.counts().tasks.values()) == 0
    assert not caplog.records


def test_streams_that_may_not_be_changed(tmp_path: Path, opened: Open, caplog: pytest.LogCaptureFixture) -> None:
    """A stream of an earlier version that the user may not change is used as it is, and a log line says what to do."""
    users = """authorization { users: [
        { user: all, password: all },
        { user: some, password: some, permissions: { publish: { deny: "$JS.API.STREAM.UPDATE.>" } } }
    ] }"""
    server = Server(tmp_path / "server", more=users).start()
    try:
        url = queue_on(server.url.replace("//", "//all:all@"))
        maker = opened(url)
        id, names = send(maker), maker.cluster.names

        def change(stream: JetStream) -> None:
            found = stream.info(names.tasks)
            assert found
            stream.api(f"STREAM.UPDATE.{names.tasks}", found["config"] | {"max_msgs_per_subject": 1})

        maker.cluster.call(change)
        user = opened(url.replace("all:all", "some:some"), patience=0.5)
        settle(user, id, Retry(0.0), Ack())
        assert sum(user.counts().tasks.values()) == 0
        assert f"nats stream edit {names.tasks} --max-msgs-per-subject=-1" in caplog.text
    finally:
        server.remove()


def are_left(backend: NatsBackend, *ids: str) -> bool:
    """Return whether exactly these tasks are listed and counted.

    A supervisor has deleted those that the server restored.
    """
    feed = backend.feed()
    try:
        until(lambda: feed.refresh() and sorted(entry.id for entry in inspection.tasks(backend)) == sorted(ids))
        return sum(backend.counts().tasks.values()) == len(ids)
    finally:
        feed.close()


def test_a_deletion_that_the_server_loses(own_server: Server, opened: Open) -> None:
    """A task whose deletion the server does not find after a kill is neither run again nor listed.

    The server writes no deletion for the last message of a block, and keeps the block because it holds the deletion of
    a message in another block.
    """
    backend = opened(queue_on(own_server.url))
    sent = [send(backend, body=bytes(700_000)) for _ in range(7)]  # more than a block
    settle(backend, sent[1], Ack())
    for id in (sent[6], sent[5]):
        settle(backend, id, Ack())
    own_server.kill()
    own_server.start()
    until(lambda: backend.cluster.call(lambda stream: not stream.open().closed))
    for id in (sent[1], sent[5], sent[6]):
        assert claim_one(backend, id.rpartition("/")[2]) == Refusal(RefusalKind.GONE)
    assert are_left(backend, sent[0], *sent[2:5])


Way = Callable[[NatsBackend], None]
Back = tuple[str, str, bytes, str]


@pytest.mark.parametrize("way", [ended, removed, brought_back, carried])
def test_any_message_that_comes_back(url: str, opened: Open, monkeypatch: pytest.MonkeyPatch, way: Way) -> None:
    """If any message of a task that has left returns, no worker, transfer or user finds the task."""
    messages: list[Back] = []
    ask = JetStream._ask_some  # noqa: SLF001  to lose an answer

    def keeps(self: JetStream, requests: Sequence[Request], *rest: Any) -> None:
        for request in requests:
            name = request.subject.rpartition(".")[2]
            if ".MSG.DELETE." in request.subject and not name.startswith("unspool-state"):
                stored = self.get(name, json.loads(request.data)["seq"])
                if stored is not None:
                    messages.append((name, stored.subject, stored.data, stored.header))
        ask(self, requests, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(JetStream, "_ask_some", keeps)
        backend = opened(url)
        way(backend)
    assert messages
    for name, subject, data, header in messages:

        def publish(stream: JetStream, back: Back = (name, subject, data, header)) -> None:
            stream.publish(*back[:3], {HEADER: back[3]})

        other = opened(url)
        id = f"{other.name}/{subject.rpartition('.')[2]}"
        other.cluster.call(publish)
        assert inspection.find(other, id) is None
        assert claim_one(other, id.rpartition("/")[2]) == Refusal(RefusalKind.GONE)
        other.cluster.call(publish)
        with pytest.raises(LookupError):
            other.change(id, RunNow())
        other.cluster.call(publish)
        assert other.depot.departures() == []
        assert other.depot.leave([id]) == []
        other.cluster.call(publish)
        assert are_left(other)


def test_a_record_of_an_end_that_comes_late(url: str, opened: Open) -> None:
    """A record of a dead letter that is written after its retry has begun does not hide the running worker."""
    backend, worker, other = (opened(url) for _ in range(3))
    id = send(backend)
    settle(backend, id, Bury("hopeless"))
    token = id.rpartition("/")[2]

    def found(stream: JetStream) -> tuple[Any, Any]:
        _, run = tasks_of(backend).look(stream, token)
        return tasks_of(backend).last(stream, backend.cluster.names.aside, token, run), run

    aside, run = backend.cluster.call(found)
    backend.change(id, RunNow())
    claim(worker, id)
    backend.cluster.call(lambda stream: tasks_of(backend).end(stream, aside, run.seq))
    record = other.cluster.call(lambda stream: tasks_of(other).run_of(stream, token))
    assert record is not None
    assert record.ended == -1


def test_a_release_that_comes_late(url: str, opened: Open) -> None:
    """A deferred task that the server releases again, after it was run and deferred, keeps its attempts."""
    backend = opened(url)
    id = send(backend, due=1.0)
    first = claim(backend, id)
    stored = first.token.stored
    settle_one(backend, first, Retry(0.0))
    header = {HEADER: stored.header}
    backend.cluster.call(
        lambda stream: stream.publish(backend.cluster.names.tasks, stored.subject, stored.data, header)
    )
    assert claim(backend, id).attempts == 2
