"""Registrations as files: the kernel shows other processes of the host which entries are of live processes.

Each process keeps a locked file, which is mapped into memory, so that writing to it needs no I/O. An unlocked file is a
leftover of a killed process.
"""

import contextlib
import fcntl
import mmap
import os
from collections.abc import Iterator

from .base import WorkerInfo
from .registration import SIZE, Registration, parse

__all__ = ["RegistrationFile", "processes"]


class RegistrationFile(Registration):
    """A registration in a file. A worker shares the lock of its supervisor until the supervisor detaches.

    :param path: the directory of the files, to which only trusted users can write.
    :raises OSError: if the file cannot be created.
    """

    def __init__(self, path: str, role: str) -> None:
        self._path = os.path.join(path, f"{role}-{os.getpid()}-{os.urandom(6).hex()}")
        draft = os.path.join(path, f".{os.path.basename(self._path)}")
        self._fd = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX)
            os.write(self._fd, bytes(SIZE))  # a write to a mapped hole on a full disk would kill the process
            # The mapping keeps a descriptor of its own. That one must not share the lock, so the file is opened again.
            apart = os.open(draft, os.O_RDWR | os.O_CLOEXEC)
            try:
                super().__init__(role, mmap.mmap(apart, SIZE))
            finally:
                os.close(apart)
            os.rename(draft, self._path)  # other processes see the file from here on; unlocked, it would be swept
        except OSError:
            self.detach()
            os.unlink(draft)
            raise

    def detach(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

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
