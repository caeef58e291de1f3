"""The shared memory of a live process's entry: written by one process, read by others, and possibly overwritten."""

import mmap
import os
import random
import signal
import struct
from pathlib import Path

import pytest

from unspool.backends.base import REF_SIZE, WorkerInfo
from unspool.backends.slot import SIZE, Slot, parse

_LAYOUT = struct.Struct("<qdH")
_PID = os.getpid()


def content(pid: int, since: float, size: int, ref: bytes = b"") -> bytes:
    """Return the bytes of a slot."""
    return _LAYOUT.pack(pid, since, size) + ref


@pytest.fixture
def slot() -> Slot:
    """A worker's slot in anonymous memory."""
    return Slot("worker", mmap.mmap(-1, SIZE))


def test_a_new_slot(slot: Slot) -> None:
    """The entry of a process that runs nothing."""
    assert slot.read() == WorkerInfo("worker", _PID, "", 0.0)
    assert (slot.ref(), slot.since()) == ("", 0.0)


@pytest.mark.parametrize("ref", ["5/uwsgi_spoolfile", "größe", os.fsdecode(b"not\xffUTF-8"), "x" * REF_SIZE])
def test_write_and_read(slot: Slot, ref: str) -> None:
    """Any ref is read as it was written, without the rest of a longer one before it."""
    slot.running("y" * REF_SIZE, 1.0)
    slot.running(ref, 2.5)
    assert slot.read() == WorkerInfo("worker", _PID, ref, 2.5)
    assert (slot.ref(), slot.since()) == (ref, 2.5)
    slot.running("", 0.0)
    assert slot.read() == WorkerInfo("worker", _PID, "", 0.0)


def test_a_ref_that_is_too_long(slot: Slot) -> None:
    """It is refused, and the entry stays as it was."""
    slot.running("first", 1.0)
    with pytest.raises(ValueError, match=f"has {REF_SIZE + 1} bytes; at most {REF_SIZE} are allowed"):
        slot.running("é" * (REF_SIZE // 2) + "x", 2.0)
    assert slot.read() == WorkerInfo("worker", _PID, "first", 1.0)


def test_clear(slot: Slot) -> None:
    """A cleared slot has no entry."""
    slot.running("ref", 1.0)
    slot.clear()
    assert slot.read() is None
    assert (slot.ref(), slot.since()) == ("", 0.0)


def test_a_killed_child(slot: Slot) -> None:
    """The parent reads the pid of the child and what it ran, after the child was killed."""
    pid = os.fork()
    if pid == 0:
        try:
            slot.running("ref", 1.0)
            os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)
    _, status = os.waitpid(pid, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert slot.read() == WorkerInfo("worker", pid, "ref", 1.0)


def test_a_mapped_file(tmp_path: Path) -> None:
    """The file has the entry in the layout that other versions read."""
    path = tmp_path / "slot"
    path.write_bytes(bytes(SIZE))
    with path.open("r+b") as file:
        slot = Slot("supervisor", mmap.mmap(file.fileno(), SIZE))
    slot.running("ref", 1.5)
    data = path.read_bytes()
    assert data[: _LAYOUT.size + 3] == content(_PID, 1.5, 3, b"ref")
    assert len(data) == SIZE
    assert parse("supervisor", data) == WorkerInfo("supervisor", _PID, "ref", 1.5)


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"\xff" * _LAYOUT.size,
        content(0, 1.0, 0),
        content(-1, 1.0, 0),
        content(1 << 31, 1.0, 0),
        content(1, -1.0, 0),
        content(1, float("nan"), 0),
        content(1, float("inf"), 0),
        content(1, 1.0, REF_SIZE + 1),
    ],
)
def test_invalid_bytes(header: bytes) -> None:
    """No entry is read from them, neither from a file nor from memory that a task has overwritten."""
    memory = mmap.mmap(-1, SIZE)
    slot = Slot("worker", memory)
    memory[:] = header.ljust(SIZE, b"\0")
    assert slot.read() is None
    assert (slot.ref(), slot.since()) == ("", 0.0)
    assert parse("worker", memory[:]) is None


@pytest.mark.parametrize("data", [b"", content(1, 1.0, 0)[:-1], content(1, 1.0, 4, b"ref")])
def test_incomplete_bytes(data: bytes) -> None:
    """No entry is read from a file that is too short."""
    assert parse("worker", data) is None


def test_an_unknown_role() -> None:
    """A role comes from the name of a file, which can be any."""
    assert parse("worker", content(1, 1.0, 0)) == WorkerInfo("worker", 1, "", 1.0)
    assert parse("other", content(1, 1.0, 0)) is None


def test_random_bytes() -> None:
    """Any bytes are either refused or read within their bounds."""
    seed = random.randrange(1 << 32)
    chance, accepted = random.Random(seed), 0
    for _ in range(2000):
        data = content(chance.randrange(-2, 99), chance.choice([0.0, 1e9, -1.0]), chance.randrange(600))
        data += chance.randbytes(chance.randrange(600))
        info = parse("worker", data)
        if info is not None:
            accepted += 1
            ref = info.ref.encode("utf-8", "surrogateescape")
            assert content(info.pid, info.since, len(ref), ref) == data[: _LAYOUT.size + len(ref)], f"seed {seed}"
    assert accepted, f"seed {seed}"
