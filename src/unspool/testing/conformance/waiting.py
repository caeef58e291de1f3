"""Waiting for changes of the key-value table, and changes by several processes."""

import contextlib
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from ...backends.base import Backend
from ...backends.keyvalue import Item, KeyValue
from ..clock import FakeClock
from .child import child
from .harness import BackendTests
from .increment import PATIENCE, increment

__all__ = ["WaitingTests"]

_SHORT = 0.05
"""Seconds of a wait that is expected to end without a change."""


class WaitingTests(BackendTests):
    """``KeyValue.wait``, and one table in several processes."""

    def test_wait_without_a_change(self, kv: KeyValue) -> None:
        """A wait ends at its timeout if no key has changed. Changes of other keys and failed changes do not matter."""
        version = kv.put("key", b"")
        assert version
        assert not kv.wait({"key": version, "none": 0}, _SHORT)
        kv.put("other", b"")
        kv.put("key", b"new", expect=version + 1)
        assert not kv.wait({"key": version, "none": 0}, _SHORT)

    def test_a_change_before_the_wait_is_noticed(self, kv: KeyValue) -> None:
        """A wait returns at once if a key was put, dropped, or dropped and put again since its version was read."""
        changes: list[Callable[[], object]] = [
            lambda: kv.put("key", b"new"),
            lambda: kv.drop("key"),
            lambda: (kv.drop("key"), kv.put("key", b"old")),
        ]
        for change in changes:
            version = kv.put("key", b"old")
            assert version
            change()
            assert kv.wait({"none": 0, "key": version}, PATIENCE)
        kv.put("key", b"")
        assert kv.wait({"key": 0}, PATIENCE)

    def test_a_thread_is_woken(self, kv: KeyValue) -> None:
        """A wait ends when another thread changes the key."""
        version = kv.put("key", b"old")
        assert version
        woken: list[bool] = []
        thread = threading.Thread(target=lambda: woken.append(kv.wait({"key": version}, PATIENCE)))
        thread.start()
        kv.put("key", b"new")
        thread.join(PATIENCE)
        assert woken == [True]

    @pytest.mark.parametrize("change", ["put", "replace", "drop"])
    def test_a_process_is_woken(self, shared: KeyValue, change: str) -> None:
        """A wait ends when another process puts, replaces or drops an item."""
        version = 0 if change == "put" else shared.put("key", b"old")
        assert version is not None
        hear, tell = os.pipe()

        def work() -> None:
            os.read(hear, 1)
            if change == "drop":
                shared.drop("key")
            else:
                shared.put("key", b"new")

        with child(work, wait=False):
            assert not shared.wait({"key": version}, _SHORT)
            os.write(tell, b".")
            assert shared.wait({"other": 0, "key": version}, PATIENCE)
        os.close(hear)
        os.close(tell)

    # --- several processes

    def test_processes_see_one_table(
        self, shared: KeyValue, backend: Backend, clock: FakeClock, tmp_path: Path
    ) -> None:
        """Another process sees the items, and its changes are seen."""
        other = self.make_backend(clock, tmp_path)
        table = other.kv
        version = shared.put("key", b"one")
        assert version
        assert table.get(["key"]) == [Item(b"one", version)]
        second = table.put("key", b"two", expect=version)
        assert second
        assert shared.get(["key"]) == [Item(b"two", second)]
        assert shared.drop("key", expect=second)
        assert table.scan("") == []
        other.close()

    def test_processes_increment(self, shared: KeyValue) -> None:
        """Several processes increment a counter by compare-and-set, and none of their steps is lost."""
        with contextlib.ExitStack() as children:
            for _ in range(3):
                children.enter_context(child(lambda: increment(shared, 5), wait=False))
            increment(shared, 5)
            done = 5
            while done < 20:
                (item,) = shared.get(["counter"])
                assert item is not None
                done = int(item.value)
                assert done == 20 or shared.wait({"counter": item.version}, PATIENCE)
        assert [item and item.value for item in shared.get(["counter"])] == [b"20"]
