"""The key-value table of the memory backend. Nothing outlives the process, and no other process sees it."""

import itertools
import threading
import time
from collections.abc import Mapping, Sequence

from .base import Clock
from .keyvalue import FOREVER, Ephemeral, Item, Life, Until, check_key, check_life, check_value

__all__ = ["MemoryKeyValue"]

_LONGEST_WAIT = 1.0  # seconds after which a wait looks for items whose time has ended


class MemoryKeyValue:
    """Implement ``keyvalue.KeyValue`` with two dicts. Several threads may use it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._numbers = itertools.count(1)
        self._items: dict[str, Item] = {}
        self._lives: dict[str, Life] = {}
        self._changed = threading.Condition()

    def get(self, keys: Sequence[str]) -> list[Item | None]:
        for key in keys:
            check_key(key)
        with self._changed:
            return [self._find(key) for key in keys]

    def put(self, key: str, value: bytes, *, expect: int | None = None, life: Life = FOREVER) -> int | None:
        check_key(key)
        check_value(value)
        check_life(life)
        with self._changed:
            if expect is not None and self._version(key) != expect:
                return None
            self._items[key] = Item(value, next(self._numbers))
            self._lives[key] = life
            self._changed.notify_all()
            return self._items[key].version

    def drop(self, key: str, *, expect: int | None = None) -> bool:
        check_key(key)
        with self._changed:
            version = self._version(key)
            if not version or expect not in (None, version):
                return False
            self._forget(key)
            self._changed.notify_all()
            return True

    def scan(self, prefix: str, after: str = "", limit: int = 1000) -> list[tuple[str, Item]]:
        check_key(prefix, prefix=True)
        check_key(after, prefix=True)
        with self._changed:
            keys = sorted(key for key in self._items if key.startswith(prefix) and key > after)
            return [(key, item) for key in keys if (item := self._find(key))][:limit]

    def wait(self, versions: Mapping[str, int], timeout: float) -> bool:
        for key in versions:
            check_key(key)
        end = time.monotonic() + timeout
        with self._changed:
            while all(self._version(key) == version for key, version in versions.items()):
                left = end - time.monotonic()
                if left <= 0:
                    return False
                self._changed.wait(min(left, _LONGEST_WAIT))
            return True

    def close(self) -> None:
        """End the ephemeral items."""
        with self._changed:
            for key in [key for key, life in self._lives.items() if isinstance(life, Ephemeral)]:
                self._forget(key)
            self._changed.notify_all()

    def _find(self, key: str) -> Item | None:
        """Return an item unless its time has ended."""
        life = self._lives.get(key)
        if isinstance(life, Until) and life.time <= self._clock():
            self._forget(key)
        return self._items.get(key)

    def _version(self, key: str) -> int:
        item = self._find(key)
        return item.version if item else 0

    def _forget(self, key: str) -> None:
        del self._items[key], self._lives[key]
