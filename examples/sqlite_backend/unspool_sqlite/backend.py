"""The queue: sending, claims and their ends, listings, history."""

import json
import logging
import os
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Literal

from unspool.backends.base import UNNUMBERED, Capabilities, Clock, Feed, Settings, Switches, WorkerInfo
from unspool.backends.change import Change, Remove, Reprioritise, RunNow
from unspool.backends.page import (
    LOOKED_AT,
    Counts,
    Page,
    Query,
    RunPosition,
    RunQuery,
    TaskPosition,
    in_order,
    page_of_runs,
    page_of_task,
    page_of_tasks,
)
from unspool.backends.registration import Registration
from unspool.backends.registration_file import RegistrationFile, processes
from unspool.errors import SpoolerUnusable, TaskBusy
from unspool.finding import OK, Finding
from unspool.message import (
    Ack,
    Bury,
    Claim,
    DeferOnCrash,
    End,
    Entry,
    Envelope,
    Exchanged,
    Interrupted,
    Mark,
    Record,
    Refusal,
    RefusalKind,
    Release,
    Retry,
    State,
)
from unspool.settings import Settings as AllSettings

from .feed import SqliteFeed
from .keyvalue import SqliteKeyValue
from .locks import LockedFile
from .store import Store

__all__ = ["SqliteBackend"]

_log = logging.getLogger("unspool.sqlite")
_AGAIN = 1.0  # seconds until a failed settlement is tried again
_LONGEST = 18  # digits of a number that SQLite can hold
_COLUMNS = "number, label, rank, due, attempts, aside, reason, holder, length(data) AS size"
_LAST = 1 << 62  # above all numbers of runs


class SqliteBackend:
    """Implement ``unspool.backends.base.Backend`` in a SQLite file. Ids are ``sqlite://<path>/<number>``.

    :param path: of the file, without its suffix ``.sqlite``.
    :param settings: how much history is kept; unspool's defaults if None.
    :param clock: the current time.
    """

    capabilities = Capabilities(feeds=True, forks=True, records=True)

    def __init__(
        self,
        path: str,
        settings: Settings | None = None,
        *,
        clock: Clock = time.time,
    ) -> None:
        self._settings: Settings = AllSettings() if settings is None else settings
        self.name = f"sqlite://{os.path.abspath(path)}"
        self._store = Store(os.path.abspath(path))
        self._clock = clock
        self._lock: LockedFile | None = None
        self.kv = SqliteKeyValue(self._store, clock, self._holder)

    def feed(self) -> Feed:
        return SqliteFeed(self._store, self._clock)

    def close(self) -> None:
        """Release what this process holds: its claims and its ephemeral items. In a forked process, those of the parent
        stay."""
        if self._lock is not None and self._lock.is_open:
            self._lock.remove()
        self._lock = None

    def has_lost_descriptors(self) -> bool:
        return self._lock is not None and self._lock.is_lost

    # --- sending

    def send(self, envelopes: Sequence[Envelope]) -> list[str]:
        ids = []
        with self._store.writing() as database:
            for envelope in envelopes:
                rank = UNNUMBERED if envelope.priority is None else envelope.priority
                due = self._clock() if envelope.due is None else envelope.due
                added = database.execute(
                    "INSERT INTO task (data, label, rank, due) VALUES (?, ?, ?, ?)",
                    (envelope.data, envelope.label, rank, due),
                )
                ids.append(f"{self.name}/{added.lastrowid}")
        return ids

    # --- claims and their ends

    def exchange(self, ends: Sequence[End], refs: Sequence[str]) -> Exchanged:
        return Exchanged([self._settle(end) for end in ends], [self._claim(ref) for ref in refs])

    def _claim(self, ref: str) -> Claim | Refusal:
        holder = self._holder()
        with self._store.writing() as database:
            task = database.execute("SELECT * FROM task WHERE number = ?", (ref,)).fetchone()
            if task is None or task["aside"]:
                return Refusal(RefusalKind.GONE)
            if self._store.is_held(task["holder"]):
                return Refusal(RefusalKind.BUSY)
            if task["due"] > self._clock():
                return Refusal(RefusalKind.EARLY, task["due"])
            crashed = task["holder"] != "" and not task["excused"]  # its process ended without settling it
            attempts, crashes = task["attempts"] + 1, task["crashes"] + crashed
            database.execute(
                "UPDATE task SET holder = ?, attempts = ?, crashes = ?, excused = 0 WHERE number = ?",
                (holder, attempts, crashes, ref),
            )
        envelope = Envelope(task["data"], _priority(task), task["due"], task["label"])
        return Claim(f"{self.name}/{ref}", ref, envelope, attempts, crashes, holder, task["unhandled"])

    def _settle(self, end: End) -> float | None:
        claim, disposition, record, _ = end
        until: float | None = None
        values: tuple[object, ...] = ()
        match disposition:
            case Ack():
                change = "DELETE FROM task"
            case Retry(at, begun):
                change = "UPDATE task SET holder = '', due = ?, attempts = attempts - ?, unhandled = unhandled + ?"
                values, until = (at, not begun, not begun), at
            case Release(crashed):
                change = "UPDATE task SET holder = '', attempts = attempts - ?, crashes = crashes + ?"
                values, until = (not crashed, crashed), self._clock()
            case Bury(reason, corrupt, begun):
                change = "UPDATE task SET holder = '', aside = ?, reason = ?, attempts = attempts - ?"
                values = ("corrupt" if corrupt else "dead", reason, not begun)
        while True:
            try:
                with self._store.writing() as database:
                    database.execute(f"{change} WHERE number = ? AND holder = ?", (*values, claim.ref, claim.token))
                    self._add([record] if record else [], database)
                return until
            except SpoolerUnusable as error:  # without its end, the run would count as a crash and be repeated
                _log.warning("%s; the end of %s is tried again", error, claim.id)
                time.sleep(_AGAIN)

    def mark(self, ref: str, mark: Mark) -> None:
        match mark:
            case DeferOnCrash(until):
                self._note("due = ?", until, ref)
            case Interrupted():
                self._note("excused = ?", 1, ref)

    # --- listings

    def page(self, query: Query, after: str = "", limit: int = 100) -> Page:
        if isinstance(query, RunQuery):
            return self._page_of_runs(query, RunPosition.load(after), limit)
        start, one = TaskPosition.load(after), query.id or query.piece
        if one:
            return page_of_task(query, self._read(one))
        now = start.now if start else self._clock()
        with self._store.reading() as database:
            rows = database.execute(f"SELECT {_COLUMNS} FROM task").fetchall()
        return page_of_tasks(
            query, in_order([(row["number"], self._entry(row, now)) for row in rows], now, start), limit
        )

    def counts(self, by: Literal["state", "label"] = "state") -> Counts:
        with self._store.reading() as database:
            rows = database.execute(f"SELECT {_COLUMNS} FROM task").fetchall()
        if by == "label":
            return Counts(dict(Counter(row["label"] for row in rows)))
        entries = [self._entry(row, self._clock()) for row in rows]
        counted = Counter(entry.state for entry in entries)
        ready = (entry.due for entry in entries if entry.state is State.READY)
        return Counts({state: counted[state] for state in State}, min(ready, default=None))

    def _read(self, id: str) -> tuple[Entry, Envelope | None] | None:
        with self._store.reading() as database:
            row = database.execute(
                f"SELECT {_COLUMNS}, data FROM task WHERE number = ?", (self._number(id),)
            ).fetchone()
        if row is None:
            return None
        return self._entry(row, self._clock()), Envelope(row["data"], _priority(row), row["due"], row["label"])

    def change(self, id: str, change: Change) -> str:
        match change:
            case RunNow():
                fresh = "holder = '', aside = '', reason = '', attempts = 0, crashes = 0, unhandled = 0"
                return self._change(id, f"UPDATE task SET {fresh}, due = ?", self._clock())
            case Remove():
                return self._change(id, "DELETE FROM task")
            case Reprioritise(priority):
                return self._change(id, "UPDATE task SET rank = ?", UNNUMBERED if priority is None else priority)

    def check(self, *, prepare: bool = False) -> Iterator[Finding]:
        if not prepare:
            missing = not os.path.exists(self._store.file)
            yield Finding(self.name, OK, "does not exist yet" if missing else "can be used", missing=missing)

    # --- switches and live processes

    def switch(self, *, paused: bool | None = None, period: float | None = None) -> Switches:
        changes = [(name, value) for name, value in (("paused", paused), ("period", period)) if value is not None]
        with self._store.writing() if changes else self._store.reading() as database:
            database.executemany("INSERT OR REPLACE INTO switch VALUES (?, ?)", changes)
            found = dict(database.execute("SELECT name, value FROM switch").fetchall())
        return Switches(bool(found.get("paused")), found.get("period", self._settings.period))

    def register(self, role: str) -> Registration:
        os.makedirs(self._store.locks, mode=0o700, exist_ok=True)
        self.live()  # removes the files of dead processes
        return RegistrationFile(self._store.locks, role)

    def live(self) -> list[WorkerInfo]:
        return list(processes(self._store.locks)) if os.path.isdir(self._store.locks) else []

    # --- history

    def record(self, records: Sequence[Record], *, journal: bool = False) -> None:
        with self._store.writing() as database:
            self._add(records, database)

    def _page_of_runs(self, query: RunQuery, start: RunPosition | None, limit: int) -> Page:
        id, before = query.id or (query.piece and f"{self.name}/{query.piece}"), start.number if start else _LAST
        where, values = ("AND id = ?", (_bytes(id),)) if id else ("", ())
        with self._store.reading() as database:
            rows = database.execute(
                f"SELECT number, record FROM run WHERE number < ? {where} ORDER BY number DESC LIMIT ?",
                (before, *values, 1 if query.piece else LOOKED_AT),
            ).fetchall()
        found = [(run, row["number"]) for row in rows if (run := Record.of(json.loads(row["record"])))]
        return page_of_runs(query, [(run, RunPosition(run.started, number)) for run, number in found], limit)

    def _add(self, records: Sequence[Record], database: sqlite3.Connection) -> None:
        for record in records:
            database.execute(
                "INSERT INTO run (id, started, record) VALUES (?, ?, ?)",
                (_bytes(record.id), record.started, record.to_json()),
            )
        if records:
            database.execute(
                "DELETE FROM run WHERE started < ? OR number <= (SELECT max(number) FROM run) - ?",
                (self._clock() - self._settings.history_age, self._settings.history_limit),
            )

    # --- parts

    def _holder(self) -> str:
        """Return the name of the file that this process keeps locked."""
        if self._lock is None or not self._lock.is_open:  # a forked process has left it to its parent
            self._lock = LockedFile(self._store.locks, "holder")
        return self._lock.name

    def _entry(self, row: sqlite3.Row, now: float) -> Entry:
        if row["aside"]:
            state = State(row["aside"])
        elif self._store.is_held(row["holder"]):
            state = State.RUNNING
        else:
            state = State.DEFERRED if row["due"] > now else State.READY
        return Entry(
            f"{self.name}/{row['number']}", state, self.name, row["label"], _priority(row), row["due"],
            row["attempts"], row["size"], row["reason"],
        )  # fmt: skip

    def _note(self, change: str, value: float, ref: str) -> None:
        """Change the row of a running task. The supervisor calls this, which no error may end."""
        try:
            with self._store.writing() as database:
                database.execute(f"UPDATE task SET {change} WHERE number = ? AND holder != ''", (value, ref))
        except SpoolerUnusable as error:
            _log.warning("%s", error)

    def _change(self, id: str, change: str, *values: object) -> str:
        number = self._number(id)
        with self._store.writing() as database:
            row = database.execute("SELECT holder FROM task WHERE number = ?", (number,)).fetchone()
            if row is None:
                raise LookupError(f"no task {id} in spooler {self.name}")
            if self._store.is_held(row["holder"]):
                raise TaskBusy(f"task {id} is running; ask again when it has ended")
            database.execute(f"{change} WHERE number = ?", (*values, number))
        return f"{self.name}/{number}"

    def _number(self, id: str) -> int:
        """Return the number in an id or a ref; 0, which no task has, for any other text."""
        text = id.removeprefix(f"{self.name}/")
        return int(text) if text.isascii() and text.isdigit() and len(text) <= _LONGEST else 0


def _priority(row: sqlite3.Row) -> int | None:
    return None if row["rank"] == UNNUMBERED else int(row["rank"])


def _bytes(id: str) -> bytes:
    return id.encode("utf-8", "surrogatepass")
