"""The history of runs: one row per run in SQLite, bounded in number and age.

Supervisors' recorders write it in batches, so it never delays a task. No task depends on it. A damaged database is
renamed, and a new one is created.

The database has a rollback journal, so SQLite maps no file into memory. In WAL mode SQLite maps ``-shm``, and allocates
it with one byte for each 4 KiB. Where blocks are smaller, or are copied when they are written, a page of the map has
blocks that do not exist yet, and a full disk then kills the process by SIGBUS.
"""

import contextlib
import logging
import math
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ...errors import SpoolerUnusable
from ...message import Record
from ..base import Clock
from ..page import FEW, Page, RunPosition, RunQuery, page_of_runs
from .directory import Directory
from .journal import Journal
from .layout import HISTORY, PRIVATE
from .pieces import is_piece

__all__ = ["History"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS runs (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL, task TEXT NOT NULL, verdict TEXT NOT NULL, attempt INTEGER NOT NULL,
    started REAL NOT NULL, duration REAL NOT NULL, pid INTEGER NOT NULL, error TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS runs_of_a_task ON runs (id);
"""
_COLUMNS = ["number", "id", "task", "verdict", "attempt", "started", "duration", "pid", "error"]
_INSERT = "INSERT INTO runs (id, task, verdict, attempt, started, duration, pid, error) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
_SELECT = """
SELECT number, id, task, verdict, attempt, started, duration, pid, error FROM runs
WHERE {} AND (:label = '' OR task = :label) AND started BETWEEN :since AND :until
    AND NOT (:failed AND verdict IN ('processed', 'skipped')) AND (started + duration, number) < (:ended, :number)
ORDER BY started + duration DESC, number DESC LIMIT :limit
"""  # rows of a journal may be inserted late, so the numbers alone give no order
_IDS = "SELECT DISTINCT id FROM runs WHERE instr(id, ?)"
_JOURNAL = 1 << 62  # the number of each run in a journal: after all rows that ended at the same time
_TRIM_EVERY = 5_000  # rows between two trimmings
_COMPANIONS = ("-wal", "-shm", "-journal")  # files that SQLite creates beside the database, the first two in WAL mode
_BUSY = 10.0  # seconds to wait for the end of another process's transaction
_BAD_ROW = (ValueError, OverflowError, sqlite3.InterfaceError, sqlite3.ProgrammingError, sqlite3.IntegrityError)
_log = logging.getLogger("unspool")


class History:
    """The runs of a spool directory.

    :param limit: the number of rows kept; 0 disables the history.
    :param age: seconds for which rows are kept.
    """

    def __init__(self, directory: Directory, limit: int, age: float, clock: Clock) -> None:
        self._directory = directory
        self._limit = limit
        self._age = age
        self._clock = clock
        self._writer: sqlite3.Connection | None = None
        self._opened: tuple[int, int] | None = None
        self._untrimmed = _TRIM_EVERY
        self._journal = Journal(directory, self._put)

    def add(self, records: Sequence[Record]) -> None:
        """Add rows. Rows beyond the limits are deleted at most ``_TRIM_EVERY`` rows later.

        :raises SpoolerUnusable: if it cannot be written. A damaged database is first replaced by a new one.
        """
        if not self._limit:
            return
        fresh = self._writer is None
        try:
            self._put(records)  # first, so that a locked database is waited for only once
        except sqlite3.OperationalError as error:  # locked, full, or unreadable
            raise SpoolerUnusable(str(error)) from error
        if fresh:
            self._journal.ingest_leftovers()

    def _put(self, records: Sequence[Record]) -> None:
        try:
            self._add(records)
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                self.close()
                raise
            self.close()
            self._set_aside()
            self._add(records)

    def jot(self, records: Sequence[Record]) -> None:
        """Add rows to this process's journal, which is cheap, from a process that is not the writer."""
        if self._limit:
            self._journal.append(records)

    def tidy(self) -> None:
        """Move some of the rows in journals to the database, in 10 to 20 ms. Called when a process is idle."""
        self._journal.ingest_some()

    def page(self, query: RunQuery, after: str, limit: int) -> Page:
        """Return runs, as ``base.Backend.page``."""
        if query.piece:
            last = (self._found(query._replace(id=id), None, 1) for id in self._matching(query.piece))
            return Page(runs=tuple(run for found in last for run, _ in found))
        return page_of_runs(query, self._found(query, RunPosition.load(after), limit), limit)

    def _found(self, query: RunQuery, start: RunPosition | None, limit: int) -> list[tuple[Record, RunPosition]]:
        """Return the newest matching runs before a position, newest first."""
        query, start = query._replace(id=_text(query.id)), start or RunPosition(math.inf, 0)
        jotted = [
            (run, position)
            for run in map(_storable, self._journal.records())
            if query.wants(run)
            and query.id in ("", run.id)
            and (position := RunPosition(_ended(run), _JOURNAL)) < start
        ]
        newest = sorted(jotted, key=lambda one: one[1], reverse=True)[:limit]
        # A row that is just being moved to the database is in both.
        both = dict([*self._rows(query, start, limit), *newest])
        return sorted(both.items(), key=lambda one: one[1], reverse=True)[:limit]

    def _matching(self, piece: str) -> list[str]:
        """Return the ids of a few tasks whose names contain this piece."""
        piece, jotted = _text(piece), (_text(record.id) for record in self._journal.records())
        kept = (row[0] for row in self._select(_IDS, (piece,)) if isinstance(row[0], str))
        ids = dict.fromkeys(id for id in (*jotted, *kept) if is_piece(piece, os.path.basename(id)))
        return list(ids)[:FEW]

    def _rows(self, query: RunQuery, start: RunPosition, limit: int) -> Iterator[tuple[Record, RunPosition]]:
        text = _SELECT.format("id = :id" if query.id else "TRUE")
        for number, *values in self._select(text, query._asdict() | start._asdict() | {"limit": limit}):
            if (run := Record.of(values)) is not None:  # rows with other types are ignored
                yield run, RunPosition(_ended(run), number)

    def _select(self, query: str, values: Sequence[Any] | Mapping[str, Any]) -> list[Any]:
        path = self._directory.path(HISTORY)
        if not os.path.exists(path) or self._objection(path):
            return []
        try:
            with contextlib.closing(_connect(path)) as reader:
                reader.text_factory = _decoded
                return reader.execute(query, values).fetchall()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_ERROR:  # otherwise it has no table yet
                _log.warning("history of %s cannot be read: %s", self._directory.root, error)
        except sqlite3.DatabaseError:
            pass  # damaged; the writer sets it aside
        return []

    def _add(self, records: Sequence[Record]) -> None:
        if self._directory.opened and self._directory.is_gone():
            self.close()
            if not os.path.isdir(self._directory.root):
                raise sqlite3.OperationalError("the spooler was removed")  # the history alone must not recreate it
            self._directory.reopen()
        path = self._directory.path(HISTORY)
        if (reason := self._objection(path)) is not None:
            raise sqlite3.DatabaseError(reason)
        if self._writer is not None and _identity(path) != self._opened:  # removed or replaced
            self.close()
        if self._writer is None:
            self._writer = self._open(path)
            self._opened = _identity(path)
        writer = self._writer
        try:
            with writer:
                writer.executemany(_INSERT, records)
        except _BAD_ROW:  # a row that no database accepts must not cost the others
            with writer:
                self._add_singly(writer, map(_storable, records))
        self._untrimmed += len(records)
        if self._untrimmed >= _TRIM_EVERY:
            self._untrimmed = 0
            # The rows are stored. If this raised, the caller would write them again.
            with contextlib.suppress(sqlite3.OperationalError), writer:
                self._trim(writer)

    @staticmethod
    def _add_singly(writer: sqlite3.Connection, rows: Iterable[Record]) -> None:
        for row in rows:
            try:
                writer.execute(_INSERT, row)
            except _BAD_ROW as error:
                _log.warning("a run of %.300s is left out of history: %s", row.id, error)

    def _trim(self, writer: sqlite3.Connection) -> None:
        writer.execute("DELETE FROM runs WHERE number <= (SELECT max(number) FROM runs) - ?", [self._limit])
        horizon = self._clock() - self._age
        writer.execute(  # rows are nearly in the order of time, so only the old ones are read
            "DELETE FROM runs WHERE number < coalesce("
            "(SELECT number FROM runs WHERE started >= ? ORDER BY number LIMIT 1), (SELECT max(number) + 1 FROM runs))",
            [horizon],
        )

    def _open(self, path: str) -> sqlite3.Connection:
        self._directory.fd(PRIVATE)
        with contextlib.suppress(FileExistsError):
            flags = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            # SQLite gives its other files the same mode.
            os.close(self._directory.hand_over(os.open(path, flags, 0o600)))
        connection = _connect(path)
        try:
            connection.execute("PRAGMA journal_mode = TRUNCATE")
            connection.execute("PRAGMA locking_mode = NORMAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            columns = [row[1] for row in connection.execute("PRAGMA table_info(runs)")]
            if columns and columns != _COLUMNS:
                raise sqlite3.DatabaseError("its table of runs has other columns")
            connection.executescript(_SCHEMA)
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    def _objection(self, path: str) -> str | None:
        """Return why SQLite must not open the database or its journal, or None. SQLite would block on a FIFO and follow
        links.

        The files are not opened here, because closing them drops the locks that SQLite has on them in this process.
        """
        for suffix in ("", *_COMPANIONS):
            with contextlib.suppress(FileNotFoundError):
                reason = self._directory.objection(os.stat(path + suffix, follow_symlinks=False))
                if reason is not None:
                    return f"{path}{suffix} is {reason}"
        return None

    def close(self) -> None:
        """Close the writer's connection."""
        if self._writer is not None:
            with contextlib.suppress(sqlite3.Error):
                self._writer.close()
            self._writer = None

    def _set_aside(self) -> None:
        path = self._directory.path(HISTORY)
        for suffix in ("", *_COMPANIONS):
            with contextlib.suppress(FileNotFoundError):
                os.replace(path + suffix, f"{path}.damaged{suffix}")


def _connect(path: str) -> sqlite3.Connection:
    """Open an existing database. A reader also needs to write, because it rolls back what a killed writer left
    unfinished.

    The exclusive mode matters only for a database that an earlier version left in WAL mode: it is then not mapped.
    """
    connection = sqlite3.connect(f"file:{_quote(path)}?mode=rw", uri=True, timeout=_BUSY)
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    return connection


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _ended(record: Record) -> float:
    return record.started + record.duration


def _storable(record: Record) -> Record:
    """Return the record with valid texts: invalid bytes in file names and errors are escaped."""
    return Record._make(_text(value) if isinstance(value, str) else value for value in record)


def _decoded(value: bytes) -> str:
    """Return a text that SQLite has stored, which may be invalid UTF-8."""
    return value.decode("utf-8", "backslashreplace")


def _text(value: str) -> str:
    return value.encode("utf-8", "backslashreplace").decode()


def _quote(path: str) -> str:
    return path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
