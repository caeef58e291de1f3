"""The key-value table of a queue: compare-and-set, items that end at a time, and scans."""

import itertools
import threading
from collections.abc import Callable
from typing import Any

import pytest

from ...backends.keyvalue import LARGEST_VALUE, Forever, Item, KeyValue, Until
from ...errors import OptionRefused
from ..clock import FakeClock
from .harness import BackendTests
from .increment import PATIENCE, increment

__all__ = ["KeyValueTests"]


class KeyValueTests(BackendTests):
    """``KeyValue``: a table of small values that all processes of a queue see."""

    # --- get, put, drop

    def test_a_value_can_be_read_back(self, kv: KeyValue) -> None:
        """A put value is returned with its version until it is dropped."""
        assert kv.get(["a/b"]) == [None]
        version = kv.put("a/b", b"one")
        assert version is not None
        assert version > 0
        assert kv.get(["a/b"]) == [Item(b"one", version)]
        assert kv.drop("a/b")
        assert kv.get(["a/b"]) == [None]
        assert not kv.drop("a/b")

    def test_several_keys_are_read_in_order(self, kv: KeyValue) -> None:
        """The items are in the order of the keys, with None for a key without an item. A key may occur twice."""
        kv.put("one", b"1")
        kv.put("two", b"2")
        assert [item and item.value for item in kv.get(["two", "none", "one", "two"])] == [b"2", None, b"1", b"2"]
        assert kv.get([]) == []

    def test_a_value_is_any_bytes(self, kv: KeyValue) -> None:
        """A value is returned as it was put: empty, with any bytes, or of the maximum size."""
        for value in (b"", b"\0", bytes(range(256)), b"\r\n'\\\xff", b"x" * LARGEST_VALUE):
            version = kv.put("key", value)
            assert version is not None
            assert kv.get(["key"]) == [Item(value, version)]
            assert kv.scan("key") == [("key", Item(value, version))]

    def test_a_key_is_a_name_and_no_path(self, kv: KeyValue) -> None:
        """Keys that could be paths, options, patterns or numbers are keys like others. Case matters."""
        keys = ["..", ".", "a/../b", "-", "--help", "a", "A", "a/b", "a.b", "a@b=c+d:e", "0", "1e5", "_", "x" * 200]
        for number, key in enumerate(keys):
            assert kv.put(key, f"{number}".encode(), expect=0)
        assert [item and item.value for item in kv.get(keys)] == [f"{number}".encode() for number in range(len(keys))]
        assert [key for key, _ in kv.scan("")] == sorted(keys)

    def test_refuses_other_keys(self, kv: KeyValue) -> None:
        """Any other key is refused by every method, and changes nothing."""
        keys: list[Any] = ["", "/", "/a", "a/", "a//b", "a b", "a\n", "ä", "a\0", "a*", "a,b", "x" * 201, None, b"a"]
        uses: list[Callable[[Any], object]] = [
            lambda key: kv.get([key]),
            lambda key: kv.put(key, b""),
            kv.drop,
            lambda key: kv.wait({key: 0}, 0),
        ]
        for key, use in itertools.product(keys, uses):
            with pytest.raises(OptionRefused):
                use(key)
        assert kv.scan("") == []

    def test_refuses_other_values(self, kv: KeyValue) -> None:
        """A value that is not bytes or too large is refused, and the old one stays."""
        kv.put("key", b"old")
        values: list[Any] = ["text", None, 1, bytearray(b"x"), b"x" * (LARGEST_VALUE + 1)]
        for value in values:
            with pytest.raises(OptionRefused):
                kv.put("key", value)
        assert [item and item.value for item in kv.get(["key"])] == [b"old"]

    def test_refuses_other_lives(self, kv: KeyValue) -> None:
        """A life that is none of the three, or does not end at a finite time, is refused, and the old item stays."""
        kv.put("key", b"old")
        lives: list[Any] = [None, 5.0, Until(float("nan")), Until(float("inf")), Until("5")]  # type: ignore[arg-type]
        for life in lives:
            with pytest.raises(OptionRefused):
                kv.put("key", b"new", life=life)
        assert [item and item.value for item in kv.get(["key"])] == [b"old"]

    # --- compare-and-set

    def test_put_if_absent(self, kv: KeyValue) -> None:
        """``expect=0`` puts a value only if there is no item."""
        first = kv.put("key", b"one", expect=0)
        assert first
        assert kv.put("key", b"two", expect=0) is None
        assert kv.get(["key"]) == [Item(b"one", first)]
        kv.drop("key")
        assert kv.put("key", b"two", expect=0)

    def test_put_if_unchanged(self, kv: KeyValue) -> None:
        """``expect`` with a version puts a value only if the item has this version."""
        first = kv.put("key", b"one")
        assert first
        second = kv.put("key", b"two", expect=first)
        assert second
        assert kv.put("key", b"three", expect=first) is None
        assert kv.get(["key"]) == [Item(b"two", second)]
        assert kv.put("none", b"one", expect=first) is None
        assert kv.get(["none"]) == [None]

    def test_put_in_any_case(self, kv: KeyValue) -> None:
        """Without ``expect``, a value is put whether the item exists or not."""
        assert kv.put("key", b"one")
        assert kv.put("key", b"two")
        assert [item and item.value for item in kv.get(["key"])] == [b"two"]

    def test_drop_if_unchanged(self, kv: KeyValue) -> None:
        """``expect`` with a version drops only an item of this version."""
        first = kv.put("key", b"one")
        second = kv.put("key", b"two")
        assert first
        assert second
        assert not kv.drop("key", expect=first)
        assert not kv.drop("none", expect=first)
        assert kv.get(["key"]) == [Item(b"two", second)]
        assert kv.drop("key", expect=second)
        assert kv.get(["key"]) == [None]

    def test_a_version_never_repeats(self, kv: KeyValue, clock: FakeClock) -> None:
        """Each put gives a key a version that it never had, also with the same value, after a drop and after an end."""
        seen = []
        for _ in range(3):
            seen.append(kv.put("key", b"same"))
            seen.append(kv.put("key", b"same"))
            kv.drop("key")
            seen.append(kv.put("key", b"same", life=Until(clock() + 1)))
            clock.advance(1)
        assert None not in seen
        assert len(set(seen)) == len(seen)

    def test_threads_increment(self, kv: KeyValue) -> None:
        """Several threads of a process increment a counter by compare-and-set, and none of their steps is lost."""
        threads = [threading.Thread(target=increment, args=(kv, 5)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        assert [item and item.value for item in kv.get(["counter"])] == [b"20"]

    # --- items that end at a time

    def test_an_item_until_a_time(self, kv: KeyValue, clock: FakeClock) -> None:
        """An item with ``Until`` is absent for every method from that time on."""
        version = kv.put("key", b"value", life=Until(clock() + 10))
        assert version
        clock.advance(9)
        assert kv.get(["key"]) == [Item(b"value", version)]
        assert [key for key, _ in kv.scan("")] == ["key"]
        clock.advance(1)
        assert kv.get(["key"]) == [None]
        assert kv.scan("") == []
        assert not kv.drop("key")
        assert kv.put("key", b"late", expect=version) is None
        assert kv.wait({"key": version}, 0)
        assert not kv.wait({"key": 0}, 0)
        assert kv.put("key", b"again", expect=0)

    def test_a_time_that_is_past(self, kv: KeyValue, clock: FakeClock) -> None:
        """An item that is put until now or an earlier time replaces the old one, and is absent."""
        for time in (clock(), 0.0, -1.0):
            kv.put("key", b"old")
            assert kv.put("key", b"new", life=Until(time))
            assert kv.get(["key"]) == [None]

    def test_put_replaces_the_life(self, kv: KeyValue, clock: FakeClock) -> None:
        """The life of an item is that of its last put."""
        kv.put("longer", b"", life=Until(clock() + 1))
        kv.put("longer", b"")
        kv.put("shorter", b"", life=Forever())
        kv.put("shorter", b"", life=Until(clock() + 1))
        clock.advance(2)
        assert [key for key, _ in kv.scan("")] == ["longer"]

    # --- scan

    def test_scan_in_pages(self, kv: KeyValue, clock: FakeClock) -> None:
        """Pages hold ``limit`` items in the order of the ASCII codes of their keys; only the last has fewer."""
        keys = [f"{head}{number}" for head in ("a-", "a.", "a/", "aA", "a_", "aa", "B") for number in range(6)]
        for key in reversed(keys):
            kv.put(key, key.encode())
            kv.put(f"{key[:2]}-past", b"", life=Until(clock()))
        pages, after = [], ""
        while page := kv.scan("a", after, 16):
            pages.append(page)
            after = page[-1][0]
        assert [len(page) for page in pages] == [16, 16, 4]
        found = [(key, item.value) for page in pages for key, item in page]
        assert found == [(key, key.encode()) for key in sorted(keys) if key.startswith("a")]

    def test_scan_of_a_prefix(self, kv: KeyValue) -> None:
        """A prefix is matched literally with the beginning of each key. It is not a pattern."""
        for key in ("limit", "limit/mail/0", "limit/mail/1", "limit/main", "limits", "lim_t", "LIMIT"):
            kv.put(key, b"")
        assert [key for key, _ in kv.scan("limit/mai")] == ["limit/mail/0", "limit/mail/1", "limit/main"]
        assert [key for key, _ in kv.scan("limit/")] == ["limit/mail/0", "limit/mail/1", "limit/main"]
        assert [key for key, _ in kv.scan("lim_")] == ["lim_t"]
        assert [key for key, _ in kv.scan("limit/", "limit/mail/0", 1)] == ["limit/mail/1"]
        assert [key for key, _ in kv.scan("limit/", "limit/mail")] == ["limit/mail/0", "limit/mail/1", "limit/main"]
        assert kv.scan("limit/", "limit/main") == []
        assert kv.scan("none") == []

    def test_refuses_other_prefixes(self, kv: KeyValue) -> None:
        """A prefix that no key can have is refused."""
        for prefix in ("/", "a//", "a b", "%", "a*", "ä", "x" * 201):
            with pytest.raises(OptionRefused):
                kv.scan(prefix)
