"""Ephemeral items of the key-value table, which end with the process that has put them."""

import os

import pytest

from ...backends.base import Backend
from ...backends.keyvalue import EPHEMERAL, Item, KeyValue
from .child import child, kill
from .harness import BackendTests

__all__ = ["EphemeralTests"]


class EphemeralTests(BackendTests):
    """``KeyValue``: items with the life ``EPHEMERAL``."""

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
        self.sync(backend)
        assert [key for key, _ in kv.scan("")] == ["lasting", "replaced"]

    def test_an_ephemeral_item_ends_with_its_process(self, backend: Backend, shared: KeyValue) -> None:
        """An item is absent at once when the process that has put it is killed. A change of the key is noticed."""
        with child(lambda: shared.put("key", b"child", life=EPHEMERAL)) as pid:
            (item,) = shared.get(["key"])
            assert item is not None
            assert item.value == b"child"
            assert shared.put("key", b"mine", expect=0) is None
            kill(pid)
            self.sync(backend)
            assert shared.get(["key"]) == [None]
            assert shared.scan("") == []
            assert shared.wait({"key": item.version}, 0)
            assert shared.put("key", b"mine", expect=0)

    def test_an_ephemeral_item_is_not_kept_by_a_child(self, backend: Backend, shared: KeyValue) -> None:
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

        with child(work) as pid:
            assert shared.get(["key"]) != [None]
            kill(pid)
            self.sync(backend)
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
        self.sync(backend)
        assert [key for key, _ in shared.scan("")] == ["key"]

    def test_an_ephemeral_item_that_another_process_replaced(self, backend: Backend, shared: KeyValue) -> None:
        """An item belongs to the process that has put it last. The end of the one before changes nothing."""
        with child(lambda: shared.put("key", b"child", life=EPHEMERAL)) as pid:
            version = shared.put("key", b"mine", life=EPHEMERAL)
            assert version
            kill(pid)
            self.sync(backend)
            assert shared.get(["key"]) == [Item(b"mine", version)]
