"""Enqueue in the caller's transaction, on the caller's own connection.

The statement runs through a plain cursor that is created here, so that settings of the connection do not affect how
parameters are passed or what a row looks like. If this raises, no task was sent: one statement stores all tasks, and
nothing after it can fail.
"""

import functools
import re
import sys
from collections.abc import Mapping
from typing import Any

import psycopg
from psycopg.rows import tuple_row

from ...errors import OptionRefused, SpoolerUnusable
from .sql import statement

__all__ = ["keep_within"]

_NO_SCHEMA = ("42P01", "3F000", "42703")  # undefined_table, invalid_schema_name, undefined_column


def keep_within(connection: Any, name: str, values: Mapping[str, Any], sql: str = "send") -> Any:
    """Run the send statement on a connection of psycopg, SQLAlchemy or Django, and return its row.

    :param name: the spooler's name, for messages.
    :param sql: the name of the statement.
    :raises OptionRefused: if it is another kind of connection.
    :raises SpoolerUnusable: if its database has no schema ``unspool``.
    """
    try:
        return _run(connection, name, values, sql)
    # Each library has its own errors; errors that are not about the schema are raised unchanged.
    except Exception as error:
        code = _code(error)
        if code not in _NO_SCHEMA:
            raise
        raise SpoolerUnusable(
            f"spooler {name} cannot be used: the connection's database has no schema 'unspool' of this version; create "
            "it with 'unspool migrate', or check that it is the spooler's database"
        ) from error


def _run(connection: Any, name: str, values: Mapping[str, Any], sql: str) -> Any:
    modules = {kind.__module__ for kind in type(connection).__mro__}
    if any(module.startswith("sqlalchemy.ext.asyncio") for module in modules):
        raise _refused(connection, name, "call its run_sync, and send on the connection or session that this passes")
    session = getattr(connection, "connection", None)
    if hasattr(connection, "get_bind") and callable(session):  # a Session or scoped_session of SQLAlchemy
        connection = session()
    if hasattr(connection, "exec_driver_sql"):  # a Connection of SQLAlchemy, which must begin its transaction itself
        if connection.dialect.name != "postgresql":
            raise _refused(connection, name)
        # A server-side cursor cannot run an INSERT.
        options = {"stream_results": False, "yield_per": None}
        return connection.execute(_of_sqlalchemy(sql), dict(values), execution_options=options).one()
    with _cursor(connection, name, {module.partition(".")[0] for module in modules}) as cursor:
        cursor.execute(statement(sql), values)
        return cursor.fetchone()


def _cursor(connection: Any, name: str, drivers: set[str]) -> Any:
    """Return a cursor whose rows are tuples."""
    if isinstance(connection, psycopg.Connection):
        return psycopg.Cursor(connection, row_factory=tuple_row)
    if "psycopg2" in drivers and hasattr(connection, "cursor") and not connection.async_:
        return connection.cursor(cursor_factory=sys.modules["psycopg2.extensions"].cursor)
    if getattr(connection, "vendor", "") == "postgresql":
        return connection.cursor()  # Django's own code relies on tuples
    if not drivers.isdisjoint(("psycopg", "psycopg2", "asyncpg")):
        raise _refused(connection, name, "open a second connection that is not async, or use SQLAlchemy's run_sync")
    raise _refused(connection, name)


@functools.cache
def _of_sqlalchemy(sql: str) -> Any:
    """Return a statement with SQLAlchemy's parameters, which it translates for each driver, including async ones."""
    from sqlalchemy import text

    return text(re.sub(r"%\((\w+)\)s", r":\1 ", statement(sql)))


def _refused(connection: Any, name: str, way_out: str = "") -> OptionRefused:
    kind = f"{type(connection).__module__}.{type(connection).__qualname__}"
    valid = "a connection to PostgreSQL of psycopg, SQLAlchemy or Django that is not async"
    return OptionRefused(
        f"connection is a {kind}, on which spooler {name} cannot send; it takes {valid}"
        + (f": {way_out}" if way_out else "")
    )


def _code(error: BaseException) -> str | None:
    """Return the SQLSTATE of an error, which the caller's library may have wrapped."""
    inner: BaseException | None = error
    while inner is not None:
        code = getattr(inner, "sqlstate", None) or getattr(inner, "pgcode", None)
        if isinstance(code, str):
            return code
        inner = getattr(inner, "orig", None) or inner.__cause__
    return None
