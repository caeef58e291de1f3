"""Commands and senders end within a bounded time when tables are locked or the server does not answer."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator

import psycopg
import pytest

from unspool import inspection
from unspool.address import Address
from unspool.backends.change import Remove, Reprioritise, RunNow
from unspool.backends.postgres import PostgresBackend, depot, timelimit
from unspool.backends.postgres.sqlstate import Away, Transient
from unspool.message import Content, Record, State
from unspool.testing.exchange import sealed

from .conftest import look_at, queue_in
from .server import Server

LIMIT = 0.3
TABLES = "unspool.task, unspool.run, unspool.process, unspool.spooler"

CALLS: dict[str, Callable[[PostgresBackend, str], object]] = {
    "send": lambda backend, _: send(backend, 1),
    "send many": lambda backend, _: send(backend, 2),
    "rm": lambda backend, id: backend.change(id, Remove()),
    "retry": lambda backend, id: backend.change(id, RunNow()),
    "ls": lambda backend, _: list(inspection.tasks(backend)),
    "ls --limit": lambda backend, _: list(inspection.tasks(backend, limit=3)),
    "show": inspection.read,
    "find": inspection.find,
    "status": lambda backend, _: backend.counts(),
    "labels": lambda backend, _: backend.counts("label"),
    "reprioritise": lambda backend, id: backend.change(id, Reprioritise(1)),
    "status --workers": lambda backend, _: backend.live(),
    "history": lambda backend, _: inspection.runs(backend),
    "history of one": lambda backend, id: inspection.runs(backend, id=id),
    "record": lambda backend, id: backend.record([Record(id, "task", "crashed", 1, 1.0, 0.1, 1)]),
    "pause": lambda backend, _: backend.switch(paused=True),
    "set-period": lambda backend, _: backend.switch(period=5),
    "move from": lambda backend, _: backend.depot.departures(),
    "move some": lambda backend, id: (backend.depot.departures(), backend.depot.leave([id])),
    "move to": lambda backend, _: backend.depot.accept([]),
}


@pytest.fixture
def hasty(address: Address, monkeypatch: pytest.MonkeyPatch) -> Iterator[PostgresBackend]:
    """Return a queue whose server must answer within a moment."""
    monkeypatch.setattr(timelimit.Connection, "patience", LIMIT)
    monkeypatch.setattr(depot, "PATIENCE", LIMIT)
    monkeypatch.setattr(timelimit, "_CANCEL", LIMIT)
    with contextlib.closing(look_at(address)) as backend:
        yield backend


def send(backend: PostgresBackend, count: int) -> list[str]:
    """Send tasks, and return their ids."""
    return backend.send([sealed(Content({"msg": b"task"}, b"%d" % number, None, None)) for number in range(count)])


@pytest.mark.parametrize("call", CALLS)
def test_tables_are_locked(hasty: PostgresBackend, database: str, call: str) -> None:
    """A statement that waits too long for a lock is cancelled and changes nothing. The error says what to look for."""
    (id,) = send(hasty, 1)
    with psycopg.connect(database) as locker:
        locker.execute(f"LOCK TABLE {TABLES} IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(Transient, match=r"no answer within 0\.3 s.*pg_blocking_pids") as raised:
            CALLS[call](hasty, id)
        assert not isinstance(raised.value, Away)
    (entry,) = inspection.tasks(hasty)
    assert (entry.id, entry.state) == (id, State.READY)
    assert inspection.runs(hasty) == []
    assert not hasty.switch().paused


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.usefixtures("hasty")
def test_the_server_is_silent(server: Server, call: str) -> None:
    """A connection to a server that does not answer is closed, and the next call opens another."""
    backend = look_at(queue_in(server.url()))
    with contextlib.closing(backend), psycopg.connect(server.url(), autocommit=True) as control:
        (id,) = send(backend, 1)
        if call.startswith("move"):
            backend.depot.departures()
        pids = "SELECT pid FROM pg_stat_activity WHERE application_name = 'unspool'"
        stopped = [pid for (pid,) in control.execute(pids).fetchall()]
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        try:
            with pytest.raises(Away, match=r"no answer within 0\.3 s"):
                CALLS[call](backend, id)
        finally:
            for pid in stopped:
                os.kill(pid, signal.SIGCONT)
        assert inspection.find(backend, id) is not None or call == "rm"


def test_a_table_is_locked_while_tasks_are_listed(address: Address, database: str) -> None:
    """No lock is held while the caller handles a task.

    Otherwise ``purge`` and a session that locks the table would block each other.
    """
    with contextlib.closing(look_at(address)) as backend:
        ids = send(backend, 3)
        listed = inspection.tasks(backend)
        assert next(listed).id == ids[0]
        with psycopg.connect(database) as locker:
            locker.execute("SET lock_timeout = '5s'")
            locker.execute(f"LOCK TABLE {TABLES} IN ACCESS EXCLUSIVE MODE")
        backend.change(ids[0], Remove())
        assert [entry.id for entry in listed] == ids[1:]


def test_more_tasks_than_are_read_at_once(address: Address) -> None:
    """Several pages are listed in the order of execution. Tasks that leave their state meanwhile are skipped."""
    with contextlib.closing(look_at(address)) as backend:
        ids = send(backend, 2500)
        backend.send([sealed(Content({"msg": b"task"}, b"first", 0, None))])
        listed = inspection.tasks(backend, frozenset({State.READY}))
        assert next(listed).priority == 0
        backend.change(ids[2000], Remove())
        assert [entry.id for entry in listed] == ids[:2000] + ids[2001:]
        assert [entry.id for entry in inspection.tasks(backend, limit=1501)][1:] == ids[:1500]
