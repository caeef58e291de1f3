"""The bell that leads uWSGI to tasks with a priority, and the files that must not be opened beside uWSGI."""

import os
from pathlib import Path

import pytest

from unspool import codec
from unspool.backends.spool import SpoolBackend
from unspool.backends.spool.bell import Bell
from unspool.backends.spool.held import held, holding
from unspool.backends.spool.layout import BELL, Directory, is_bell, is_task
from unspool.message import Envelope, Message, Refusal, RefusalKind, State
from unspool.testing import FakeClock, run_all


@pytest.fixture
def clock() -> FakeClock:
    """The time of the test."""
    return FakeClock()


@pytest.fixture
def backend(tmp_path: Path, clock: FakeClock) -> SpoolBackend:
    """A directory."""
    return SpoolBackend(str(tmp_path / "mail"), durable=False, clock=clock)


def send(backend: SpoolBackend, priority: int | None = 5, due: float | None = None) -> str:
    """Sends one task; its ref."""
    (id,) = backend.send([codec.encode(Message("hello", None, None, priority, due))])
    return id.removeprefix(f"{backend.name}/")


def bells(backend: SpoolBackend) -> dict[str, float]:
    """The bells there, with the times at which they are due."""
    names = [name for name in os.listdir(backend.name) if name.startswith(BELL)]
    return {name: os.stat(f"{backend.name}/{name}").st_mtime for name in names}


def test_names() -> None:
    """A bell is no task, and a task of a host with a strange name is no bell."""
    for name in (BELL, f"{BELL}_1900000000", f"{BELL}_taken_by_1"):
        assert is_bell(name)
        assert not is_task(name)
    assert is_task(f"{BELL}x_1_1_1_1_1")


def test_nobody_rings_where_no_uwsgi_needs_it(backend: SpoolBackend) -> None:
    """A directory that uWSGI does not drain has no bells."""
    send(backend)
    assert bells(backend) == {}


def test_it_rings_for_tasks_with_a_priority(backend: SpoolBackend, clock: FakeClock) -> None:
    """Once for all that are due now, at a full second for a deferred one, and never for one without a priority."""
    backend.bell.want()
    send(backend, None)
    assert bells(backend) == {}
    late = clock() + 10.5
    send(backend, due=late)
    assert bells(backend) == {BELL: clock() + 11}
    send(backend, due=late + 5)
    assert len(bells(backend)) == 1
    send(backend)
    send(backend)
    assert bells(backend) == {BELL: clock() + 11, f"{BELL}_{int(clock())}": clock()}


def test_what_was_there_before_is_announced(backend: SpoolBackend) -> None:
    """Tasks that were sent before a uWSGI needed the bell are found when one does."""
    send(backend)
    backend.bell.want()
    assert list(bells(backend)) == [BELL]


def test_it_stays_as_long_as_something_waits(backend: SpoolBackend, clock: FakeClock) -> None:
    """What is due comes in order; while a task is there, so is a bell, due when the task is; then there is none."""
    backend.bell.want()
    last, first = send(backend, 7), send(backend, 2)
    offered = backend.bell.urgent(BELL)
    assert [next(offered), next(offered)] == [first, last]
    assert bells(backend)[BELL] <= clock()
    other = Bell(Directory(backend.name), clock)
    other.later(first, clock() + 20)
    other.later(last, clock() + 30)
    assert list(other.urgent(BELL)) == []
    assert bells(backend) == {BELL: clock() + 20}
    for ref in (first, last):
        os.unlink(f"{backend.name}/{ref}")
    assert list(Bell(Directory(backend.name), clock).urgent(BELL)) == []
    assert bells(backend) == {}


def test_a_task_that_somebody_else_runs_keeps_it_due(backend: SpoolBackend, clock: FakeClock) -> None:
    """Who runs it may die, and then the next process must come upon the bell at once."""
    backend.bell.want()
    ref = send(backend)
    bell = Bell(Directory(backend.name), clock)
    bell.later(ref, None)
    assert list(bell.urgent(BELL)) == []
    assert bells(backend)[BELL] <= clock()


def test_to_everybody_else_it_is_no_task(backend: SpoolBackend) -> None:
    """Listings, counts and workers pass over it."""
    backend.bell.want()
    ref = send(backend)
    assert [entry.id for entry in backend.entries()] == [f"{backend.name}/{ref}"]
    assert backend.counts()[State.READY] == 1
    assert backend.find(BELL) is None
    assert len(run_all(backend)) == 1
    assert list(bells(backend)) == [BELL]


def test_a_retried_task_is_announced(backend: SpoolBackend, clock: FakeClock) -> None:
    """One that was deferred and is made ready by hand."""
    backend.bell.want()
    ref = send(backend, due=clock() + 100)
    backend.retry(ref)
    assert min(bells(backend).values()) <= clock()


def test_what_uwsgi_has_locked_is_not_opened(backend: SpoolBackend, tmp_path: Path) -> None:
    """It is running, by any path and for any handle, and what uWSGI read from it is shown; afterwards it is as any."""
    ref = send(backend, None)
    id = f"{backend.name}/{ref}"
    read = Envelope({"msg": b"as uWSGI read it"}, b"", None, None)
    (tmp_path / "link").symlink_to(backend.name)
    other = SpoolBackend(str(tmp_path / "link"), durable=False)
    with holding(id, read):
        for one in (backend, other):
            found = one.read(ref)
            assert found is not None
            assert (found[0].state, found[0].task, found[1]) == (State.RUNNING, "as uWSGI read it", read)
            claim = one.claim(ref)
            assert isinstance(claim, Refusal)
            assert claim.kind is RefusalKind.BUSY
    assert held(id) is None
    after = backend.find(ref)
    assert after is not None
    assert after.task == "hello"
    with holding(f"{backend.name}/gone", read):
        pass
