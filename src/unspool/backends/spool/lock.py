"""Locks that end with their process and exclude uWSGI.

They are open file description locks (``F_OFD_SETLK``). They exclude uWSGI's POSIX locks, but are not dropped when some
other descriptor of the file is closed. A fork shares them, so a forked child must close the descriptor (see ``forks``).
``flock`` would not exclude uWSGI. Checking a lock (``held``) needs neither a lock nor a writable descriptor, so it
causes no ``IN_CLOSE_WRITE`` event.
"""

import errno
import fcntl
import mmap
import os
import struct
import sys
from typing import NamedTuple

__all__ = ["Held", "acquire", "held", "held_inodes", "is_locked", "release", "share"]

if sys.platform == "darwin":
    _GET, _SET = 92, 90  # F_OFD_GETLK and F_OFD_SETLK of <sys/fcntl.h>, which the fcntl module lacks there
    _layout = struct.Struct("qqihh")

    def _flock(kind: int, start: int = 0, length: int = 0) -> bytes:
        return _layout.pack(start, length, 0, kind, 0)

    def _kind(answer: bytes) -> int:
        return int(_layout.unpack(answer)[3])
else:
    _GET, _SET = fcntl.F_OFD_GETLK, fcntl.F_OFD_SETLK
    _layout = struct.Struct("hhqqi4x")

    def _flock(kind: int, start: int = 0, length: int = 0) -> bytes:
        return _layout.pack(kind, 0, start, length, 0)

    def _kind(answer: bytes) -> int:
        return int(_layout.unpack(answer)[0])


_LOOK = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_READ, _WRITE, _UNLOCK = _flock(fcntl.F_RDLCK), _flock(fcntl.F_WRLCK), _flock(fcntl.F_UNLCK)


def acquire(fd: int, byte: int | None = None) -> bool:
    """Lock the whole file, or one byte (which need not exist), without waiting. Return False if another process holds
    it."""
    return _lock(fd, _WRITE if byte is None else _flock(fcntl.F_WRLCK, byte, 1))


def share(fd: int) -> bool:
    """Take a shared lock on the whole file without waiting. Return False if another process holds an exclusive lock."""
    return _lock(fd, _READ)


def _lock(fd: int, kind: bytes) -> bool:
    try:
        fcntl.fcntl(fd, _SET, kind)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True


def release(fd: int) -> None:
    """Release the lock, also for children that share the descriptor."""
    fcntl.fcntl(fd, _SET, _UNLOCK)


def held(fd: int, byte: int | None = None) -> bool:
    """Return whether another process holds a lock on the file, or on the byte."""
    wanted = _WRITE if byte is None else _flock(fcntl.F_WRLCK, byte, 1)
    return _kind(fcntl.fcntl(fd, _GET, wanted)) != fcntl.F_UNLCK


def is_locked(path: str) -> bool:
    """Return whether a process holds the lock of a file."""
    try:
        fd = os.open(path, _LOOK)
    except OSError:
        return False
    try:
        return held(fd)
    finally:
        os.close(fd)


class Held(NamedTuple):
    """The inode numbers of locked files on this system. ``whole`` is False if some may be missing."""

    inodes: frozenset[int]
    whole: bool


def held_inodes() -> Held | None:
    """Return the inodes in the kernel's table of locks, or None if there is no table.

    Reading the table replaces opening each file. It contains inodes of other file systems, so a match is not certain.
    The kernel returns a table of more than a page in pieces, which may miss locks that change in between.
    """
    try:
        with open("/proc/locks", "rb", buffering=0) as locks:
            table = locks.readall()
        inodes = frozenset(int(line.rsplit(b":", 1)[1].split(b" ", 1)[0]) for line in table.splitlines())
    except (OSError, ValueError, IndexError):
        return None
    return Held(inodes, len(table) < mmap.PAGESIZE // 2)
