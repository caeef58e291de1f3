"""The database file and the directory of locks beside it."""

import contextlib
import errno
import os
import sqlite3
from collections.abc import Iterator

from unspool.errors import SpoolerUnusable

from .locks import is_locked

__all__ = ["Store"]

_BUSY = 30.0  # seconds to wait for another process that is writing
_SCHEMA = """
CREATE TABLE IF NOT EXISTS task (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    data BLOB NOT NULL,
    label TEXT NOT NULL,
    rank INTEGER NOT NULL,
    due REAL NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    crashes INTEGER NOT NULL DEFAULT 0,
    unhandled INTEGER NOT NULL DEFAULT 0,
    excused INTEGER NOT NULL DEFAULT 0,
    holder TEXT NOT NULL DEFAULT '',
    aside TEXT NOT NULL DEFAULT '',
    reason TEXT NOT NULL DEFAULT ''
);
CREATE INDEX IF NOT EXISTS task_order ON task (rank, due, number) WHERE aside = '';
CREATE INDEX IF NOT EXISTS task_due ON task (due) WHERE aside = '';
CREATE TABLE IF NOT EXISTS run (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id BLOB NOT NULL,
    started REAL NOT NULL,
    record TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS run_id ON run (id);
CREATE TABLE IF NOT EXISTS switch (name TEXT PRIMARY KEY, value REAL NOT NULL);
CREATE TABLE IF NOT EXISTS item (
    version INTEGER PRIMARY KEY AUTOINCREMENT,
    key TEXT NOT NULL UNIQUE,
    value BLOB NOT NULL,
    until REAL,
    holder TEXT NOT NULL
);
"""


class Store:
    """A database file, opened for each use: a connection must not be shared by threads or across a fork.

    :param path: of the file, without its suffix.
    """

    def __init__(self, path: str) -> None:
        self.file = f"{path}.sqlite"
        self.locks = f"{path}.locks"

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Yield a connection whose reads all see the same state.

        :raises SpoolerUnusable: if the file cannot be used.
        """
        with self._transaction("BEGIN") as database:
            yield database

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Yield a connection that alone may write. What it has written is stored when the block ends without an error.

        :raises SpoolerUnusable: if the file cannot be used.
        """
        with self._transaction("BEGIN IMMEDIATE") as database:
            yield database

    def is_held(self, holder: str) -> bool:
        """Return whether the process that has claimed a task, or put an item, is alive."""
        return holder != "" and is_locked(os.path.join(self.locks, holder))

    @contextlib.contextmanager
    def _transaction(self, begin: str) -> Iterator[sqlite3.Connection]:
        try:
            with contextlib.suppress(FileExistsError):
                os.close(os.open(self.file, os.O_CREAT | os.O_EXCL, 0o600))  # only its owner reads and writes tasks
            with contextlib.closing(sqlite3.connect(self.file, timeout=_BUSY, isolation_level=None)) as database:
                database.row_factory = sqlite3.Row
                database.execute("PRAGMA synchronous = EXTRA")  # a commit survives a power cut
                database.executescript(_SCHEMA)
                database.execute(begin)
                yield database
                database.execute("COMMIT")
        except (sqlite3.Error, OSError) as error:
            raise SpoolerUnusable(errno.EIO, f"spooler {self.file} cannot be used: {error}") from error
