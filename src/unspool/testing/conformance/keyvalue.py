"""The key-value table of a queue: compare-and-set, the lives of items, waiting for changes, several processes."""

import contextlib
import itertools
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ...backends.base import Backend
from ...backends.keyvalue import EPHEMERAL, LARGEST_VALUE, Forever, Item, KeyValue, Until
from ...errors import OptionRefused
from ..clock import FakeClock
from .harness import Ground

__all__ = ["KeyValueTests"]

_PATIENCE = 50.0
"""Seconds after which a wait counts as one that nothing has woken."""

_GLANCE = 0.05
"""Seconds of a wait that nothing is expected to wake."""


class KeyValueTests(Ground):
    """``KeyValue``: a table of small values that all processes of a queue see."""

    @pytest.fixture
    def kv(self, backend: Backend) -> KeyValue:
        """Return the table of the backend under test."""
        return backend.kv

    @pytest.fixture
    def shared(self, backend: Backend, kv: KeyValue) -> KeyValue:
        """Return the table of the backend under test, if other processes see it too."""
        if not backend.capabilities.forks:
            pytest.skip("no other process sees this backend's table")
        return kv

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
        """Without ``expect``, a value is put whether there is an item or not."""
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

    def test_threads_count(self, kv: KeyValue) -> None:
        """Several threads of a process increment a counter by compare-and-set, and none of their steps is lost."""
        threads = [threading.Thread(target=_count, args=(kv, 5)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(_PATIENCE)
        assert [item and item.value for item in kv.get(["counter"])] == [b"20"]

    # --- lives

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

    def test_an_ephemeral_item_can_be_used_like_others(self, kv: KeyValue) -> None:
        """An ephemeral item is read, replaced and dropped like others while its process lives."""
        first = kv.put("key", b"one", expect=0, life=EPHEMERAL)
        assert first
        assert kv.get(["key"]) == [Item(b"one", first)]
        assert kv.put("key", b"two", expect=0, life=EPHEMERAL) is None
        second = kv.put("key", b"two", expect=first, life=EPHEMERAL)
        assert second
        assert kv.scan("") == [("key", Item(b"two", second))]
        assert kv.drop("key", expect=second)
        assert kv.get(["key"]) == [None]

    def test_an_ephemeral_item_ends_with_its_backend(self, backend: Backend, kv: KeyValue) -> None:
        """``close`` of the backend ends the ephemeral items that it has put, and no others."""
        kv.put("ephemeral", b"", life=EPHEMERAL)
        kv.put("lasting", b"")
        kv.put("replaced", b"", life=EPHEMERAL)
        kv.put("replaced", b"")
        backend.close()
        self.bury(os.getpid())
        assert [key for key, _ in kv.scan("")] == ["lasting", "replaced"]

    def test_an_ephemeral_item_ends_with_its_process(self, shared: KeyValue) -> None:
        """An item is absent at once when the process that has put it is killed. A change of the key is noticed."""
        with _child(lambda: shared.put("key", b"child", life=EPHEMERAL)) as pid:
            (item,) = shared.get(["key"])
            assert item is not None
            assert item.value == b"child"
            assert shared.put("key", b"mine", expect=0) is None
            _kill(pid)
            self.bury(pid)
            assert shared.get(["key"]) == [None]
            assert shared.scan("") == []
            assert shared.wait({"key": item.version}, 0)
            assert shared.put("key", b"mine", expect=0)

    def test_an_ephemeral_item_is_not_kept_by_a_child(self, shared: KeyValue) -> None:
        """A child that its process has forked later, and that lives on, does not keep the item."""
        release, hold = os.pipe()

        def work() -> None:
            shared.put("key", b"", life=EPHEMERAL)
            hear, tell = os.pipe()
            if os.fork() == 0:
                os.close(hold)  # the pipe ends with the test
                os.write(tell, b".")
                os.read(release, 1)
                os._exit(0)
            assert os.read(hear, 1) == b"."

        with _child(work) as pid:
            assert shared.get(["key"]) != [None]
            _kill(pid)
            self.bury(pid)
            assert shared.get(["key"]) == [None]
        os.close(hold)
        os.close(release)

    @pytest.mark.parametrize("use", [False, True])
    def test_an_ephemeral_item_is_not_ended_by_a_child(self, backend: Backend, shared: KeyValue, use: bool) -> None:
        """The end of a forked child does not end the item of its parent, even if the child uses and closes the
        backend."""
        shared.put("key", b"", life=EPHEMERAL)
        pid = os.fork()
        if pid == 0:
            try:
                if use:
                    shared.put("child", b"", life=EPHEMERAL)
                    backend.close()
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        self.bury(pid)
        assert [key for key, _ in shared.scan("")] == ["key"]

    def test_an_ephemeral_item_that_another_process_replaced(self, shared: KeyValue) -> None:
        """An item belongs to the process that has put it last. The end of the one before changes nothing."""
        with _child(lambda: shared.put("key", b"child", life=EPHEMERAL)) as pid:
            version = shared.put("key", b"mine", life=EPHEMERAL)
            assert version
            _kill(pid)
            self.bury(pid)
            assert shared.get(["key"]) == [Item(b"mine", version)]

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
        """A prefix is any beginning of a key, and is no pattern."""
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
        """What no key begins with is refused."""
        for prefix in ("/", "a//", "a b", "%", "a*", "ä", "x" * 201):
            with pytest.raises(OptionRefused):
                kv.scan(prefix)

    # --- wait

    def test_wait_without_a_change(self, kv: KeyValue) -> None:
        """A wait ends at its timeout if no key has changed. Changes of other keys and failed changes do not matter."""
        version = kv.put("key", b"")
        assert version
        assert not kv.wait({"key": version, "none": 0}, _GLANCE)
        kv.put("other", b"")
        kv.put("key", b"new", expect=version + 1)
        assert not kv.wait({"key": version, "none": 0}, _GLANCE)

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
            assert kv.wait({"none": 0, "key": version}, _PATIENCE)
        kv.put("key", b"")
        assert kv.wait({"key": 0}, _PATIENCE)

    def test_a_thread_is_woken(self, kv: KeyValue) -> None:
        """A wait ends when another thread changes the key."""
        version = kv.put("key", b"old")
        assert version
        woken: list[bool] = []
        thread = threading.Thread(target=lambda: woken.append(kv.wait({"key": version}, _PATIENCE)))
        thread.start()
        kv.put("key", b"new")
        thread.join(_PATIENCE)
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

        with _child(work, wait=False):
            assert not shared.wait({"key": version}, _GLANCE)
            os.write(tell, b".")
            assert shared.wait({"other": 0, "key": version}, _PATIENCE)
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

    def test_processes_count(self, shared: KeyValue) -> None:
        """Several processes increment a counter by compare-and-set, and none of their steps is lost."""
        with contextlib.ExitStack() as children:
            for _ in range(3):
                children.enter_context(_child(lambda: _count(shared, 5), wait=False))
            _count(shared, 5)
            done = 5
            while done < 20:
                (item,) = shared.get(["counter"])
                assert item is not None
                done = int(item.value)
                assert done == 20 or shared.wait({"counter": item.version}, _PATIENCE)
        assert [item and item.value for item in shared.get(["counter"])] == [b"20"]


def _count(kv: KeyValue, steps: int) -> None:
    """Increment a counter by compare-and-set."""
    while steps:
        (item,) = kv.get(["counter"])
        value = int(item.value) if item else 0
        steps -= kv.put("counter", b"%d" % (value + 1), expect=item.version if item else 0) is not None


@contextlib.contextmanager
def _child(work: Callable[[], object], *, wait: bool = True) -> Iterator[int]:
    """Fork a child that does ``work`` and then lives on. Yield its pid, and kill it at the end.

    :param wait: whether to yield only after the work is done.
    """
    hear, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os.write(tell, b".")
            while True:
                signal.pause()
        except BaseException:  # noqa: BLE001  also a failed assertion
            traceback.print_exc()
        finally:
            os._exit(1)
    os.close(tell)
    try:
        assert not wait or os.read(hear, 1) == b".", "the child has failed; see its traceback"
        yield pid
    finally:
        os.close(hear)
        with contextlib.suppress(ChildProcessError):
            _kill(pid)


def _kill(pid: int) -> None:
    """Kill a child, and return when it is dead. Do nothing if it was killed before."""
    if os.waitpid(pid, os.WNOHANG)[0] == 0:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
