"""Odd files in ``.unspool``, which only the owner of the directory can create: no process waits or fails, and nothing
is lost.
"""

import json
import logging
import os
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from unspool import inspection
from unspool.backends.change import Remove, RunNow
from unspool.backends.spool import SpoolBackend, lock
from unspool.backends.spool.directory import Directory
from unspool.message import Bury, Claim, Content, Record, Refusal, RefusalKind, State
from unspool.testing.exchange import claim_one, sealed, settle_one

from ..spool.sweep import sweep

ENVELOPE = sealed(Content({"msg": b"task"}, b"", None, None))
HOUR = 3600.0

_USE = """
import json, sys, time
from unspool import inspection
from unspool.backends.spool import SpoolBackend
from unspool.message import Content, Record
from unspool.testing.exchange import sealed
backend = SpoolBackend(sys.argv[1], durable=False)
registration = backend.register("supervisor")
backend.send([sealed(Content({"msg": b"task"}, b"", 1, None))])
inspection.runs(backend)
backend.record([Record("one", "task", "processed", 1, time.time(), 1.0, 1)])
backend.record([Record("two", "task", "processed", 1, time.time(), 2.0, 1)], journal=True)
backend.exchange([], [])
feed = backend.feed()
while feed.refresh().more: pass
print(json.dumps({
    "period": backend.switch().period, "live": len(backend.live()), "ready": backend.counts().tasks["ready"],
    "history": [record.id for record in inspection.runs(backend)],
}))
"""


@pytest.fixture
def backend(tmp_path: Path) -> SpoolBackend:
    """An empty spooler with all its parts."""
    found = SpoolBackend(str(tmp_path / "mail"), durable=False)
    found.switch(period=7)
    found.switch(paused=False)
    os.unlink(f"{found.name}/.unspool/run/period")
    return found


@pytest.mark.parametrize("kind", ["fifo", "directory", "link to a fifo"])
@pytest.mark.parametrize(
    "name",
    [
        "run/period",
        "run/bell",
        "run/worker-1-x",
        "writers",
        "journal-x",
        "history.sqlite3",
        "history.sqlite3-wal",
        "history.sqlite3-journal",
    ],
)
def test_what_is_no_regular_file(backend: SpoolBackend, tmp_path: Path, name: str, kind: str) -> None:
    """In the place of a file of unspool, nothing waits for it, and everything that does not need the file works."""
    path = f"{backend.name}/.unspool/{name}"
    os.mkfifo(tmp_path / "fifo")
    if name == "writers":
        os.unlink(path)
    {"fifo": os.mkfifo, "directory": os.mkdir}.get(kind, lambda path: os.symlink(tmp_path / "fifo", path))(path)
    found = subprocess.run(
        [sys.executable, "-c", _USE, backend.name], capture_output=True, text=True, timeout=30, check=False
    )
    assert found.returncode == 0, found.stderr
    seen = json.loads(found.stdout)
    assert seen == {"period": 300.0, "live": 1, "ready": 1, "history": ["two", "one"]}


@pytest.mark.parametrize("link", ["attempts", "attempts/5", "tmp/5", "dead/5", "corrupt/5"])
def test_a_link_to_a_directory_of_other_files(backend: SpoolBackend, tmp_path: Path, link: str) -> None:
    """A sweep, which root may do for another user, removes nothing behind a link."""
    outside = tmp_path / "outside"
    outside.mkdir()
    names = {"precious", "x.reason", f"x.{Directory(backend.name).drafts.number + 1:x}"}
    for name in names:
        path = outside / name
        path.touch(mode=0o600)
        os.utime(path, (0, 0))
    os.makedirs(os.path.dirname(f"{backend.name}/.unspool/{link}"), exist_ok=True)
    os.symlink(outside, f"{backend.name}/.unspool/{link}")
    sweep_old(backend)
    assert set(os.listdir(outside)) == names


def test_links_without_end(backend: SpoolBackend) -> None:
    """Two links of a directory to itself give exponentially many paths: none is followed."""
    for name in "56":
        os.symlink(".", f"{backend.name}/.unspool/dead/{name}")
    sweep_old(backend)


def test_a_journal_that_is_too_large(backend: SpoolBackend) -> None:
    """A sparse file of 8 TiB is not read, and the rest of the history is shown."""
    path = Path(backend.name, ".unspool", "journal-x")
    path.touch(mode=0o600)
    os.truncate(path, 1 << 43)
    record = Record("id", "task", "processed", 1, time.time(), 1.0, 1)
    backend.record([record])
    assert inspection.runs(backend) == [record]
    assert path.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"x" * 17,
        struct.pack("<qdH", -1, 1.0, 0),
        struct.pack("<qdH", 1 << 40, 1.0, 0),
        struct.pack("<qdH", 1, float("nan"), 0),
        struct.pack("<qdH", 1, float("inf"), 0),
    ],
)
@pytest.mark.parametrize("name", ["worker-1-x", "supervisor-1-x", "other-1-x"])
def test_forged_registrations(backend: SpoolBackend, name: str, content: bytes) -> None:
    """A locked file that no process of unspool has written is not a live process, and is left alone."""
    path = Path(backend.name, ".unspool", "run", name)
    path.write_bytes(content)
    held = os.open(path, os.O_RDWR)
    assert lock.acquire(held)
    registration = backend.register("supervisor")
    assert [info.role for info in backend.live()] == ["supervisor"]
    assert path.exists()
    os.close(held)
    registration.close()


# --- names


def put(backend: SpoolBackend, name: str) -> str:
    """Create a task with this name."""
    (id,) = backend.send([ENVELOPE])
    os.rename(id, f"{backend.name}/{name}")
    return name


def bury(backend: SpoolBackend, ref: str) -> None:
    """Set a task aside as dead."""
    claim = claim_one(backend, ref)
    assert isinstance(claim, Claim)
    settle_one(backend, claim, Bury("no use"))


def sweep_old(backend: SpoolBackend) -> None:
    """Sweeps when all that is there is two hours old."""
    for place, _, names in os.walk(f"{backend.name}/.unspool"):
        for name in names:
            os.utime(f"{place}/{name}", (time.time() - 2 * HOUR,) * 2)
    sweep(backend.name)


@pytest.mark.parametrize("ending", [".reason", ".reason.reason", "_" + "x" * (255 - 28) + ".reason", "x" * 234])
def test_a_task_that_is_called_as_a_reason(backend: SpoolBackend, ending: str) -> None:
    """A dead task with such a name is listed with its reason, survives a sweep, and can be retried; so does a
    long one.
    """
    ref = put(backend, f"uwsgi_spoolfile_on_x{ending}"[-255:] if ending[0] != "x" else f"uwsgi_spoolfile_on_xx{ending}")
    bury(backend, ref)
    for _ in range(2):
        (entry,) = inspection.tasks(backend)
        assert (entry.state, entry.reason) == (State.DEAD, "no use")
        sweep_old(backend)
    again = backend.change(entry.id, RunNow())
    assert isinstance(claim_one(backend, os.path.basename(again)), Claim)
    assert list(Path(backend.name, ".unspool", "dead").iterdir()) == []


def test_a_task_that_was_moved_to_where_a_reason_is_kept(backend: SpoolBackend) -> None:
    """A task that was moved by hand is neither deleted with the task whose reason it seems to be nor by a sweep, which
    leaves it listed.
    """
    first, second = put(backend, "uwsgi_spoolfile_on_x_1_1_1_1"), put(backend, "uwsgi_spoolfile_on_x_1_1_1_2")
    for name in (f"{first}.reason", second, f"{second}.reason"):
        os.rename(f"{backend.name}/{put(backend, 'uwsgi_spoolfile_on_y')}", f"{backend.name}/.unspool/dead/{name}")
    bury(backend, first)
    assert backend.counts().tasks[State.DEAD] == 2
    for entry in list(inspection.tasks(backend, frozenset({State.DEAD}))):
        backend.change(entry.id, Remove())
    assert backend.counts().tasks[State.DEAD] == 0
    sweep_old(backend)
    assert backend.counts().tasks[State.DEAD] == 2
    sweep_old(backend)
    assert backend.counts().tasks[State.DEAD] == 2


def test_a_reason_without_its_task(backend: SpoolBackend) -> None:
    """After a kill between the two, the reason is swept, and the next task with this name can take its place."""
    for name in ("uwsgi_spoolfile_on_x_1_1_1_1", "uwsgi_spoolfile_on_x_1_1_1_2"):
        Path(backend.name, ".unspool", "dead", f"{name}.reason").write_text('{"reason": "former"}')
    bury(backend, put(backend, name))
    sweep_old(backend)
    (entry,) = inspection.tasks(backend)
    assert entry.reason == "no use"
    assert sorted(os.listdir(f"{backend.name}/.unspool/dead")) == [name, f"{name}.reason"]


# --- counts


@pytest.mark.parametrize(
    "value",
    [
        b"-5 -5 w",
        b"0 -1 r",
        b"1 0 x",
        b"1 0 d d",
        b"1_0 0 w",
        b"+1 0 w",
        b"\xef\xbc\x91 0 w",
        b"9" * 3000 + b" 0 w",
        b"\xff",
    ],
)
def test_a_forged_count(backend: SpoolBackend, value: bytes) -> None:
    """An invalid count is ignored: the task runs as if it were new, and its runs are counted."""
    (id,) = backend.send([ENVELOPE])
    os.setxattr(id, "user.unspool", value)
    for attempt in (1, 2):
        claim = claim_one(backend, os.path.basename(id))
        assert isinstance(claim, Claim)
        assert (claim.attempts, claim.crashes) == (attempt, attempt - 1)
        os.close(claim.token.file)


@pytest.mark.parametrize("how", ["claim", "leave"])
def test_a_task_that_is_marked_as_done(backend: SpoolBackend, caplog: pytest.LogCaptureFixture, how: str) -> None:
    """Everyone who can write to a file can set this mark. The task is removed without a run, as after an end whose file
    could not be removed, and one line says so.
    """
    (id,) = backend.send([ENVELOPE])
    os.setxattr(id, "user.unspool", b"1 0 d")
    with caplog.at_level(logging.WARNING, "unspool"):
        if how == "claim":
            refusal = claim_one(backend, os.path.basename(id))
            assert isinstance(refusal, Refusal)
            assert refusal.kind is RefusalKind.GONE
        else:
            assert backend.depot.leave([id]) == []
    assert not os.path.exists(id)
    assert [record.getMessage() for record in caplog.records] == [
        f"removed task {id}, which is marked as done and could not be removed when it finished"
    ]
