"""Processes that change the key-value table of a directory are killed between any two steps: no item is incomplete, the
table stays usable, and an ephemeral item is absent at once.
"""

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from unspool import points
from unspool.backends.keyvalue import EPHEMERAL, FOREVER, LARGEST_VALUE, Item, Life
from unspool.backends.spool import SpoolBackend

from ..spool.sweep import sweep

PUT = [name for name in points.NAMES if name.startswith("put.")]
DROP = [name for name in points.NAMES if name.startswith("drop.")]
PLACED = ["put.renamed", "put.synced"]
NEW = b"new" * (LARGEST_VALUE // 3)


@pytest.fixture
def backend(tmp_path: Path) -> SpoolBackend:
    """A backend on the directory."""
    return SpoolBackend(str(tmp_path / "mail"))


def killed_at(point: str, work: Callable[[], object]) -> None:
    """Do the work in a process that is killed when it reaches the point."""
    pid = os.fork()
    if pid == 0:
        points.reach = lambda name: os.kill(os.getpid(), signal.SIGKILL) if name == point else None
        work()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL, "the point was never reached"


def files(backend: SpoolBackend) -> list[str]:
    """Return the files of the table and the drafts, after a sweep."""
    sweep(backend.name)
    return sorted(name for part in ("kv", "tmp") for name in os.listdir(f"{backend.name}/.unspool/{part}"))


@pytest.mark.parametrize("old", [None, FOREVER, EPHEMERAL], ids=str)
@pytest.mark.parametrize("life", [FOREVER, EPHEMERAL], ids=str)
@pytest.mark.parametrize("point", PUT)
def test_a_put_killed_at(backend: SpoolBackend, point: str, life: Life, old: Life | None) -> None:
    """The item is the old or the new one, complete. An ephemeral one of the dead process is absent. The key can be put
    at once.
    """
    kv = backend.kv
    before = kv.put("key", b"old", life=old) if old else 0
    killed_at(point, lambda: kv.put("key", NEW, expect=before, life=life))
    (item,) = kv.get(["key"])
    if point not in PLACED:
        assert item == (Item(b"old", before) if before else None)
    elif life == EPHEMERAL:
        assert item is None
    else:
        assert item is not None
        assert item.value == NEW
        assert item.version != before
    assert files(backend) == ([",key"] if item else []) + (["lock"] if point not in PUT[:2] or old else [])
    assert kv.put("key", b"next", expect=item.version if item else 0)


@pytest.mark.parametrize("point", DROP)
def test_a_drop_killed_at(backend: SpoolBackend, point: str) -> None:
    """The item exists or is absent, and the key can be put at once."""
    version = backend.kv.put("key", b"old")
    assert version
    killed_at(point, lambda: backend.kv.drop("key"))
    assert backend.kv.get(["key"]) == ([None] if point == "drop.removed" else [Item(b"old", version)])
    assert backend.kv.put("key", b"new")


def test_the_end_of_a_process_wakes_a_wait(backend: SpoolBackend) -> None:
    """The kernel reports the death of the process of an ephemeral item: the next check would be a minute later."""
    hear, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            backend.kv.put("key", b"", life=EPHEMERAL)
            os.write(tell, b".")
            signal.pause()
        finally:
            os._exit(1)
    assert os.read(hear, 1) == b"."
    (item,) = backend.kv.get(["key"])
    assert item is not None
    woken: list[bool] = []
    begun = time.monotonic()
    thread = threading.Thread(target=lambda: woken.append(backend.kv.wait({"key": item.version}, 50)))
    thread.start()
    assert not backend.kv.wait({"key": item.version}, 0.2)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    thread.join()
    assert woken == [True]
    assert time.monotonic() - begun < 45
    os.close(hear)
    os.close(tell)


def test_a_fork_during_a_change(backend: SpoolBackend) -> None:
    """A child that is forked while a thread holds the lock of the table keeps neither the lock nor the item."""
    children: list[int] = []

    def fork(name: str) -> None:
        if name in PUT:
            pid = os.fork()
            if pid == 0:
                points.reach = lambda _: None
                signal.pause()
                os._exit(0)
            children.append(pid)

    def work() -> None:
        points.reach = fork
        backend.kv.put("key", b"", life=EPHEMERAL)
        points.reach = lambda _: None
        assert len(children) == len(PUT)
        assert backend.kv.get(["key"]) != [None]
        backend.kv.put("other", b"")
        os.write(tell, b",".join(b"%d" % child for child in children))
        signal.pause()

    hear, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(1)
    children = [int(child) for child in os.read(hear, 1000).split(b",")]
    try:
        assert [key for key, _ in backend.kv.scan("")] == ["key", "other"]
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        assert [key for key, _ in backend.kv.scan("")] == ["other"]
        assert backend.kv.put("key", b"", expect=0)
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)


def test_a_child_of_a_process_that_was_killed_during_a_change(backend: SpoolBackend) -> None:
    """A child that was forked while a thread held the lock of the table does not keep the lock after the kill."""
    hear, tell = os.pipe()

    def fork_and_die(name: str) -> None:
        if name == "put.locked":
            child = os.fork()
            if child == 0:
                os.write(tell, b".")
                signal.pause()
                os._exit(0)
            os.write(tell, b"%d" % child)
            signal.pause()

    pid = os.fork()
    if pid == 0:
        try:
            points.reach = fork_and_die
            backend.kv.put("key", b"")
        finally:
            os._exit(1)
    answer = b""
    while not (b"." in answer and len(answer) > 1):
        answer += os.read(hear, 100)
    try:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        assert backend.kv.put("key", b"", expect=0)
    finally:
        os.kill(int(answer.replace(b".", b"")), signal.SIGKILL)
        os.close(hear)
        os.close(tell)
