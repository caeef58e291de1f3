"""The schema, and servers that cannot be used: each error is one line that says what to do, and no task is lost."""

import contextlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from unspool import inspection, wire
from unspool.address import parse
from unspool.backends.keyvalue import EPHEMERAL
from unspool.backends.postgres import schema, sql
from unspool.errors import SpoolerUnusable
from unspool.message import Ack, Claim, Content, Record, State, Verdict
from unspool.testing.exchange import claim_one, sealed, settle_one

from ..runtime.conftest import PATIENCE, Place
from .conftest import look_at, migrate, place_at, queue_in, wait_until
from .server import Server, serving

MANY = 20_000
SCRIPT = str(Path(sys.executable).with_name("unspool"))


@pytest.fixture
def empty(server: Server) -> Iterator[str]:
    """Return the URL of a database without the schema."""
    server.execute("CREATE DATABASE empty")
    yield server.url("empty")
    server.execute("DROP DATABASE empty WITH (FORCE)")


@pytest.fixture
def quiet(server: Server) -> Iterator[None]:
    """The server vacuums and analyzes nothing by itself: rows that it still sees then are not used again."""
    server.execute("ALTER SYSTEM SET autovacuum = off")
    server.execute("SELECT pg_reload_conf()")
    working = "SELECT 1 FROM pg_stat_activity WHERE backend_type LIKE 'autovacuum%'"
    wait_until(lambda: server.execute(working) is None)
    yield
    server.execute("ALTER SYSTEM RESET autovacuum")
    server.execute("SELECT pg_reload_conf()")


def unspool(*words: str, url: str, status: int = 0) -> str:
    """Run a command on the spooler ``mail`` of a database. Return its output, or the line with which it fails."""
    spooler = f"{url}{'&' if '?' in url else '?'}spooler=mail"
    done = subprocess.run(
        [SCRIPT, *words, "--spooler", spooler], capture_output=True, text=True, timeout=2 * PATIENCE, check=False
    )
    assert done.returncode == status, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    if status:
        assert done.stderr.count("\n") == 1, done.stderr
        return done.stderr
    return done.stdout


# --- the schema


def test_migrate(empty: str) -> None:
    """``migrate`` creates the schema, and does nothing the second time. Without the schema, each command names it."""
    for words in (["status"], ["ls"], ["enqueue", "app:f"], ["run", "app", "--require-ready"]):
        assert "'unspool migrate'" in unspool(*words, url=empty, status=3)
    assert f"now has version {sql.CURRENT}" in unspool("migrate", url=empty)
    assert f"has version {sql.CURRENT}" in unspool("migrate", url=empty)
    assert unspool("ls", url=empty) == ""
    with psycopg.connect(empty) as connection:
        names = connection.execute("SELECT nspname FROM pg_namespace WHERE nspname !~ '^(pg_|information)'").fetchall()
    assert names == [("public",), ("unspool",)]


def test_migrations_at_once(empty: str) -> None:
    """If several processes migrate at once, one creates the schema and the others find it."""
    found: list[tuple[int, int]] = []
    threads = [threading.Thread(target=lambda: found.append(migrate(empty))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [(0, sql.CURRENT)] + 3 * [(sql.CURRENT, sql.CURRENT)]


def test_migrate_while_a_task_runs(place_here: tuple[Place, str]) -> None:
    """A migration waits for no task, and does not disturb running ones."""
    place, url = place_here
    place.gate("one")
    running = place.run()
    place.call("held('one')")
    place.wait_for_line("begun one")
    assert migrate(url) == (sql.CURRENT, sql.CURRENT)
    place.open_gate("one")
    running.wait_for_verdict(Verdict.PROCESSED)
    assert running.stop() == 0


def test_an_upgrade_with_tasks_in_it(empty: str) -> None:
    """What was sent, postponed and set aside under version 1 is there after it, and is run; what a worker of before
    does to the table goes on meanwhile."""
    _make_version_1(empty)
    with psycopg.connect(empty, autocommit=True) as old:
        row = (
            "INSERT INTO unspool.task (spooler, rank, due, state, attempts, reason, data) "
            "SELECT 'mail', 1000000000, extract(epoch FROM now()) + %s, %s, %s, %s, %s FROM generate_series(1, %s)"
        )
        data = wire.dump({"msg": b"task"}, b"", None)
        old.execute(row, [0, 0, 0, "", data, MANY])
        old.execute(row, [3600, 1, 1, "", data, 3])
        old.execute(row, [0, 2, 3, "it failed", data, 2])
        assert "upgrade it with 'unspool migrate'" in unspool("ls", url=empty, status=3)
        stop = threading.Event()
        worked: list[int] = []
        worker = threading.Thread(target=_work_as_version_1, args=(empty, stop, worked))
        worker.start()
        try:
            _until(lambda: len(worked) > 20)
            assert f"now has version {sql.CURRENT}" in unspool("migrate", url=empty)
            before = len(worked)
            _until(lambda: len(worked) > before + 20)
        finally:
            stop.set()
            worker.join()
    backend = look_at(parse(f"{empty}?spooler=mail"))
    assert backend.counts().tasks == {
        State.RUNNING: 0, State.READY: MANY - len(worked), State.DEFERRED: 3, State.DEAD: 2, State.CORRUPT: 0
    }  # fmt: skip
    dead = next(inspection.tasks(backend, frozenset({State.DEAD})))
    assert (dead.attempts, dead.reason) == (3, "it failed")
    feed = backend.feed()
    feed.refresh()
    (ticket,) = feed.take(1)
    claim = claim_one(backend, ticket.ref)
    assert isinstance(claim, Claim)
    assert claim.attempts == 1
    settle_one(backend, claim, Ack())
    assert backend.counts().tasks[State.READY] == MANY - len(worked) - 1
    feed.close()
    backend.close()


def _make_version_1(url: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute(schema._FIRST)  # noqa: SLF001  the oldest schema
        connection.execute(sql.step(1))
        connection.execute("INSERT INTO unspool.version VALUES (1, 1)")


def _work_as_version_1(url: str, stop: threading.Event, worked: list[int]) -> None:
    """Change the table as a worker of version 1 does: reserve, begin and delete, each in a transaction."""
    take = (
        "UPDATE unspool.task SET owner = 7 WHERE id = (SELECT id FROM unspool.task WHERE state = 0 AND owner IS NULL "
        "ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING id"
    )
    with psycopg.connect(url, autocommit=True) as connection:
        while not stop.is_set() and len(worked) < MANY - 1:
            row = connection.execute(take).fetchone()
            assert row is not None
            connection.execute("UPDATE unspool.task SET begun = 1, fence = 9, attempts = 1 WHERE id = %s", row)
            connection.execute("DELETE FROM unspool.task WHERE id = %s AND fence = 9", row)
            worked.append(row[0])


def _until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < deadline, "nothing goes on"
        threading.Event().wait(0.005)


def test_too_old_and_too_new(empty: str) -> None:
    """A schema that this version cannot use is refused by name and number. A newer one that it can use is accepted."""
    migrate(empty)
    backend = look_at(queue_in(empty))
    for number, oldest, problem in [(sql.REQUIRED - 1, 0, "upgrade it with"), (99, 99, "install a newer unspool")]:
        _set_version(empty, number, oldest)
        with pytest.raises(SpoolerUnusable, match=problem) as caught:
            backend.counts()
        assert "'unspool migrate" in str(caught.value)
    _set_version(empty, 99, sql.CURRENT)
    backend.counts()
    backend.close()


def _set_version(url: str, number: int, oldest: int) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("UPDATE unspool.version SET number = %s, oldest = %s", [number, oldest])


# --- servers


@pytest.fixture
def place_here(tmp_path: Path, database: str) -> Iterator[tuple[Place, str]]:
    """Return a place on the server, and the URL of the database."""
    with place_at(tmp_path, queue_in(database)) as place:
        place.write_app("""
            @Spooler.task
            def held(name):
                hold(name)
                return True
        """)
        yield place, database


def test_a_server_that_comes_later(tmp_path: Path) -> None:
    """A worker logs that it waits for the server, and continues. With --require-ready, it ends with status 3."""
    server = Server()
    try:
        server.start()
        migrate(server.url())
        address = queue_in(server.url())
        server.stop()
        assert "cannot be reached" in unspool("run", "app", "--require-ready", url=server.url(), status=3)
        assert "cannot be reached" in unspool("enqueue", "app:f", url=server.url(), status=3)
        with place_at(tmp_path, address) as place:
            place.write_app("""
                @Spooler.task
                def noted(word):
                    note(word)
            """)
            running = place.run()
            running.wait_for(lambda line: "cannot be reached" in str(line["message"]))
            running.wait_for(lambda line: "is away" in str(line["message"]))
            server.start()
            running.wait_for(lambda line: "is back" in str(line["message"]))
            place.call("noted('here')")
            running.wait_for_verdict(Verdict.SKIPPED)
            assert running.stop() == 0
    finally:
        server.close()


def test_a_wrong_password() -> None:
    """The error says that the password is wrong, and does not contain it."""
    with serving() as server:
        server.execute("CREATE ROLE ann LOGIN PASSWORD 'right'")
        rules = server.data / "pg_hba.conf"
        rules.write_text("host all ann 127.0.0.1/32 scram-sha-256\n" + rules.read_text())
        server.execute("SELECT pg_reload_conf()")
        url = f"postgresql://ann:wr0ng@127.0.0.1:{server.port}/postgres"
        for words in (["status"], ["run", "app"]):
            said = unspool(*words, url=url, status=3)
            assert "password authentication failed" in said
            assert "wr0ng" not in said


def test_a_hot_standby(tmp_path: Path) -> None:
    """Each command says that it is a replica, and what to name instead; where both are named, the primary is used. Once
    it is promoted, it serves what it has been sent."""
    with serving() as primary, contextlib.closing(primary.standby()) as standby:
        migrate(primary.url())
        standby.start()
        both = f"postgresql://postgres@127.0.0.1:{standby.port},127.0.0.1:{primary.port}/postgres"
        unspool("enqueue", "app:f", url=both)
        _caught_up(primary, standby)
        for words in (["status"], ["ls"], ["enqueue", "app:f"], ["run", "app"], ["migrate"]):
            said = unspool(*words, url=standby.url(), status=3)
            assert "read-only replica; name the primary" in said
        primary.stop()
        standby.execute("SELECT pg_promote()")
        assert "app:f" in unspool("ls", url=both)
        with place_at(tmp_path, parse(f"{both}?spooler=mail")) as place:
            place.write_app("""
                @Spooler.task
                def noted(word):
                    note(word)
            """)
            place.call("noted('here')")
            place.burst()
            assert place.lines() == ["here"]


def _caught_up(primary: Server, standby: Server) -> None:
    """Wait until the standby has replayed what the primary has written."""
    (end,) = primary.execute("SELECT pg_current_wal_lsn()::text")
    deadline = time.monotonic() + PATIENCE
    while not standby.execute("SELECT pg_last_wal_replay_lsn() >= %(end)s::pg_lsn", end=end)[0]:
        assert time.monotonic() < deadline, "the standby does not follow"


def test_a_role_that_may_only_read(server: Server) -> None:
    """A role that may only read gets the error of a replica, because its sessions look the same."""
    server.execute("CREATE ROLE reader LOGIN")
    server.execute("ALTER ROLE reader SET default_transaction_read_only = on")
    said = unspool("status", url=server.url().replace("postgres@", "reader@"), status=3)
    assert "read-only replica; name the primary" in said


def test_another_role_needs_rights(server: Server) -> None:
    """A role without rights gets an error that says what is missing."""
    server.execute("CREATE ROLE stranger LOGIN")
    said = unspool("status", url=server.url().replace("postgres@", "stranger@"), status=3)
    assert "permission denied for schema unspool" in said


def test_roles_as_the_guide_grants_them(server: Server, database: str) -> None:
    """With the rights in the guide, a sender can send, and the role of a worker can serve."""
    server.execute("CREATE ROLE sender LOGIN")
    server.execute("CREATE ROLE server LOGIN")
    server.execute("GRANT USAGE ON SCHEMA unspool TO sender, server")
    server.execute("GRANT INSERT, SELECT ON unspool.task TO sender")
    server.execute("GRANT SELECT ON unspool.version TO sender")
    server.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA unspool TO server")
    address = queue_in(database)
    sender, worker = (
        look_at(address._replace(url=address.url.replace("postgres@", f"{role}@"))) for role in ("sender", "server")
    )
    sender.send([sealed(Content({"msg": b"task"}, b"", None, None))])
    feed = worker.feed()
    feed.refresh()
    (ticket,) = feed.take(1)
    claim = claim_one(worker, ticket.ref)
    assert isinstance(claim, Claim)
    settle_one(worker, claim, Ack(), Record(claim.id, "task", "processed", 1, 1.0, 0.1, 1))
    assert [run.verdict for run in inspection.runs(worker)] == ["processed"]
    assert worker.kv.put("key", b"", expect=worker.kv.put("key", b"", life=EPHEMERAL))
    assert worker.kv.drop("key")
    with pytest.raises(SpoolerUnusable, match="lists the rights"):
        sender.kv.get(["key"])
    feed.close()
    sender.close()
    worker.close()


def test_a_database_in_another_encoding(server: Server) -> None:
    """Tracebacks may hold any character: the schema is not made where they would be refused."""
    server.execute("CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0")
    assert "has the encoding LATIN1" in unspool("migrate", url=server.url("latin"), status=3)


def test_workers_are_listed(place_here: tuple[Place, str]) -> None:
    """Each live worker is listed with its host and its task, by any process."""
    place, _ = place_here
    place.gate("one")
    running = place.run()
    place.call("held('one')")
    place.wait_for_line("begun one")
    spooler = place.env["UNSPOOL_SPOOLERS"]
    done = subprocess.run(
        [SCRIPT, "status", "--workers", "--spooler", spooler], capture_output=True, text=True, check=True
    )
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert lines[0] == ["SPOOLER", "HOST", "PID", "ROLE", "TASK", "SINCE", "ID"]
    rows = {line[3]: line for line in lines[1:]}
    assert rows["supervisor"][1:3] == [socket.gethostname(), str(running.process.pid)]
    assert rows["worker"][4].endswith(":held")
    assert rows["worker"][6].startswith(rows["worker"][0] + "/")
    place.open_gate("one")
    running.wait_for_verdict(Verdict.PROCESSED)
    assert running.stop() == 0


def test_churn_leaves_the_table_as_small_as_it_was(empty: str, quiet: None) -> None:
    """Thousands of tasks come and go, each rewritten twice: vacuumed as its settings have it, the table stays flat, and
    so does the history."""
    migrate(empty)
    backend = look_at(queue_in(empty))
    feed = backend.feed()
    sizes = []
    with psycopg.connect(empty, autocommit=True) as connection:
        # The server's own vacuum, at work at the same moment, would keep what it still sees from being used again.
        connection.execute("ALTER TABLE unspool.task SET (autovacuum_enabled = off)")
        for _ in range(12):
            backend.send([sealed(Content({"msg": b"task"}, b"x" * 100, None, None))] * 300)
            feed.refresh()
            for ticket in feed.take(300):
                claim = claim_one(backend, ticket.ref)
                assert isinstance(claim, Claim)
                settle_one(backend, claim, Ack(), Record(claim.id, "task", "processed", 1, 1.0, 0.1, 1))
                feed.done(ticket.ref, None)
            connection.execute("VACUUM unspool.task")
            row = connection.execute("SELECT pg_total_relation_size('unspool.task')").fetchone()
            assert row is not None
            sizes.append(row[0])
        options = connection.execute("SELECT reloptions FROM pg_class WHERE relname = 'task'").fetchone()
    feed.close()
    backend.close()
    assert max(sizes[3:]) <= 1.2 * sizes[2], sizes
    assert options is not None
    assert "autovacuum_vacuum_scale_factor=0" in options[0]
