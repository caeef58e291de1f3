"""Sending in the caller's own transaction, with each supported library: both are committed, or neither is."""

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import django
import psycopg
import psycopg2.extras
import pytest
import sqlalchemy
from django.conf import settings as django_settings
from django.db import transaction
from psycopg import rows
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session

from unspool import Spooler, configure, inspection, raw_message, registry
from unspool.address import Address
from unspool.backends.postgres import PostgresBackend
from unspool.errors import OptionRefused, PayloadRefused, SpoolerUnusable
from unspool.message import State

from .conftest import look_at, url_of
from .server import Server


@Spooler.task(serializer="json")
def invoice(number: int) -> bool:
    """The task that the tests send."""
    return True


@pytest.fixture(autouse=True)
def spooler(address: Address) -> Iterator[PostgresBackend]:
    """Return the default spooler, which is on the server."""
    configure(spoolers=[url_of(address)])
    yield look_at(address)
    registry.backend().close()


def ready(backend: PostgresBackend) -> int:
    """Return the number of tasks that other sessions see."""
    return backend.counts().tasks[State.READY]


def test_psycopg(spooler: PostgresBackend, database: str) -> None:
    """A task is invisible before the commit, and does not exist after a rollback.

    The returned ids are those of the tasks.
    """
    with psycopg.connect(database) as connection:
        with connection.transaction():
            id = invoice.using(connection=connection)(1)
            assert ready(spooler) == 0
        assert ready(spooler) == 1
        entry = inspection.find(spooler, id)
        assert entry is not None
        assert entry.task.endswith(":invoice")
        with connection.transaction():
            invoice.using(connection=connection).enqueue_many([2, 3])
            raise psycopg.Rollback
        assert ready(spooler) == 1
        with connection.transaction():
            Spooler.send_many([raw_message("a"), raw_message("b")], connection=connection)
            Spooler.send_message_raw("c", connection=connection)
        assert [entry.task for entry in inspection.tasks(spooler)][1:] == ["a", "b", "c"]


def test_sqlalchemy(spooler: PostgresBackend, database: str) -> None:
    """Tasks can be sent within a Connection, even before its transaction has begun, and within a Session."""
    engine = sqlalchemy.create_engine(database.replace("postgresql://", "postgresql+psycopg://"))
    with engine.connect() as connection:
        invoice.using(connection=connection)(1)
        assert ready(spooler) == 0
        connection.commit()
        assert ready(spooler) == 1
        invoice.using(connection=connection)(2)
        connection.rollback()
        assert ready(spooler) == 1
    with Session(engine) as session:
        invoice.using(connection=session)(3)
        session.rollback()
        invoice.using(connection=session)(4)
        session.commit()
    assert ready(spooler) == 2
    engine.dispose()


@pytest.mark.parametrize("driver", ["psycopg", "psycopg_async", "asyncpg"])
def test_sqlalchemy_async(spooler: PostgresBackend, database: str, driver: str) -> None:
    """Within ``run_sync`` of its AsyncSession and AsyncConnection, in their transactions; on these themselves it is
    refused with the way out, and no coroutine is left that nobody awaits."""

    async def send() -> None:
        engine = create_async_engine(database.replace("postgresql://", f"postgresql+{driver}://"))
        async with AsyncSession(engine) as session:
            await session.run_sync(lambda sync: invoice.using(connection=sync)(1))
            assert ready(spooler) == 0
            await session.rollback()
            await session.run_sync(lambda sync: invoice.using(connection=sync).enqueue_many([2, 3]))
            await session.commit()
            assert ready(spooler) == 2
        async with engine.begin() as connection:
            await connection.run_sync(lambda sync: invoice.using(connection=sync)(4))
            scoped = async_scoped_session(async_sessionmaker(engine), scopefunc=lambda: 0)
            raw = (await connection.get_raw_connection()).driver_connection
            for refused in (session, connection, scoped, raw):
                with pytest.raises(OptionRefused, match="run_sync"):
                    invoice.using(connection=refused)(5)
        assert ready(spooler) == 3
        await engine.dispose()

    asyncio.run(send())


def test_sqlalchemy_that_streams(spooler: PostgresBackend, database: str) -> None:
    """Tasks can be sent within a connection that uses server-side cursors."""
    engine = sqlalchemy.create_engine(database.replace("postgresql://", "postgresql+psycopg2://"))
    for options in ({"stream_results": True}, {"yield_per": 10}):
        with engine.connect().execution_options(**options) as connection, connection.begin():
            invoice.using(connection=connection)(1)
    assert ready(spooler) == 2
    engine.dispose()


def a_pipeline(connection: psycopg.Connection[Any]) -> None:
    """Send in a pipeline, whose statements are answered later."""
    with connection.pipeline():
        invoice.using(connection=connection)(1)
        connection.execute("SELECT 1")


def with_a_setting(text: str) -> Callable[[psycopg.Connection[Any]], None]:
    """Send after a setting of the session was changed."""

    def send(connection: psycopg.Connection[Any]) -> None:
        connection.execute(text)
        invoice.using(connection=connection)(1)

    return send


@pytest.mark.parametrize(
    "settings",
    [
        {"row_factory": rows.dict_row},
        {"row_factory": rows.scalar_row},
        {"row_factory": rows.class_row(dict)},
        {"row_factory": rows.kwargs_row(dict)},
        {"cursor_factory": psycopg.RawCursor},
        {"cursor_factory": psycopg.ClientCursor},
        {"prepare_threshold": 0},
        {"prepare_threshold": None},
        {"client_encoding": "LATIN1"},
        {"send": a_pipeline},
        {"send": with_a_setting("SET search_path = pg_temp")},
        {"send": with_a_setting("SET TimeZone = 'Asia/Kathmandu'; SET DateStyle = 'German'")},
        {"send": with_a_setting("SET default_transaction_isolation = 'serializable'")},
        {"send": with_a_setting("SET bytea_output = 'escape'; SET standard_conforming_strings = off")},
    ],
)
@pytest.mark.parametrize("autocommit", [True, False])
def test_psycopg_in_any_manner(
    spooler: PostgresBackend, database: str, settings: dict[str, Any], autocommit: bool
) -> None:
    """Whatever the settings of the caller's connection, the call returns and the task is sent once."""
    send = settings.get("send", lambda connection: invoice.using(connection=connection)(1))
    manner = {name: value for name, value in settings.items() if name != "send"}
    with psycopg.connect(database, autocommit=autocommit, **manner) as connection:
        send(connection)
    assert ready(spooler) == 1


@pytest.mark.parametrize("factory", [None, *(getattr(psycopg2.extras, f"{kind}Cursor") for kind in
                                             ("Dict", "RealDict", "NamedTuple"))])  # fmt: skip
def test_psycopg2(spooler: PostgresBackend, database: str, factory: Any) -> None:
    """Tasks can be sent within a connection of psycopg2, with any kind of cursor."""
    connection = psycopg2.connect(database, cursor_factory=factory)
    invoice.using(connection=connection)(1)
    assert ready(spooler) == 0
    connection.commit()
    invoice.using(connection=connection)(2)
    connection.rollback()
    connection.autocommit = True
    invoice.using(connection=connection)(3)
    assert ready(spooler) == 2
    connection.close()


def test_a_refusal_of_the_server_sends_nothing(spooler: PostgresBackend, database: str) -> None:
    """An error of the server is raised as the caller's library raises it, and nothing is sent."""
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("SET default_transaction_read_only = on")
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            invoice.using(connection=connection)(1)
    assert ready(spooler) == 0


def test_django(spooler: PostgresBackend, database: str) -> None:
    """Tasks can be sent within Django's connection, inside and outside of ``atomic``."""
    if not django_settings.configured:
        django_settings.configure(DATABASES={})
        django.setup()
    from django.db import ConnectionHandler

    given = psycopg.conninfo.conninfo_to_dict(database)
    names = {"NAME": "dbname", "USER": "user", "PASSWORD": "password", "HOST": "host", "PORT": "port"}
    options = {"ENGINE": "django.db.backends.postgresql"} | {ours: given.get(its, "") for ours, its in names.items()}
    connections = ConnectionHandler({"default": options})
    connection = connections["default"]
    before, transaction.connections = getattr(transaction, "connections", None), connections
    try:
        from django.db.transaction import Atomic

        with Atomic("default", True, False):
            invoice.using(connection=connection)(1)
            assert ready(spooler) == 0
        assert ready(spooler) == 1
        with Atomic("default", True, False):
            invoice.using(connection=connection)(2)
            connection.set_rollback(True)
        assert ready(spooler) == 1
        invoice.using(connection=connection)(3)
        assert ready(spooler) == 2
    finally:
        del transaction.connections
        if before is not None:
            transaction.connections = before
        connection.close()


def test_what_is_no_connection(spooler: PostgresBackend, tmp_path: Path) -> None:
    """Other objects are refused. The error says which connections are accepted, and nothing is sent."""
    lite = sqlite3.connect(":memory:")
    engine = sqlalchemy.create_engine("sqlite://")
    with engine.connect() as foreign:
        for connection in (lite, foreign, object(), "postgresql://db/app"):
            with pytest.raises(OptionRefused, match="it takes a connection to PostgreSQL"):
                invoice.using(connection=connection)(1)
    lite.close()
    engine.dispose()
    configure(spoolers=[tmp_path / "mail"])
    with pytest.raises(OptionRefused, match="only one on PostgreSQL takes a connection"):
        invoice.using(connection=object())(1)
    assert ready(spooler) == 0


def test_a_database_without_the_schema(server: Server) -> None:
    """If the caller's database has no schema, the error says so and names the command."""
    server.execute("CREATE DATABASE elsewhere")
    with (
        psycopg.connect(server.url("elsewhere")) as connection,
        pytest.raises(SpoolerUnusable, match="unspool migrate"),
    ):
        invoice.using(connection=connection)(1)


def test_pickles_need_a_key(spooler: PostgresBackend, address: Address) -> None:
    """Others may write to the database, so a pickle without a signature is refused. The error names both remedies."""
    with pytest.raises(PayloadRefused) as caught:
        Spooler.send_message_raw("text", payload={"a": 1})
    for way in ("UNSPOOL_SECRET_KEY", 'serializer="json"'):
        assert way in str(caught.value)
    assert ready(spooler) == 0
    configure(secret_key="k" * 40)
    Spooler.send_message_raw("text", payload={"a": 1})
    assert ready(spooler) == 1


@pytest.mark.parametrize("library", ["psycopg", "psycopg2", "sqlalchemy"])
def test_unique(spooler: PostgresBackend, database: str, library: str) -> None:
    """A key is taken when the transaction commits, and free after a rollback. A duplicate is found in either order."""
    once = invoice.using(unique="until_done", unique_key="{number}")
    connection: Any
    if library == "psycopg":
        connection = psycopg.connect(database)
    elif library == "psycopg2":
        connection = psycopg2.connect(database)
    else:
        url = database.replace("postgresql://", "postgresql+psycopg://")
        connection = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool).connect()
    with contextlib.closing(connection):
        first = once.using(connection=connection)(1)
        assert [getattr(id, "new", None) for id in (first, once.using(connection=connection)(1))] == [True, False]
        connection.rollback()
        assert ready(spooler) == 0
        second = once.using(connection=connection)(1)
        connection.commit()
        assert once(1) == second != first
        ids = once.using(connection=connection).enqueue_many([1, 2, 1])
        connection.commit()
    assert ids[0] == ids[2] == second
    assert ready(spooler) == 2
