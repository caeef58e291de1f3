"""Enqueue in a transaction of the caller's, on the caller's own connection."""

from collections.abc import Mapping
from typing import Any

from ...errors import OptionRefused, SpoolerUnusable
from .sql import statement

__all__ = ["keep_within"]

_NO_SCHEMA = ("42P01", "3F000")  # undefined_table, invalid_schema_name


def keep_within(connection: Any, name: str, values: Mapping[str, Any]) -> Any:
    """Runs the statement that sends, on a connection of psycopg's, SQLAlchemy's or Django's; gives its row.

    :param name: the spooler's, for messages.
    :raises OptionRefused: if the connection is none of these.
    :raises SpoolerUnusable: if its database has no schema ``unspool``.
    """
    try:
        return _run(connection, name, values)
    except Exception as error:  # each library has errors of its own; those that are not about the schema are its user's
        code = _code(error)
        if code not in _NO_SCHEMA:
            raise
        raise SpoolerUnusable(
            f"spooler {name} cannot be used: the connection's database has no schema 'unspool' of this version; make "
            "it with 'unspool migrate', or check that it is the spooler's database"
        ) from error


def _run(connection: Any, name: str, values: Mapping[str, Any]) -> Any:
    session = getattr(connection, "connection", None)
    if hasattr(connection, "get_bind") and callable(session):  # a Session of SQLAlchemy's, or what scopes one
        connection = session()
    if hasattr(connection, "exec_driver_sql"):  # its Connection: what goes past that would not begin its transaction
        if connection.dialect.name != "postgresql" or connection.dialect.is_async:
            raise _refused(connection, name)
        return connection.exec_driver_sql(statement("send"), dict(values)).fetchone()
    drivers = {kind.__module__.partition(".")[0] for kind in type(connection).__mro__}
    ours = getattr(connection, "vendor", "") == "postgresql" or not drivers.isdisjoint(("psycopg", "psycopg2"))
    if not ours or not hasattr(connection, "cursor") or hasattr(connection, "__aenter__"):
        raise _refused(connection, name)
    with connection.cursor() as cursor:
        cursor.execute(statement("send"), values)
        return cursor.fetchone()


def _refused(connection: Any, name: str) -> OptionRefused:
    return OptionRefused(
        f"connection is a {type(connection).__module__}.{type(connection).__name__}, on which spooler {name} cannot "
        "send; it takes one to PostgreSQL of psycopg, SQLAlchemy or Django, and no async one (of an AsyncSession, call "
        "run_sync)"
    )


def _code(error: BaseException) -> str | None:
    """The server's code of an error, which may be wrapped by the caller's library."""
    inner: BaseException | None = error
    while inner is not None:
        code = getattr(inner, "sqlstate", None) or getattr(inner, "pgcode", None)
        if isinstance(code, str):
            return code
        inner = getattr(inner, "orig", None) or inner.__cause__
    return None
