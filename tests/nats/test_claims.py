"""Two processes and one task: changes between reading the task and writing the record of its run."""

import os
from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import pytest

from tests.nats.conftest import Open, tasks_of, until
from unspool import codec, inspection
from unspool.backends.change import Remove, Reprioritise, RunNow
from unspool.backends.nats import NatsBackend, runs
from unspool.backends.nats.jetstream import JetStream
from unspool.backends.nats.requests import Unreachable
from unspool.backends.nats.runs import Process, Run
from unspool.errors import TaskBusy
from unspool.message import Ack, Bury, Claim, Message, Refusal, RefusalKind, Retry, State
from unspool.testing.exchange import claim_one, sealed, settle_one

Meanwhile = Callable[[NatsBackend, Callable[[], object]], None]


def send(backend: NatsBackend) -> tuple[str, str]:
    """Send a task. Return its id and ref."""
    (id,) = backend.send([sealed(codec.encode(Message("task")))])
    return id, id.rpartition("/")[2]


def claim(backend: NatsBackend, ref: str) -> Claim:
    """Claim a task."""
    found = claim_one(backend, ref)
    assert isinstance(found, Claim), found
    return found


def records(backend: NatsBackend) -> int:
    """Return the number of records of runs."""
    names = backend.cluster.names

    def count(stream: JetStream) -> int:
        return len(list(stream.read(names.state, names.run("*"))))

    return backend.cluster.call(count)


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Meanwhile:
    """Call a function once, after a backend has first read a task or the record of its run."""

    def meanwhile(backend: NatsBackend, happens: Callable[[], object]) -> None:
        names, left, last = backend.cluster.names, [happens], JetStream.last

        def slow(self: JetStream, name: str, subject: str, **more: Any) -> object:
            found = last(self, name, subject, **more)
            if left and (name == names.tasks or ".run." in subject):
                left.pop()()
            return found

        monkeypatch.setattr(JetStream, "last", slow)

    return meanwhile


def send_again(backend: NatsBackend) -> tuple[str, str]:
    """Send a task that a worker has run once, so its message is read before the record of the next run is written."""
    id, ref = send(backend)
    settle_one(backend, claim(backend, ref), Retry(0.0))
    until(lambda: records(backend) == 0)
    return id, ref


def run_once(backend: NatsBackend, ref: str) -> None:
    """Run the task by another worker, which is faster."""
    settle_one(backend, claim(backend, ref), Ack())
    until(lambda: records(backend) == 0)


def test_a_task_that_ends_before_it_is_begun(
    backend: NatsBackend, url: str, opened: Open, meanwhile: Meanwhile
) -> None:
    """A worker that has read a task does not run it if it has ended before the record is written."""
    late = opened(url)
    _, ref = send_again(backend)
    meanwhile(late, lambda: run_once(backend, ref))
    refusal = claim_one(late, ref)
    assert isinstance(refusal, Refusal)
    assert refusal.kind is RefusalKind.GONE
    until(lambda: records(backend) == 0)


def test_a_task_that_is_begun_again_meanwhile(
    backend: NatsBackend, url: str, opened: Open, meanwhile: Meanwhile
) -> None:
    """A record of a later message than the one that was read is not treated as void."""
    late = opened(url)
    _, ref = send_again(backend)
    names, other = backend.cluster.names, runs.process(os.getppid())
    assert other is not None

    def another(stream: JetStream) -> None:
        stored = stream.last(names.tasks, names.task("*", "*", ref))
        assert stored is not None
        seq = tasks_of(backend).anew(stream, stored, stored.facts)
        stream.publish(names.state, names.run(ref), Run(ref, 0, seq, 2, other).dump())

    meanwhile(late, lambda: backend.cluster.call(another))
    refusal = claim_one(late, ref)
    assert isinstance(refusal, Refusal)
    assert refusal.kind is RefusalKind.BUSY
    assert records(backend) == 1


@pytest.mark.parametrize("change", [RunNow(), Remove(), Reprioritise(7)])
def test_a_task_that_is_begun_before_it_is_changed(
    backend: NatsBackend, url: str, opened: Open, meanwhile: Meanwhile, change: str
) -> None:
    """A user who changes a task that a worker has just begun gets an error, and the task runs once."""
    person = opened(url)
    id, ref = send(backend)
    begun: list[Claim] = []
    meanwhile(person, lambda: begun.append(claim(backend, ref)))
    with pytest.raises(TaskBusy):
        person.change(id, change)
    assert backend.counts().tasks[State.RUNNING] == 1
    settle_one(backend, begun[0], Ack())
    assert sum(backend.counts().tasks.values()) == 0


@pytest.mark.parametrize("change", [RunNow(), Remove(), Reprioritise(7)])
def test_a_task_that_is_changed_before_it_is_begun(
    backend: NatsBackend, url: str, opened: Open, meanwhile: Meanwhile, change: str
) -> None:
    """A worker does not run a task that a user has retried or removed after the worker has read it."""
    late = opened(url)
    id, ref = send_again(backend)
    meanwhile(late, lambda: backend.change(id, change))
    found = claim_one(late, ref)
    if isinstance(change, Remove):
        assert isinstance(found, Refusal)
        assert found.kind is RefusalKind.GONE
    else:
        assert isinstance(found, Claim)
        settle_one(late, found, Ack())
    assert sum(backend.counts().tasks.values()) == 0
    until(lambda: records(backend) == 0)


def test_a_worker_that_dies_when_it_has_set_a_task_aside(
    backend: NatsBackend, url: str, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task is dead and does not run again, even if its worker died before it deleted the message."""
    id, ref = send(backend)
    begun = claim(backend, ref)
    names, gone = backend.cluster.names, Process(runs.host(), 4_190_000, "1")

    def die(stream: JetStream) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(JetStream, "delete", Mock(side_effect=Unreachable("its worker is killed")))
            with pytest.raises(Unreachable):
                tasks_of(backend).set_aside(
                    stream, begun.token.stored, begun.token.facts, Bury("hopeless"), begun.token.record
                )
        stream.publish(names.state, names.run(ref), Run(ref, 0, 0, 1, gone).dump())

    backend.cluster.call(die)
    assert {state: count for state, count in backend.counts().tasks.items() if count} == {State.READY: 1, State.DEAD: 1}
    refusal = claim_one(opened(url), ref)
    assert isinstance(refusal, Refusal)
    (entry,) = inspection.tasks(backend)
    assert (entry.id, entry.state, entry.reason) == (id, State.DEAD, "hopeless")
    backend.change(id, RunNow())
    settle_one(backend, claim(backend, ref), Ack())
    assert list(inspection.tasks(backend)) == []


def end(backend: NatsBackend, id: str, ref: str) -> None:
    """Run the task to its end by a worker."""
    settle_one(backend, claim(backend, ref), Ack())


def crash(backend: NatsBackend, id: str, ref: str) -> None:
    """Kill a worker before it reads the task again, and run the task by the next one."""
    names, gone = backend.cluster.names, Process(runs.host(), 4_190_000, "1")

    def die(stream: JetStream) -> None:
        stored = stream.last(names.tasks, names.task("*", "*", ref))
        assert stored is not None
        stream.publish(names.state, names.run(ref), Run(ref, 0, stored.seq, 1, gone).dump())

    backend.cluster.call(die)
    end(backend, id, ref)


def again(backend: NatsBackend, id: str, ref: str) -> None:
    """Retry the task again, and run it by a worker."""
    backend.change(id, RunNow())
    end(backend, id, ref)


def remove(backend: NatsBackend, id: str, ref: str) -> None:
    """Remove the task, as a user does."""
    backend.change(id, Remove())


@pytest.mark.parametrize("then", [end, crash, again, remove])
def test_a_retry_that_is_killed(
    backend: NatsBackend, monkeypatch: pytest.MonkeyPatch, then: Callable[[NatsBackend, str, str], None]
) -> None:
    """A dead task whose retry was interrupted before its old message was deleted is gone once it has ended."""
    id, ref = send(backend)
    settle_one(backend, claim(backend, ref), Bury("hopeless"))
    with monkeypatch.context() as patch:
        patch.setattr(JetStream, "delete", Mock(side_effect=Unreachable("the command is killed")))
        with pytest.raises(Unreachable):
            backend.change(id, RunNow())
    assert {state: count for state, count in backend.counts().tasks.items() if count} == {State.READY: 1, State.DEAD: 1}
    then(backend, id, ref)
    assert list(inspection.tasks(backend)) == []
    assert sum(backend.counts().tasks.values()) == 0
