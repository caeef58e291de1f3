"""File locks that exclude uWSGI's, and end with their process."""

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from unspool.backends.spool import lock

# What uWSGI does: a POSIX lock on the whole file (core/lock.c: fcntl, F_SETLK, F_WRLCK).
POSIX = """
import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
try:
    fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    print("excluded", flush=True)
else:
    print("locked", flush=True)
sys.stdin.read()
"""
OURS = """
import os, sys
from unspool.backends.spool import lock
fd = os.open(sys.argv[1], os.O_RDWR)
print("locked" if lock.acquire(fd) else "excluded", flush=True)
sys.stdin.read()
"""


def locked_inodes() -> frozenset[int]:
    """Return the locked inodes, as the system lists them."""
    held = lock.held_inodes()
    assert held is not None
    return held.inodes


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file to lock."""
    path = tmp_path / "task"
    path.write_text("content")
    return path


@pytest.fixture
def fd(path: Path) -> Iterator[int]:
    """The open file."""
    fd = os.open(path, os.O_RDWR)
    yield fd
    os.close(fd)


@contextmanager
def process(code: str, path: Path, says: str) -> Iterator["subprocess.Popen[str]"]:
    """Return another process that has tried to lock the file, and keeps the lock until it ends."""
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with other:
        assert other.stdout is not None
        assert other.stdout.readline().strip() == says
        yield other
        other.kill()


@pytest.mark.parametrize("code", [POSIX, OURS])
def test_another_process_excludes_us(path: Path, fd: int, code: str) -> None:
    """If uWSGI or unspool has it, the file is not locked, without waiting, and is seen as held."""
    with process(code, path, "locked"):
        assert lock.held(fd)
        assert not lock.acquire(fd)


@pytest.mark.parametrize("code", [POSIX, OURS])
def test_we_exclude_another_process(path: Path, fd: int, code: str) -> None:
    """The reverse holds, too."""
    assert lock.acquire(fd)
    with process(code, path, "excluded"):
        pass
    lock.release(fd)
    with process(code, path, "locked"):
        pass


@pytest.mark.parametrize("code", [POSIX, OURS])
def test_it_dies_with_its_process(path: Path, fd: int, code: str) -> None:
    """When the process is killed, the file can be locked at once."""
    with process(code, path, "locked") as other:
        other.kill()
        other.wait()
        assert not lock.held(fd)
        assert lock.acquire(fd)


def test_two_descriptors_of_one_process_exclude_each_other(path: Path, fd: int) -> None:
    """Threads do so, and one may ask twice."""
    other = os.open(path, os.O_RDWR)
    try:
        assert lock.acquire(fd)
        assert lock.acquire(fd)
        assert not lock.acquire(other)
        assert lock.held(other)
        assert not lock.held(fd), "its own is nobody else's"
        lock.release(fd)
        assert lock.acquire(other)
    finally:
        os.close(other)


def test_closing_another_descriptor_drops_nothing(path: Path, fd: int) -> None:
    """It would release a POSIX lock: a task that reads its own file would lose it."""
    assert lock.acquire(fd)
    path.read_text()
    with process(POSIX, path, "excluded"):
        pass


def test_closing_its_own_descriptor_drops_it(path: Path) -> None:
    """Nothing else has to be released."""
    fd = os.open(path, os.O_RDWR)
    assert lock.acquire(fd)
    os.close(fd)
    with process(OURS, path, "locked"):
        pass


def test_looking_needs_no_writable_descriptor(path: Path, fd: int) -> None:
    """So the check causes no event of a closed writer."""
    reader = os.open(path, os.O_RDONLY)
    try:
        assert not lock.held(reader)
        assert lock.acquire(fd)
        assert lock.held(reader)
    finally:
        os.close(reader)


def test_a_read_lock_is_held_too(path: Path, fd: int) -> None:
    """A reader with a shared lock must not be disturbed either."""
    code = POSIX.replace("LOCK_EX", "LOCK_SH")
    with process(code, path, "locked"):
        assert lock.held(fd)
        assert not lock.acquire(fd)


def test_flock_would_not_do(path: Path, fd: int) -> None:
    """This is the reason for this kind of lock: the other kind does not exclude uWSGI's."""
    fcntl.flock(fd, fcntl.LOCK_EX)
    with process(POSIX, path, "locked"):
        pass


@pytest.mark.skipif(not os.path.exists("/proc/locks"), reason="this system does not list its locks")
def test_the_inodes_of_locked_files(path: Path, fd: int) -> None:
    """Locks of this process and another one are listed, and not after their release."""
    inode = os.fstat(fd).st_ino
    assert inode not in locked_inodes()
    assert lock.acquire(fd)
    assert inode in locked_inodes()
    lock.release(fd)
    assert inode not in locked_inodes()
    with process(POSIX, path, "locked"):
        assert inode in locked_inodes()
