"""The wakefile that leads uWSGI to tasks with a priority, and the due list that its processes use."""

import fcntl
import itertools
import os
import resource
import signal
from pathlib import Path
from types import ModuleType

import pytest

from unspool import codec, inspection
from unspool.backends.change import RunNow
from unspool.backends.spool import SpoolBackend
from unspool.backends.spool.directory import Directory
from unspool.backends.spool.names import BELL, is_bell, is_task
from unspool.backends.spool.uwsgi.backend import UwsgiBackend
from unspool.backends.spool.uwsgi.due_list import DueList
from unspool.backends.spool.uwsgi.wakefile import Wakefile
from unspool.message import Ack, Claim, Message, Refusal, RefusalKind, State
from unspool.testing import FakeClock, run_all
from unspool.testing.exchange import claim_one, sealed, settle_one


@pytest.fixture
def clock() -> FakeClock:
    """The time of the test."""
    return FakeClock()


@pytest.fixture
def backend(tmp_path: Path, clock: FakeClock) -> SpoolBackend:
    """A directory."""
    return SpoolBackend(str(tmp_path / "mail"), durable=False, clock=clock)


@pytest.fixture
def due_list(backend: SpoolBackend, clock: FakeClock) -> DueList:
    """The due list of a process of uWSGI."""
    return DueList(Directory(backend.name), clock, lambda: [""])


def send(backend: SpoolBackend, priority: int | None = 5, due: float | None = None) -> str:
    """Send one task, and return its ref."""
    (id,) = backend.send([sealed(codec.encode(Message("hello", None, None, priority, due)))])
    return id.removeprefix(f"{backend.name}/")


def bells(backend: SpoolBackend) -> dict[str, float]:
    """Return the wakefiles, with their due times."""
    names = [name for name in os.listdir(backend.name) if name.startswith(BELL)]
    return {name: os.stat(f"{backend.name}/{name}").st_mtime for name in names}


def test_names() -> None:
    """A wakefile is not a task, and a task of a host with an odd name is not a wakefile."""
    for name in (BELL, f"{BELL}_1900000000", f"{BELL}_taken_by_1"):
        assert is_bell(name)
        assert not is_task(name)
    assert is_task(f"{BELL}x_1_1_1_1_1")


def test_nobody_rings_where_no_uwsgi_needs_it(backend: SpoolBackend) -> None:
    """A directory that uWSGI does not drain has no wakefiles."""
    send(backend)
    assert bells(backend) == {}


def test_it_rings_for_tasks_with_a_priority(backend: SpoolBackend, clock: FakeClock) -> None:
    """There is one for all tasks that are due now, one at a full second for a deferred task, and none for a task
    without a priority.
    """
    backend.wakefile.want()
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
    """Tasks that were sent before a uWSGI needed the wakefile are found when one does."""
    send(backend)
    backend.wakefile.want()
    assert list(bells(backend)) == [BELL]


def test_it_stays_as_long_as_something_waits(backend: SpoolBackend, clock: FakeClock) -> None:
    """Due tasks come in order. While there is a task, there is a wakefile that is due with the task. Then there is
    none.
    """
    backend.wakefile.want()
    last, first = send(backend, 7), send(backend, 2)
    offered = backend.wakefile.urgent(BELL)
    assert [next(offered), next(offered)] == [first, last]
    assert bells(backend)[BELL] <= clock()
    other = Wakefile(Directory(backend.name), clock)
    other.later(first, clock() + 20)
    other.later(last, clock() + 30)
    assert list(other.urgent(BELL)) == []
    assert bells(backend) == {BELL: clock() + 20}
    for ref in (first, last):
        os.unlink(f"{backend.name}/{ref}")
    assert list(Wakefile(Directory(backend.name), clock).urgent(BELL)) == []
    assert bells(backend) == {}


def test_a_task_that_somebody_else_runs_keeps_it_due(backend: SpoolBackend, clock: FakeClock) -> None:
    """The process that runs the task may die, and then the next process must find the wakefile at once."""
    backend.wakefile.want()
    ref = send(backend)
    bell = Wakefile(Directory(backend.name), clock)
    bell.later(ref, None)
    assert list(bell.urgent(BELL)) == []
    assert bells(backend)[BELL] <= clock()


def test_to_everybody_else_it_is_no_task(backend: SpoolBackend) -> None:
    """Listings, counts and workers ignore it."""
    backend.wakefile.want()
    ref = send(backend)
    assert [entry.id for entry in inspection.tasks(backend)] == [f"{backend.name}/{ref}"]
    assert backend.counts().tasks[State.READY] == 1
    assert inspection.find(backend, BELL) is None
    assert len(run_all(backend)) == 1
    assert list(bells(backend)) == [BELL]


def test_a_retried_task_is_announced(backend: SpoolBackend, clock: FakeClock) -> None:
    """A deferred task is made ready by hand."""
    backend.wakefile.want()
    ref = send(backend, due=clock() + 100)
    backend.change(ref, RunNow())
    assert min(bells(backend).values()) <= clock()


def test_the_due_list_is_in_the_order_of_running(backend: SpoolBackend, due_list: DueList, clock: FakeClock) -> None:
    """First in, first out, whatever the order of the directory, without deferred tasks and those with a priority. Tasks
    that another process runs, or that were found to be deferred, are omitted until their time.
    """
    refs = [send(backend, None) for _ in range(50)]
    send(backend, None, clock() + 5)
    send(backend, 1)
    due_list.look()
    assert [due_list.next() for _ in range(51)] == [*refs, None]
    due_list.later(refs[0], clock() + 20)
    due_list.later(refs[1], None)
    due_list.look()
    assert due_list.next() == refs[2]
    assert due_list.busy == [refs[1]]
    assert due_list.next_due is not None
    clock.advance(2)
    due_list.look()
    assert due_list.busy == []
    clock.advance(20)
    due_list.look()
    late = list(iter(due_list.next, None))
    assert sorted(refs) == sorted(ref for ref in late if ref in refs)
    assert late[-1] == refs[0]  # due last


def test_a_lock_of_uwsgis_is_given_up(backend: SpoolBackend) -> None:
    """The task can then be claimed with a lock that does not end when other code in the process opens the file."""
    module = ModuleType("uwsgi")
    module.opt = {}  # type: ignore[attr-defined]
    inside = UwsgiBackend(backend.name, module, durable=False)
    ref = send(backend, None)
    with open(f"{backend.name}/{ref}", "r+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        assert isinstance(claim_one(backend, ref), Refusal)
        inside.let_go(ref)
        claim = claim_one(backend, ref)
        assert isinstance(claim, Claim)
        assert inspection.read(backend, ref) is not None
        again = claim_one(SpoolBackend(backend.name, durable=False), ref)
        assert isinstance(again, Refusal)
        assert again.kind is RefusalKind.BUSY
        settle_one(backend, claim, Ack())
    inside.let_go(ref)  # of what is not there, nothing


def test_ringing_comes_to_an_end(backend: SpoolBackend, clock: FakeClock) -> None:
    """This holds also beside a wakefile of the same second from a clock that is slightly ahead: it is due as early."""
    backend.wakefile.want()
    send(backend, due=clock() + 100)
    ahead = FakeClock(clock() + 0.0001)
    Wakefile(Directory(backend.name), ahead).announce(None)
    send(backend)
    assert len(bells(backend)) == 2


def scan(backend: SpoolBackend) -> None:
    """Scan as a supervisor does first."""
    feed = backend.feed()
    while feed.refresh().more:
        pass
    feed.close()


def test_a_link_in_the_place_of_a_bell(backend: SpoolBackend) -> None:
    """A link that leads nowhere does not prevent sending."""
    backend.wakefile.want()
    os.symlink("nowhere", f"{backend.name}/{BELL}")
    send(SpoolBackend(backend.name, durable=False))
    assert backend.counts().tasks[State.READY] == 1


def test_nobody_rings_for_a_uwsgi_that_is_gone(backend: SpoolBackend) -> None:
    """The marker holds while a process that has created it lives. The next supervisor sweeps its wakefiles."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        SpoolBackend(backend.name, durable=False).wakefile.want()
        os.write(writer, b"!")
        signal.pause()
    os.read(reader, 1)
    send(backend)
    assert list(bells(backend)) == [BELL]
    scan(backend)
    assert list(bells(backend)) == [BELL]
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    scan(backend)
    assert bells(backend) == {}
    send(backend)
    assert bells(backend) == {}
    for fd in (reader, writer):
        os.close(fd)


def test_what_nobody_has_rung_for_is_noticed(backend: SpoolBackend, due_list: DueList) -> None:
    """uWSGI itself puts tasks with a priority there without a wakefile. A scan finds them."""
    bell = backend.wakefile
    bell.want()
    ref = send(backend)
    assert bell.overlooked()
    assert list(itertools.islice(bell.urgent(BELL), 1)) == [ref]
    os.utime(f"{backend.name}/5", (1, 1))
    next(bell.urgent(BELL))
    assert not bell.overlooked()
    os.rename(f"{backend.name}/{ref}", f"{backend.name}/5/uwsgi_spoolfile_on_other_1_1_1_1_1")
    assert bell.overlooked()
    due_list.look()
    assert due_list.priorities == ["5"]
    assert bell.overlooked(due_list.priorities)
    assert "5/uwsgi_spoolfile_on_other_1_1_1_1_1" in bell.urgent(BELL)


def test_a_busy_task_is_tried_once_more(due_list: DueList) -> None:
    """It is not checked at each offer, because most tasks have run by then. If it is still busy, it is noted again."""
    due_list.later("busy", None)
    assert due_list.busy == ["busy"]
    due_list.tried("busy")
    assert due_list.busy == []
    due_list.later("busy", None)
    assert due_list.busy == ["busy"]


def test_a_full_disk_leaves_the_bell_that_was_there(backend: SpoolBackend, caplog: pytest.LogCaptureFixture) -> None:
    """uWSGI's process continues with a log line, and no draft is left. A limit of file sizes stands for the
    full disk.
    """
    backend.wakefile.want()
    ref = send(backend)
    before = bells(backend)
    assert list(before) == [BELL]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        assert next(backend.wakefile.urgent(BELL)) == ref
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert list(bells(backend)) == [BELL]
    assert "cannot create the wakefile in" in caplog.text
    assert not [name for name in os.listdir(f"{backend.name}/.unspool/tmp") if name.startswith(BELL)]
