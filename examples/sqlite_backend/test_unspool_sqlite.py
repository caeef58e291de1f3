"""The conformance suite of unspool, and tests of this backend."""

import contextlib
import logging
import os
import signal
import sqlite3
import threading
import time
from pathlib import Path

import pytest

from unspool import codec, inspection, raw_message
from unspool.backends.base import Backend, Clock
from unspool.errors import SpoolerUnusable
from unspool.message import Ack, Claim, DeferOnCrash, Interrupted, Record, State
from unspool.settings import Settings
from unspool.task_id import short_id
from unspool.testing import BackendConformance
from unspool.testing.exchange import claim_one, sealed, settle_one
from unspool_sqlite import SqliteBackend


class TestSqlite(BackendConformance):
    def make_backend(self, clock: Clock, place: Path) -> Backend:
        return SqliteBackend(str(place / "mail"), clock=clock)

    def damage(self, backend: Backend, id: str) -> None:
        database = sqlite3.connect(f"{backend.name.removeprefix('sqlite://')}.sqlite")
        number = short_id(id)
        (data,) = database.execute("SELECT data FROM task WHERE number = ?", (number,)).fetchone()
        database.execute("UPDATE task SET data = ? WHERE number = ?", (data[:-1] + bytes([data[-1] ^ 1]), number))
        database.commit()
        database.close()


def test_a_child_leaves_the_claims_of_its_parent_alone(tmp_path: Path) -> None:
    """A process that is forked while a task runs may use and close the backend, and may outlive its parent's claim."""
    backend = SqliteBackend(str(tmp_path / "mail"))
    (id,) = backend.send([sealed(codec.encode(raw_message("task")))])
    assert isinstance(claim_one(backend, short_id(id)), Claim)
    hear, tell = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            backend.send([sealed(codec.encode(raw_message("of the child")))])
            backend.close()
            os.write(tell, b".")
            signal.pause()
        finally:
            os._exit(0)
    assert os.read(hear, 1) == b"."
    states = [entry.state for entry in inspection.tasks(backend)]
    backend.close()
    after = [entry.state for entry in inspection.tasks(backend)]
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert states == [State.RUNNING, State.READY]
    assert after == [State.READY, State.READY]


def test_the_file_cannot_be_used(tmp_path: Path) -> None:
    """A missing directory, or a file that is not a database, is an error that names the file."""
    (tmp_path / "torn.sqlite").write_bytes(b"no database " * 100)
    for name in ("torn", "missing/mail"):
        with pytest.raises(SpoolerUnusable, match=f"{name}.sqlite cannot be used"):
            SqliteBackend(str(tmp_path / name)).send([sealed(codec.encode(raw_message("task")))])


def test_only_so_much_history(tmp_path: Path) -> None:
    """The settings limit the runs that are kept."""
    backend = SqliteBackend(str(tmp_path / "mail"), Settings(history_limit=2, history_age=60))
    now = time.time()
    backend.record([Record(f"{number}", "task", "processed", 1, now, 0.1, 1) for number in range(5)])
    assert [record.id for record in inspection.runs(backend)] == ["4", "3"]
    backend.record([Record("old", "task", "processed", 1, now - 61, 0.1, 1)])
    assert [record.id for record in inspection.runs(backend)] == ["4"]


class Told(logging.Handler):
    """Notes that ``exchange`` has failed once."""

    def __init__(self) -> None:
        super().__init__()
        self.failed = threading.Event()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
        if "tried again" in self.lines[-1]:
            self.failed.set()


def test_an_end_is_stored_when_the_file_can_be_used_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While another process keeps the file locked, ``exchange`` tries again, and the supervisor's notes are logged."""
    monkeypatch.setattr("unspool_sqlite.store._BUSY", 0.01)
    monkeypatch.setattr("unspool_sqlite.backend._AGAIN", 0.01)
    told = Told()
    monkeypatch.setattr(logging.getLogger("unspool.sqlite"), "handlers", [told])
    backend = SqliteBackend(str(tmp_path / "mail"))
    (id,) = backend.send([sealed(codec.encode(raw_message("task")))])
    claim = claim_one(backend, short_id(id))
    assert isinstance(claim, Claim)
    with contextlib.closing(sqlite3.connect(tmp_path / "mail.sqlite", isolation_level=None)) as database:
        database.execute("BEGIN EXCLUSIVE")
        backend.mark(claim.ref, Interrupted())
        backend.mark(claim.ref, DeferOnCrash(1.0))
        assert ["database is locked" in line for line in told.lines] == [True, True]
        settling = threading.Thread(target=settle_one, args=(backend, claim, Ack()))
        settling.start()
        assert told.failed.wait(60)
        database.execute("ROLLBACK")
    settling.join()
    assert inspection.find(backend, id) is None
    backend.close()


def link_of(fd: int) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return ""


def test_a_closed_descriptor_is_noticed(tmp_path: Path) -> None:
    """A task that closes all descriptors, or opens another file under the number, has ended its worker's lock."""
    for reopen in (False, True):
        backend = SqliteBackend(str(tmp_path / f"mail{reopen}"))
        (id,) = backend.send([sealed(codec.encode(raw_message("task")))])
        assert not backend.has_lost_descriptors()
        claim_one(backend, short_id(id))
        assert not backend.has_lost_descriptors()
        (lock,) = [fd for fd in range(3, 1000) if f"mail{reopen}.locks" in link_of(fd)]
        os.close(lock)
        other = os.open(os.devnull, os.O_RDONLY) if reopen else lock
        assert other == lock
        assert backend.has_lost_descriptors()
        backend.close()
        if reopen:
            os.close(other)  # it is still open
