"""Registrations of this host's processes: small files, each locked as long as its process lives.

A file is mapped into memory as a ``slot`` with the task that the process runs now. Writing to it needs no I/O, and
its contents outlive a killed process. Each spooler has its own directory of such files. Only this user can write to it.
"""

import contextlib
import fcntl
import hashlib
import mmap
import os
import stat
import tempfile
from collections.abc import Iterator

from ...errors import SpoolerUnusable
from ..base import WorkerInfo
from ..slot import SIZE, parse

__all__ = ["RegistrationFile", "folder", "processes"]


def folder(spooler: str) -> str:
    """Return the directory of a spooler's registrations. It is created if it does not exist.

    :raises SpoolerUnusable: if the path is not a directory that this user alone can write to.
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
    """The file of one process.

    A supervisor creates a worker's file before it forks. The two then share the lock until the parent detaches.
    """

    def __init__(self, path: str, role: str) -> None:
        self._path = os.path.join(path, f"{role}-{os.getpid()}-{os.urandom(6).hex()}")
        draft = os.path.join(path, f".{os.path.basename(self._path)}")
        self._fd = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX)
            os.write(self._fd, bytes(SIZE))
            # The mapping keeps a descriptor of its own. That one must not share the lock, so the file is opened again.
            apart = os.open(draft, os.O_RDWR | os.O_CLOEXEC)
            try:
                self.memory = mmap.mmap(apart, SIZE)
            finally:
                os.close(apart)
            os.rename(draft, self._path)  # other processes see the file from here on; unlocked, it would be swept
        except OSError:
            os.close(self._fd)
            os.unlink(draft)
            raise

    def detach(self) -> None:
        """Leave the lock to the child. The parent calls this after a fork, and can still read the slot."""
        os.close(self._fd)

    def close(self) -> None:
        """Remove the file. The mapping ends with the object."""
        with contextlib.suppress(OSError):
            os.unlink(self._path)


def processes(path: str) -> Iterator[WorkerInfo]:
    """Yield the entries of the live processes of a directory, and remove the files of dead ones. Files with invalid
    contents are skipped.
    """
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
                if (info := parse(role, os.read(fd, SIZE))) is not None:
                    yield info
            else:
                os.unlink(file)
            finally:
                os.close(fd)
