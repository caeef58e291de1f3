"""Locks that die with their process, and exclude uWSGI.

Open file description locks (``F_OFD_SETLK``): they exclude uWSGI's POSIX locks, and unlike those they are not dropped
when some other descriptor of the file is closed. A fork shares them, so a forked child must close the descriptor (see
``store``). ``flock`` would not exclude uWSGI. Looking (``held``) needs no lock and no writable descriptor, so it makes
no ``IN_CLOSE_WRITE`` event.
"""

import errno
import fcntl
import mmap
import struct
import sys
from typing import NamedTuple

__all__ = ["Held", "acquire", "held", "held_inodes", "release", "share"]

if sys.platform == "darwin":
    _GET, _SET = 92, 90  # <sys/fcntl.h>: F_OFD_GETLK, F_OFD_SETLK; the fcntl module lacks them there
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


_READ, _WRITE, _UNLOCK = _flock(fcntl.F_RDLCK), _flock(fcntl.F_WRLCK), _flock(fcntl.F_UNLCK)


def acquire(fd: int, byte: int | None = None) -> bool:
    """Lock the whole file, or one byte, which need not exist, without waiting; False if another process has it."""
    return _lock(fd, _WRITE if byte is None else _flock(fcntl.F_WRLCK, byte, 1))


def share(fd: int) -> bool:
    """Take a shared lock on the whole file without waiting; False if another process has an exclusive one."""
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
    """Unlocks, also for children that share the descriptor."""
    fcntl.fcntl(fd, _SET, _UNLOCK)


def held(fd: int, byte: int | None = None) -> bool:
    """Return whether another process holds a lock on the file, or on the byte."""
    wanted = _WRITE if byte is None else _flock(fcntl.F_WRLCK, byte, 1)
    return _kind(fcntl.fcntl(fd, _GET, wanted)) != fcntl.F_UNLCK


class Held(NamedTuple):
    """The inode numbers of files with a lock on this system, and whether those are all."""

    inodes: frozenset[int]
    whole: bool


def held_inodes() -> Held | None:
    """Return what the kernel's table of locks tells, or None where there is none.

    One reading instead of an open for each file. Numbers of other file systems are among them, so a match says *maybe*.
    A table of more than a page is told in pieces, and not whole where others lock and unlock in between.
    """
    try:
        with open("/proc/locks", "rb", buffering=0) as locks:
            table = locks.readall()
        inodes = frozenset(int(line.rsplit(b":", 1)[1].split(b" ", 1)[0]) for line in table.splitlines())
    except (OSError, ValueError, IndexError):
        return None
    return Held(inodes, len(table) < mmap.PAGESIZE // 2)
