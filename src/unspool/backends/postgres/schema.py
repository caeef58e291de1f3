"""The schema ``unspool``: its version, whether this program can use it, and how it is upgraded.

The table ``unspool.version`` has one row: ``number``, the version of the schema, and ``oldest``, the oldest version
that a program must know to work with it. Programs from before an upgrade continue to work until they are replaced,
unless a version excludes them.
"""

from typing import TYPE_CHECKING

from ...errors import SpoolerUnusable
from .sql import CURRENT, REQUIRED, step

if TYPE_CHECKING:
    from .connection import Connection

__all__ = ["check", "migrate"]

_LOCK = 0x756E73706F6F6C00  # one migration at a time
_FIRST = """
CREATE SCHEMA IF NOT EXISTS unspool;
CREATE TABLE IF NOT EXISTS unspool.version (number integer NOT NULL, oldest integer NOT NULL);
"""
_OLDEST = {1: 1, 2: 1, 3: 1, 4: 1, 5: 1, 6: 1}
"""For each version, the oldest version that a program must know to work with it."""


def check(connection: "Connection", name: str, required: int = REQUIRED) -> None:
    """Check that this program can work with the schema.

    :param required: the oldest version that has what is used.
    :raises SpoolerUnusable: if it cannot. The message names the command that helps.
    """
    found = version(connection)
    if found is None:
        raise SpoolerUnusable(
            f"spooler {name} cannot be used: its database has no schema 'unspool'; create it with 'unspool migrate'"
        )
    number, oldest = found
    if number < required:
        raise SpoolerUnusable(
            f"spooler {name} cannot be used: the schema 'unspool' is of version {number}, and this program needs "
            f"{required}; upgrade it with 'unspool migrate'"
        )
    if oldest > CURRENT:
        raise SpoolerUnusable(
            f"spooler {name} cannot be used: the schema 'unspool' is of version {number}, which needs programs that "
            f"know version {oldest}, and this one knows {CURRENT}; install a newer unspool here, then see "
            "'unspool migrate --help'"
        )


def version(connection: "Connection") -> tuple[int, int] | None:
    """Return the schema's version and the oldest version that a program must know, or None if there is no schema."""
    row = connection.execute("SELECT to_regclass('unspool.version') IS NOT NULL").fetchone()
    if row is None or not row[0]:
        return None
    row = connection.execute("SELECT number, oldest FROM unspool.version").fetchone()
    return row and (row[0], row[1])


def migrate(connection: "Connection") -> tuple[int, int]:
    """Create or update the schema in one transaction. Return the versions before (0 if missing) and after.

    It waits up to a minute for another migration, and up to 5 seconds for a lock that running tasks hold, so that tasks
    are never blocked for more than a moment.

    :raises psycopg.Error, SpoolerUnusable: if it fails. Nothing is changed then.
    """
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
        encoding = connection.execute("SHOW server_encoding").fetchone()
        if encoding is not None and encoding[0] != "UTF8":
            raise SpoolerUnusable(f"the database has the encoding {encoding[0]}; unspool needs UTF8")
        found = version(connection)
        before = found[0] if found else 0
        if before >= CURRENT:
            return before, before
        connection.execute("SET LOCAL lock_timeout = '5s'")
        connection.patience = None  # a step may take long in a large table
        if found is None:
            connection.execute(_FIRST)
            connection.execute("INSERT INTO unspool.version VALUES (0, 0)")
        for number in range(before + 1, CURRENT + 1):
            connection.execute(step(number))
        connection.execute("UPDATE unspool.version SET number = %s, oldest = %s", [CURRENT, _OLDEST[CURRENT]])
    return before, CURRENT
