"""The key-value table on a real server: sessions and servers that end, processes of other machines, and old schemas."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import psycopg
import pytest

from unspool.address import Address
from unspool.backends.keyvalue import EPHEMERAL, Item, Until
from unspool.backends.postgres import PostgresBackend, keyvalue, schema, sql
from unspool.backends.postgres.sqlstate import Transient
from unspool.errors import SpoolerUnusable
from unspool.message import Content
from unspool.settings import Settings
from unspool.testing.exchange import sealed

from ..runtime.conftest import PATIENCE
from .conftest import look_at, migrate, queue_in, wait_for_ends, wait_until
from .proxy import Proxy
from .server import Server, serving
from .test_sessions import end_session

LEFT = "SELECT count(*) FROM unspool.item WHERE spooler = %s"
HOLDERS = "SELECT count(*) FROM unspool.process WHERE spooler = %s AND role LIKE '%%holder'"


@pytest.fixture
def backend(address: Address) -> Iterator[PostgresBackend]:
    """Yield the backend of a process that uses the table."""
    with contextlib.closing(look_at(address)) as backend:
        yield backend


@pytest.fixture(scope="module")
def own() -> Iterator[Server]:
    """Yield a server that a test can stop and start."""
    with serving() as server:
        migrate(server.url())
        yield server


@pytest.fixture
def other(address: Address) -> Iterator[PostgresBackend]:
    """Yield another backend on the same table, with its own session."""
    with contextlib.closing(look_at(address)) as backend:
        yield backend


def count(url: str, query: str, spooler: str) -> int:
    """Return the number that a query returns for a queue."""
    with psycopg.connect(url) as connection:
        row = connection.execute(query, [spooler]).fetchone()
    assert row is not None
    return int(row[0])


@contextlib.contextmanager
def waiting(backend: PostgresBackend, key: str, version: int) -> Iterator[list[object]]:
    """A thread that waits for a change of a key, and has begun to listen. The list has the result at the end."""
    found: list[object] = []

    def wait() -> None:
        try:
            found.append(backend.kv.wait({key: version}, PATIENCE))
        except SpoolerUnusable as error:
            found.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    try:
        wait_until(lambda: listeners(backend))
        yield found
    finally:
        thread.join(PATIENCE)
    assert not thread.is_alive()


def listeners(backend: PostgresBackend) -> list[int]:
    """Return the pids of the server's processes whose last statement on this queue was that of a wait."""
    query = (
        "SELECT pid FROM pg_stat_activity WHERE application_name = 'unspool' AND state = 'idle' "
        "AND query LIKE '-- Returns items by their keys%'"
    )
    with psycopg.connect(backend.connector._url) as connection:  # noqa: SLF001  it has a password
        pids = [pid for (pid,) in connection.execute(query)]
    idle = {one.info.backend_pid for one in backend.connector._idle}  # noqa: SLF001  these wait for nothing
    return [pid for pid in pids if pid not in idle]


@contextlib.contextmanager
def holding(backend: PostgresBackend, key: str) -> Iterator[int]:
    """Start a child that puts an ephemeral item and then waits. Yield its pid, and kill it at the end."""
    hear, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            backend.kv.put(key, b"child", life=EPHEMERAL)
            os.write(tell, b".")
            signal.pause()
        finally:
            os._exit(1)
    os.close(tell)
    try:
        assert os.read(hear, 1) == b"."
        yield pid
    finally:
        os.close(hear)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def kill(pid: int) -> None:
    """Kill a child."""
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


# --- the schema


@pytest.fixture
def old(server: Server) -> Iterator[Address]:
    """Return a queue in a database whose schema has no key-value table yet."""
    server.execute("CREATE DATABASE old")
    url = server.url("old")
    with psycopg.connect(url) as connection:
        connection.execute(schema._FIRST)  # noqa: SLF001  the oldest schema
        for number in range(1, sql.ITEMS):
            connection.execute(sql.step(number))
        connection.execute("INSERT INTO unspool.version VALUES (%s, 1)", [sql.ITEMS - 1])
    yield queue_in(url)
    server.execute("DROP DATABASE old WITH (FORCE)")


def test_a_schema_without_the_table(old: Address) -> None:
    """Each use of a schema of an earlier version fails with the command to run, and works after it without a
    restart."""
    with contextlib.closing(look_at(old)) as backend:
        uses: list[Callable[[], object]] = [
            lambda: backend.send([sealed(Content({"msg": b"task"}, b"", None, None))]),
            lambda: backend.kv.get(["key"]),
            lambda: backend.kv.put("key", b""),
            lambda: backend.kv.put("key", b"", expect=1),
            lambda: backend.kv.put("key", b"", life=EPHEMERAL),
            lambda: backend.kv.drop("key"),
            lambda: backend.kv.scan(""),
            lambda: backend.kv.wait({"key": 0}, PATIENCE),
        ]
        for use in uses:
            with pytest.raises(SpoolerUnusable, match=r"needs \d+; upgrade it with 'unspool migrate'"):
                use()
        assert migrate(old.url) == (sql.ITEMS - 1, sql.CURRENT)
        assert backend.kv.put("key", b"", life=EPHEMERAL)
        assert [key for key, _ in backend.kv.scan("")] == ["key"]
        backend.send([sealed(Content({"msg": b"task"}, b"", None, None))])
        feed = backend.feed()
        feed.refresh()
        assert len(feed.take(1)) == 1
        feed.close()


# --- changes


@pytest.mark.parametrize("end", ["pg_cancel_backend", "pg_terminate_backend"])
@pytest.mark.parametrize("expect", [None, 0, 1])
def test_a_put_that_the_server_does_not_carry_out(backend: PostgresBackend, end: str, expect: int | None) -> None:
    """If an administrator ends the statement or the session of a put, an error is raised and the old item stays."""
    version = backend.kv.put("key", b"old")
    assert version
    problems: list[SpoolerUnusable] = []

    def put() -> None:
        try:
            backend.kv.put("key", b"new", expect=version if expect else expect)
        except SpoolerUnusable as error:
            problems.append(error)

    blocked = "SELECT {}(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query ~ 'unspool.item'"
    url = backend.connector._url  # noqa: SLF001  it has a password
    with psycopg.connect(url, autocommit=True) as control, psycopg.connect(url) as locker:
        locker.execute("SELECT 1 FROM unspool.item WHERE version = %s FOR UPDATE", [version])
        thread = threading.Thread(target=put)
        thread.start()
        wait_until(lambda: control.execute(psycopg.sql.SQL(blocked).format(psycopg.sql.SQL(end))).fetchone())
        thread.join(PATIENCE)
    assert not thread.is_alive()
    (problem,) = problems
    assert isinstance(problem, Transient)
    assert backend.kv.get(["key"]) == [Item(b"old", version)]
    assert backend.kv.put("key", b"new", expect=version)


def test_a_change_survives_a_crash_of_the_server(own: Server) -> None:
    """Items survive a crash of the server, also with relaxed durability. No version is used twice."""
    settings = Settings(durability="relaxed")
    with contextlib.closing(PostgresBackend(queue_in(own.url()), settings)) as backend:
        version = backend.kv.put("key", b"before")
        assert version
        own.kill()
        own.start()
        assert backend.kv.get(["key"]) == [Item(b"before", version)]
        later = backend.kv.put("key", b"after", expect=version)
        assert later
        assert later > version


def test_past_items_are_deleted_in_passing(backend: PostgresBackend, address: Address) -> None:
    """Each put deletes some items whose time is over, and no others."""
    past = (
        "INSERT INTO unspool.item (spooler, key, value, until) "
        "SELECT %s, 'past/' || n, '', extract(epoch FROM now()) + CASE WHEN n <= 150 THEN -1 ELSE 3600 END "
        "FROM generate_series(1, 160) AS n"
    )
    with psycopg.connect(address.url) as connection:
        connection.execute(past, [address.spooler])
    for left in (60, 10, 10):
        assert backend.kv.put("key", b"")
        assert count(address.url, LEFT, address.spooler) == left + 1


# --- ephemeral items


def test_the_session_of_a_live_process_ends(
    backend: PostgresBackend, other: PostgresBackend, address: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its items stay, because its machine sees that it lives. It holds them again after its next use of the table."""
    monkeypatch.setattr(keyvalue, "GRACE", 0.0)
    version = backend.kv.put("slot", b"mine", life=EPHEMERAL)
    assert version
    end_session(backend)
    for _ in range(2):  # the first look notes the missing session
        assert other.kv.get(["slot"]) == [Item(b"mine", version)]
        assert other.kv.put("slot", b"taken", expect=0) is None
        assert [key for key, _ in other.kv.scan("")] == ["slot"]
    later = other.kv.put("slot", b"noted", expect=version)
    assert later
    assert backend.kv.get(["slot"]) == [Item(b"noted", later)]  # the life of the other process now
    assert backend.kv.put("slot", b"mine", life=EPHEMERAL)
    end_session(backend)
    assert backend.kv.put("more", b"", life=EPHEMERAL)
    query = "SELECT role FROM unspool.process WHERE spooler = %s AND role LIKE '%%holder'"
    with psycopg.connect(address.url) as connection:
        assert connection.execute(query, [address.spooler]).fetchall() == [("holder",)]
    assert other.kv.drop("slot")


@pytest.mark.parametrize("back", [True, False])
def test_the_session_of_a_process_on_another_machine_ends(
    backend: PostgresBackend, other: PostgresBackend, address: Address, monkeypatch: pytest.MonkeyPatch, back: bool
) -> None:
    """Whether the process lives is not known here: its items stay for a time in which it can come back."""
    version = backend.kv.put("slot", b"mine", life=EPHEMERAL)
    assert version
    with psycopg.connect(address.url) as connection:
        connection.execute("UPDATE unspool.process SET host = 'elsewhere 1 2 3' WHERE spooler = %s", [address.spooler])
    end_session(backend)
    assert other.session.key("claim")  # removes registrations without a session
    assert other.kv.get(["slot"]) == [Item(b"mine", version)]
    assert other.kv.put("slot", b"taken", expect=0) is None
    if back:
        assert backend.kv.get(["slot"]) == [Item(b"mine", version)]
    monkeypatch.setattr(keyvalue, "GRACE", 0.0)
    taken = other.kv.put("slot", b"taken", expect=0)
    assert (taken is None) is back
    assert backend.kv.get(["slot"]) == [Item(b"mine", version) if taken is None else Item(b"taken", taken)]
    assert bool(backend.kv.put("slot", b"again", expect=version, life=EPHEMERAL)) is back


def test_items_of_killed_processes_that_no_process_reads(
    backend: PostgresBackend, other: PostgresBackend, address: Address
) -> None:
    """Items and registrations of killed processes are deleted when another process first puts an ephemeral item."""
    with holding(backend, "one") as one, holding(backend, "two") as two:
        kill(one)
        kill(two)
    with psycopg.connect(address.url, autocommit=True) as control:
        wait_for_ends(control)
    assert count(address.url, LEFT, address.spooler) == 2
    assert other.kv.put("three", b"", life=EPHEMERAL)
    assert count(address.url, LEFT, address.spooler) == 1
    other.kv.drop("three")
    other.close()
    assert other.kv.put("four", b"", life=EPHEMERAL)
    assert count(address.url, HOLDERS, address.spooler) == 1


# --- waits


def test_a_wait_for_the_end_of_an_item(backend: PostgresBackend, address: Address) -> None:
    """A wait ends when the time of an item is over by the server's clock, and when the item's process is killed."""
    version = backend.kv.put("key", b"", life=Until(time.time() + 0.3))
    assert version
    assert backend.kv.wait({"key": version}, PATIENCE)
    with holding(backend, "held") as pid:
        (item,) = backend.kv.get(["held"])
        assert item is not None
        with waiting(backend, "held", item.version) as found:
            kill(pid)
        assert found == [True]


def test_a_wait_whose_connection_ends(backend: PostgresBackend, other: PostgresBackend, address: Address) -> None:
    """A wait continues on another connection, and notices a change. Other threads can use the backend meanwhile."""
    version = backend.kv.put("key", b"old", life=EPHEMERAL)
    assert version
    backend.kv.put("key", b"old", expect=version)
    (item,) = backend.kv.get(["key"])
    assert item is not None
    with waiting(backend, "key", item.version) as found:
        (pid,) = listeners(backend)
        with psycopg.connect(address.url, autocommit=True) as control:
            control.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
        backend.send([sealed(Content({"msg": b"task"}, b"", None, None))])
        assert backend.session.key("claim")
        wait_until(lambda: listeners(backend))
        assert listeners(backend) != [pid]
        assert not found
        other.kv.put("key", b"new")
    assert found == [True]


def test_a_wait_while_the_server_restarts(own: Server) -> None:
    """It lasts until the server is back and the key changes. Ephemeral items of live processes outlast a restart."""
    address = queue_in(own.url())
    with contextlib.closing(look_at(address)) as backend, contextlib.closing(look_at(address)) as other:
        version = backend.kv.put("slot", b"mine", life=EPHEMERAL)
        assert version
        with waiting(backend, "slot", version) as found:
            own.restart()
            assert other.kv.get(["slot"]) == [Item(b"mine", version)]
            assert other.kv.put("slot", b"taken", expect=0) is None
            assert not found
            assert other.kv.drop("slot", expect=version)
        assert found == [True]


def test_a_server_that_is_away(address: Address, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wait without a server tries until its timeout, and then raises. All other methods raise at once."""
    passed = 0.0
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + passed, sleep=time.sleep)
    monkeypatch.setattr(keyvalue, "time", clock)
    proxy = Proxy(server.port)
    with contextlib.closing(proxy), contextlib.closing(look_at(address)) as direct:
        url = server.url(port=proxy.port)
        with contextlib.closing(look_at(address._replace(url=url))) as backend:
            version = backend.kv.put("key", b"old")
            assert version
            with waiting(backend, "key", version) as found:
                passed = PATIENCE
                proxy.cut()
            assert "cannot be reached" in str(found[0])
            uses: list[Callable[[], object]] = [
                lambda: backend.kv.wait({"key": version}, PATIENCE),
                lambda: backend.kv.get(["key"]),
                lambda: backend.kv.put("key", b"new"),
                lambda: backend.kv.put("key", b"new", life=EPHEMERAL),
            ]
            for use in uses:
                with pytest.raises(SpoolerUnusable, match="cannot be reached"):
                    use()
            assert direct.kv.get(["key"]) == [Item(b"old", version)]
            proxy.restore()
            assert backend.kv.put("key", b"new", expect=version)
