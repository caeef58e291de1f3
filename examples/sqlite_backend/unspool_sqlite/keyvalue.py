"""The key-value table of the queue."""

import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence

from unspool.backends.base import Clock
from unspool.backends.keyvalue import FOREVER, Ephemeral, Item, Life, Until, check_key, check_life, check_value

from .store import Store

__all__ = ["SqliteKeyValue"]

_POLL = 0.1  # seconds between two looks of a wait, because SQLite does not notify


class SqliteKeyValue:
    """Implement ``unspool.backends.keyvalue.KeyValue`` with a table.

    :param holder: returns the name of a file that this process keeps locked until it ends.
    """

    def __init__(self, store: Store, clock: Clock, holder: Callable[[], str]) -> None:
        self._store = store
        self._clock = clock
        self._holder = holder

    def get(self, keys: Sequence[str]) -> list[Item | None]:
        for key in keys:
            check_key(key)
        with self._store.reading() as database:
            return [self._find(database, key) for key in keys]

    def put(self, key: str, value: bytes, *, expect: int | None = None, life: Life = FOREVER) -> int | None:
        check_key(key)
        check_value(value)
        check_life(life)
        until = life.time if isinstance(life, Until) else None
        holder = self._holder() if isinstance(life, Ephemeral) else ""
        with self._store.writing() as database:
            if expect is not None and self._version(database, key) != expect:
                return None
            database.execute("DELETE FROM item WHERE key = ? OR until <= ?", (key, self._clock()))
            row = key, value, until, holder
            return database.execute("INSERT INTO item (key, value, until, holder) VALUES (?, ?, ?, ?)", row).lastrowid

    def drop(self, key: str, *, expect: int | None = None) -> bool:
        check_key(key)
        with self._store.writing() as database:
            version = self._version(database, key)
            if not version or expect not in (None, version):
                return False
            database.execute("DELETE FROM item WHERE key = ?", (key,))
            return True

    def scan(self, prefix: str, after: str = "", limit: int = 1000) -> list[tuple[str, Item]]:
        check_key(prefix, prefix=True)
        check_key(after, prefix=True)
        found: list[tuple[str, Item]] = []
        with self._store.reading() as database:
            query = "SELECT * FROM item WHERE key > ? AND substr(key, 1, ?) = ? ORDER BY key"
            for row in database.execute(query, (after, len(prefix), prefix)):
                if len(found) >= limit:
                    break
                if self._lives(row):
                    found.append((row["key"], Item(row["value"], row["version"])))
        return found

    def wait(self, versions: Mapping[str, int], timeout: float) -> bool:
        keys = list(versions)
        end = time.monotonic() + timeout
        while [item.version if item else 0 for item in self.get(keys)] == list(versions.values()):
            left = end - time.monotonic()
            if left <= 0:
                return False
            time.sleep(min(left, _POLL))
        return True

    def _find(self, database: sqlite3.Connection, key: str) -> Item | None:
        row = database.execute("SELECT * FROM item WHERE key = ?", (key,)).fetchone()
        return Item(row["value"], row["version"]) if row and self._lives(row) else None

    def _version(self, database: sqlite3.Connection, key: str) -> int:
        item = self._find(database, key)
        return item.version if item else 0

    def _lives(self, row: sqlite3.Row) -> bool:
        """Return whether the life of an item has not ended."""
        if row["until"] is not None and row["until"] <= self._clock():
            return False
        return row["holder"] == "" or self._store.is_held(row["holder"])
