"""Lost connections and temporary refusals of the server: no task, claim or end is lost."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

import psycopg
import pytest

from unspool import inspection
from unspool.address import Address
from unspool.backends.change import Remove, Reprioritise, RunNow
from unspool.backends.depot import Parcel
from unspool.backends.keyvalue import EPHEMERAL
from unspool.backends.postgres import PostgresBackend, listing
from unspool.backends.postgres.claims import Claims
from unspool.backends.postgres.feed import PostgresFeed
from unspool.backends.postgres.sqlstate import Kind, kind_of
from unspool.errors import SpoolerUnreachable, TaskBusy
from unspool.message import Ack, Claim, Content, Disposition, End, Interrupted, Record, Retry, State, Verdict
from unspool.testing.exchange import claim_one, sealed, settle_one

from ..runtime.conftest import PATIENCE, Place
from .conftest import look_at, migrate, queue_in, wait_until
from .server import Server
from .test_ahead import send

HELD = """
    @Spooler.task(retry_delay=0.1, retry_jitter=0)
    def held(name):
        hold(name)
        return True

    @Spooler.task
    def noted(word):
        note(word)
        return True

    @Spooler.task
    async def coroutine(name):
        hold(name)
        return True
"""


@pytest.fixture
def backend(address: Address) -> Iterator[PostgresBackend]:
    """Yield the backend of a process that sends, lists and works."""
    with contextlib.closing(look_at(address)) as backend:
        yield backend


def end_session(backend: PostgresBackend) -> None:
    """End the session of a backend by the server, and wait until it has ended."""
    connection = backend.session.connection
    assert connection is not None
    with backend.connector.lend() as control:
        control.execute("SELECT pg_terminate_backend(%s, 5000)", [connection.info.backend_pid])


def end_all_sessions(server: Server) -> None:
    """End all sessions of unspool on the server."""
    server.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
        "WHERE application_name = 'unspool' AND pid <> pg_backend_pid()"
    )


# --- tasks


def test_what_was_taken_when_the_answer_was_lost(backend: PostgresBackend) -> None:
    """Tasks that were reserved by a call whose answer was lost are free again at once."""
    refs = send(backend, 3)
    known = backend.feed()
    known.refresh()
    (first,) = known.take(1)
    assert len(backend.session.rows("take", known._values(limit=2))) == 2  # type: ignore[attr-defined]  # noqa: SLF001  an answer that is lost
    end_session(backend)
    wait_until(lambda: known.refresh().head)
    assert [ticket.ref for ticket in known.take(3)] == refs[1:]
    claim = claim_one(backend, first.ref)
    assert isinstance(claim, Claim)
    settle_one(backend, claim, Ack())
    known.close()


def test_a_claim_whose_answer_was_lost(address: Address, backend: PostgresBackend) -> None:
    """A claim whose answer was lost was never run, so it counts neither an attempt nor a crash."""
    (ref,) = send(backend, 1)
    supervisor = backend.feed()
    supervisor.refresh()
    (ticket,) = supervisor.take(1)
    with contextlib.closing(look_at(address)) as worker:
        worker.session.owner = backend.session.owner
        worker.exchange((), [ref])
        worker.session.tasks.clear()
        end_session(worker)
        supervisor.done(ticket.ref, 0.0)  # it could not be claimed, its worker says
        wait_until(lambda: supervisor.refresh().head)
        assert supervisor.take(1)
        claim = claim_one(worker, ref)
        assert isinstance(claim, Claim)
        assert (claim.attempts, claim.crashes) == (1, 0)
        settle_one(worker, claim, Ack())
    supervisor.close()


# --- claims


@pytest.mark.parametrize("task", ["held", "coroutine"])
def test_a_task_that_runs_while_all_sessions_end(place: Place, address: Address, server: Server, task: str) -> None:
    """Its worker does not notice, and its neighbour does: nothing is begun a second time, and its result is taken."""
    place.write_app(HELD)
    place.gate("long")
    running = place.run("--processes", "2")
    place.call(f"{task}('long')")
    place.wait_for_line("begun long")
    for word in ("one", "two"):
        end_all_sessions(server)
        place.call(f"noted('{word}')")
        running.wait_for_verdict(Verdict.PROCESSED, "noted")
    place.open_gate("long")
    assert running.wait_for_verdict(Verdict.PROCESSED, task)["attempt"] == 1
    assert running.stop() == 0
    assert place.lines().count("begun long") == 1
    assert not [line for line in running.seen if "refused" in str(line["message"])]
    assert sum(look_at(address).counts().tasks.values()) == 0


def test_a_worker_that_dies_after_its_session(place: Place, server: Server, address: Address) -> None:
    """What it said that it runs is nobody's then, and is begun again at once."""
    place.write_app(HELD)
    place.gate("long")
    running = place.run()
    place.call("held('long')")
    place.wait_for_line("begun long")
    (pid,) = [info.pid for info in look_at(address).live() if info.role == "worker"]
    end_all_sessions(server)
    os.kill(pid, signal.SIGKILL)
    place.wait_for_line("begun long", times=2)
    place.open_gate("long")
    assert running.wait_for_verdict(Verdict.PROCESSED, "held")["attempt"] == 2
    assert running.stop() == 0


@pytest.mark.parametrize("way", ["ends", "dies", "excused"])
def test_a_worker_that_outlives_its_session_and_its_supervisor(
    place: Place, server: Server, address: Address, way: str
) -> None:
    """The host of a live worker sees that it lives, so its task is not given to others before its run has ended."""
    place.write_app(HELD)
    place.gate("long")
    running = place.run()
    place.call("held('long')")
    place.wait_for_line("begun long")
    with contextlib.closing(look_at(address)) as backend:
        (worker,) = [info for info in backend.live() if info.role == "worker"]
        assert worker.host == ""
        if way == "excused":
            backend.mark(worker.ref, Interrupted())
        running.signal(signal.SIGSTOP)  # or it would connect again at once
        end_all_sessions(server)
        running.signal(signal.SIGKILL)
        running.process.wait(PATIENCE)
        other = backend.feed()
        assert isinstance(other, PostgresFeed)
        wait_until(lambda: other.refresh() and other._absent)  # noqa: SLF001  it has found no live supervisor
        other.refresh()
        assert other.take(1) == []
        if way == "ends":
            place.open_gate("long")
            wait_until(lambda: not sum(backend.counts().tasks.values()))
        else:
            os.kill(worker.pid, signal.SIGKILL)
            wait_until(lambda: other.refresh().head)
            (ticket,) = other.take(1)
            claim = claim_one(backend, ticket.ref)
            assert isinstance(claim, Claim)
            assert (claim.attempts, claim.crashes) == (2, int(way == "dies"))
            settle_one(backend, claim, Ack())
        other.close()


@pytest.mark.parametrize("way", ["dies", "excused"])
def test_a_task_of_dead_processes_that_is_moved(place: Place, server: Server, address: Address, way: str) -> None:
    """The run of a dead worker counts as a crash in a transfer, unless the run was marked as interrupted."""
    place.write_app(HELD)
    place.gate("long")
    running = place.run()
    place.call("held('long')")
    place.wait_for_line("begun long")
    with contextlib.closing(look_at(address)) as backend:
        (worker,) = [info for info in backend.live() if info.role == "worker"]
        (entry,) = inspection.tasks(backend)
        if way == "excused":
            backend.mark(worker.ref, Interrupted())
        running.signal(signal.SIGKILL)
        running.process.wait(PATIENCE)
        os.kill(worker.pid, signal.SIGKILL)
        left: list[Parcel] = []
        wait_until(lambda: left or left.extend(backend.depot.leave([entry.id])))
        assert [(one.attempts, one.crashes) for one in left] == [(1, int(way == "dies"))]


def test_commands_wait_for_a_supervisor_that_may_come_back(
    place: Place, server: Server, address: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a supervisor without a session may return, the tasks of its workers cannot be changed or moved.

    They can be once its time is over, or its process on this host has ended.
    """
    place.write_app(HELD)
    place.gate("long")
    running = place.run()
    place.call("held('long')")
    place.wait_for_line("begun long")
    with contextlib.closing(look_at(address)) as backend:
        (worker,) = [info for info in backend.live() if info.role == "worker"]
        (entry,) = inspection.tasks(backend)
        running.signal(signal.SIGSTOP)
        end_all_sessions(server)
        for _ in range(2):
            for change in (RunNow(), Remove(), Reprioritise(7)):
                with pytest.raises(TaskBusy):
                    backend.change(entry.id, change)
            assert backend.depot.leave([entry.id]) == []
        os.kill(worker.pid, signal.SIGKILL)  # nobody else can tell, for its supervisor may have another one
        with pytest.raises(TaskBusy):
            backend.change(entry.id, RunNow())
        monkeypatch.setattr(listing, "GRACE", 0.0)

        def can_be_retried() -> bool:  # soon: the server has to notice that the worker's session has ended
            with contextlib.suppress(TaskBusy):
                return bool(backend.change(entry.id, RunNow()))
            return False

        wait_until(can_be_retried)
        running.signal(signal.SIGCONT)
        place.wait_for_line("begun long", times=2)
        place.open_gate("long")
        running.wait_for_verdict(Verdict.PROCESSED, "held")
    assert running.stop() == 0


def test_claims_in_shared_memory() -> None:
    """Claims are read as they were added, and their places are reused. None is left of a process that has died."""
    claims = Claims()
    for number in range(1, 200):
        claims.add(number)
        claims.add(number)
        claims.discard(number - 1)
    claims.discard(5)
    assert claims.read() == {199}
    assert claims._items[0] == 2  # noqa: SLF001  the places that are used
    claims.clear()
    assert claims.read() == set()


# --- ends


@pytest.mark.parametrize("disposition", [Ack(), Retry(0.0)])
def test_an_end_that_the_server_does_not_take_now(
    backend: PostgresBackend, database: str, disposition: Disposition
) -> None:
    """If the statement of an end is cancelled while it waits for a lock, the same call succeeds later."""
    refs = send(backend, 4)
    claims = [claim for claim in backend.exchange((), refs[:3]).taken if isinstance(claim, Claim)]
    records = [Record(claim.id, "task", "processed", 1, 1.0, 0.1, 1) for claim in claims]
    ends = [End(claim, disposition, record) for claim, record in zip(claims[:2], records, strict=False)]
    session = backend.session.connection
    assert session is not None
    pid = session.info.backend_pid
    blocked = "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND wait_event_type = 'Lock'"
    with psycopg.connect(database, autocommit=True) as control, psycopg.connect(database) as locker:
        locker.execute("LOCK TABLE unspool.task IN ACCESS EXCLUSIVE MODE")
        failures: list[SpoolerUnreachable] = []

        def settle() -> None:
            while True:
                try:
                    backend.exchange([end._replace(repeated=bool(failures)) for end in ends], refs[3:])
                    return
                except SpoolerUnreachable as error:
                    failures.append(error)

        thread = threading.Thread(target=settle)
        thread.start()
        for count in range(2):
            wait_until(lambda: control.execute(blocked, [pid]).fetchone())
            control.execute("SELECT pg_cancel_backend(%s)", [pid])
            wait_until(lambda count=count: len(failures) > count)
        locker.rollback()
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert len(failures) == 2
    assert len(inspection.runs(backend)) == 2
    assert backend.counts().tasks[State.RUNNING] == 2
    assert backend.counts().tasks[State.READY] == 2 * isinstance(disposition, Retry)


def test_a_registration_that_the_server_does_not_take_now(backend: PostgresBackend, database: str) -> None:
    """A worker whose registration is cancelled continues, and is registered later."""
    registration = backend.register("worker")
    with psycopg.connect(database, autocommit=True) as control, psycopg.connect(database) as locker:
        locker.execute("LOCK TABLE unspool.process IN ACCESS EXCLUSIVE MODE")
        thread = threading.Thread(target=registration.running, args=("", 0.0))
        thread.start()
        cancel = (
            "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query ~ 'process'"
        )
        wait_until(lambda: control.execute(cancel).fetchone())
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert backend.session.known_key("worker") is None
    assert [info.role for info in backend.live()] == []
    backend.session.key("worker")
    assert [info.role for info in backend.live()] == ["worker"]
    registration.close()


# --- settings


def test_settings_of_the_database(server: Server) -> None:
    """A session sets all settings that it relies on, and senders set those that their statements rely on."""
    server.execute("CREATE DATABASE hostile")
    url = server.url("hostile", client_encoding="LATIN1")
    try:
        migrate(url)
        settings = {
            "statement_timeout": "1ms", "lock_timeout": "1ms", "idle_session_timeout": "1ms",
            "idle_in_transaction_session_timeout": "1ms", "transaction_timeout": "1ms",
            "default_transaction_isolation": "serializable", "default_transaction_deferrable": "on",
            "search_path": "pg_temp", "synchronous_commit": "off", "row_security": "off",
        }  # fmt: skip
        own = {name: "0" for name in settings if name.endswith("timeout")} | {
            "default_transaction_isolation": "read committed", "default_transaction_deferrable": "off",
            "search_path": "pg_catalog", "synchronous_commit": "off", "row_security": "on", "client_encoding": "UTF8",
        }  # fmt: skip
        for name, value in settings.items():
            if name not in ("statement_timeout", "idle_session_timeout", "transaction_timeout"):
                server.execute(f"ALTER DATABASE hostile SET {name} = '{value}'")
        for name in ("statement_timeout", "idle_session_timeout", "transaction_timeout"):
            server.execute(f"ALTER DATABASE hostile SET {name} = '10s'")
        with contextlib.closing(look_at(queue_in(url))) as backend:
            backend.session.key("worker")
            session = backend.session.connection
            assert session is not None
            query = "SELECT name, setting FROM pg_settings WHERE name = ANY(%s)"
            assert dict(session.execute(query, [list(own)]).fetchall()) == own
            with backend.connector.lend() as sender:
                found = dict(sender.execute(query, [["synchronous_commit", "search_path"]]).fetchall())
            assert found == {"synchronous_commit": "on", "search_path": "pg_catalog"}
            backend.send([sealed(Content({"msg": b"task"}, b"", None, None))])
            assert backend.counts().tasks[State.READY] == 1
            assert backend.kv.put("key", b"", expect=backend.kv.put("key", b"", life=EPHEMERAL))
            assert [key for key, _ in backend.kv.scan("")] == ["key"]
    finally:
        server.execute("DROP DATABASE hostile WITH (FORCE)")


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("08006", Kind.AWAY), ("57P01", Kind.AWAY), ("57P03", Kind.AWAY), ("57P05", Kind.AWAY), ("25P03", Kind.AWAY),
        ("26000", Kind.AWAY), ("25006", Kind.READ_ONLY), ("40001", Kind.RETRY), ("40P01", Kind.RETRY),
        ("53100", Kind.RETRY), ("53300", Kind.RETRY), ("55P03", Kind.RETRY), ("57014", Kind.RETRY),
        ("58030", Kind.RETRY), ("XX001", Kind.DAMAGED), ("42501", Kind.REFUSED), ("42P01", Kind.REFUSED),
    ],
)  # fmt: skip
def test_what_an_error_calls_for(code: str, kind: Kind) -> None:
    """An error is classified by its SQLSTATE.

    If the connection was lost with it, a temporary error requires a new one.
    """
    error = psycopg.errors.lookup(code)()
    assert kind_of(error) is kind
    if kind in (Kind.RETRY, Kind.REFUSED):
        assert kind_of(error, lost=True) is Kind.AWAY
