"""Registrations of this host's processes: small files that are locked as long as their process lives.

The content is mapped into memory and says what the process runs now, so noting that costs no system call, and it is
there to read when the process has been killed. They lie in a directory of this user's own, one for each spooler.
"""

import contextlib
import fcntl
import hashlib
import mmap
import os
import stat
import struct
import tempfile
from collections.abc import Iterator

from ...errors import SpoolerUnusable
from ..base import WorkerInfo

__all__ = ["RegistrationFile", "folder", "processes"]

_SIZE = 4096
_slot = struct.Struct("<qdH")  # pid, since, length of the ref behind it


def folder(spooler: str) -> str:
    """Return the directory for a spooler's registrations, made if need be.

    :raises SpoolerUnusable: if another user's directory is in its place.
    """
    base = os.path.join(tempfile.gettempdir(), f"unspool-{os.getuid()}")
    path = os.path.join(base, hashlib.sha256(spooler.encode()).hexdigest()[:16])
    for one in (base, path):
        with contextlib.suppress(FileExistsError):
            os.mkdir(one, 0o700)
        found = os.lstat(one)
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
            raise SpoolerUnusable(f"{one} must be a directory that only user {os.getuid()} can write to; remove it")
    return path


class RegistrationFile:
    """A process's. Made before a fork it is the child's: the lock is shared, and the parent may read."""

    def __init__(self, path: str, role: str) -> None:
        self._path = os.path.join(path, f"{role}-{os.getpid()}-{os.urandom(6).hex()}")
        draft = os.path.join(path, f".{os.path.basename(self._path)}")
        self._fd = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        os.write(self._fd, bytes(_SIZE))
        apart = os.open(draft, os.O_RDWR | os.O_CLOEXEC)  # the mapping keeps a descriptor, which must not be the lock's
        self._map = mmap.mmap(apart, _SIZE)
        os.close(apart)
        self.running("", 0.0)
        os.rename(draft, self._path)  # seen only now that it is locked and whole, or it would be swept

    def running(self, ref: str, since: float) -> None:
        """Note what this process runs; an empty ref for nothing."""
        name = os.fsencode(ref)
        self._map[_slot.size : _slot.size + len(name)] = name
        _slot.pack_into(self._map, 0, os.getpid(), since, len(name))

    def info(self, role: str) -> WorkerInfo:
        """Return the last note."""
        return _read(role, self._map[:_SIZE])

    def detach(self) -> None:
        """In the parent, after a fork: the child alone holds the lock."""
        os.close(self._fd)

    def close(self) -> None:
        """Take the file away. The mapping ends with the object."""
        with contextlib.suppress(OSError):
            os.unlink(self._path)


def processes(path: str) -> Iterator[WorkerInfo]:
    """Yield the live processes of a directory; what dead ones left is removed."""
    for name in sorted(os.listdir(path)):
        role, dash, _ = name.partition("-")
        if name.startswith(".") or not dash:
            continue
        file = os.path.join(path, name)
        with contextlib.suppress(OSError):
            fd = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                yield _read(role, os.read(fd, _SIZE))
            else:
                os.unlink(file)
            finally:
                os.close(fd)


def _read(role: str, data: bytes) -> WorkerInfo:
    pid, since, length = _slot.unpack_from(data)
    return WorkerInfo(role, pid, os.fsdecode(data[_slot.size : _slot.size + length]), since)
