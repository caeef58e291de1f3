"""The shared memory of a live process's entry: written by one process, read by others, and possibly overwritten."""

import mmap
import os
import random
import signal
import struct
from pathlib import Path

import pytest

from unspool.backends.base import REF_SIZE, WorkerInfo
from unspool.backends.registration import SIZE, Registration, parse

_LAYOUT = struct.Struct("<qdH")
_PID = os.getpid()


def content(pid: int, since: float, size: int, ref: bytes = b"") -> bytes:
    """Return the bytes of a entry."""
    return _LAYOUT.pack(pid, since, size) + ref


@pytest.fixture
def entry() -> Registration:
    """A worker's entry in anonymous memory."""
    return Registration("worker")


def test_a_new_slot(entry: Registration) -> None:
    """The entry of a process that runs nothing."""
    assert entry.read() == WorkerInfo("worker", _PID, "", 0.0)
    assert (entry.ref(), entry.since()) == ("", 0.0)


@pytest.mark.parametrize("ref", ["5/uwsgi_spoolfile", "größe", os.fsdecode(b"not\xffUTF-8"), "x" * REF_SIZE])
def test_write_and_read(entry: Registration, ref: str) -> None:
    """Any ref is read as it was written, without the rest of a longer one before it."""
    entry.running("y" * REF_SIZE, 1.0)
    entry.running(ref, 2.5)
    assert entry.read() == WorkerInfo("worker", _PID, ref, 2.5)
    assert (entry.ref(), entry.since()) == (ref, 2.5)
    entry.running("", 0.0)
    assert entry.read() == WorkerInfo("worker", _PID, "", 0.0)


def test_a_ref_that_is_too_long(entry: Registration) -> None:
    """It is refused, and the entry stays as it was."""
    entry.running("first", 1.0)
    with pytest.raises(ValueError, match=f"has {REF_SIZE + 1} bytes; at most {REF_SIZE} are allowed"):
        entry.running("é" * (REF_SIZE // 2) + "x", 2.0)
    assert entry.read() == WorkerInfo("worker", _PID, "first", 1.0)


def test_clear(entry: Registration) -> None:
    """A cleared entry has no entry."""
    entry.running("ref", 1.0)
    entry.clear()
    assert entry.read() is None
    assert (entry.ref(), entry.since()) == ("", 0.0)


def test_a_killed_child(entry: Registration) -> None:
    """The parent reads the pid of the child and what it ran, after the child was killed."""
    pid = os.fork()
    if pid == 0:
        try:
            entry.running("ref", 1.0)
            os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)
    _, status = os.waitpid(pid, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert entry.read() == WorkerInfo("worker", pid, "ref", 1.0)


def test_a_mapped_file(tmp_path: Path) -> None:
    """The file has the entry in the layout that other versions read."""
    path = tmp_path / "entry"
    path.write_bytes(bytes(SIZE))
    with path.open("r+b") as file:
        entry = Registration("supervisor", mmap.mmap(file.fileno(), SIZE))
    entry.running("ref", 1.5)
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
    entry = Registration("worker", memory)
    memory[:] = header.ljust(SIZE, b"\0")
    assert entry.read() is None
    assert (entry.ref(), entry.since()) == ("", 0.0)
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
