"""The registrations of a spool directory: small files in ``.unspool/run``.

Each live process keeps a locked file. An unlocked file is a leftover. The file is mapped into memory as the entry of
the process, so writing to it needs no I/O, and its contents outlive a killed process. The file's blocks are allocated
first, because a write to a mapped hole on a full disk kills the writer. If the disk has no room for the file, the
process works without it: ``unspool status`` does not show the process, but its supervisor sees what it runs.
"""

import contextlib
import logging
import mmap
import os
from collections.abc import Iterator

from ..base import WorkerInfo
from ..registration import SIZE, Registration, parse
from . import lock
from .directory import Directory
from .file import open_private
from .layout import RUN, TMP

__all__ = ["SpoolRegistration", "processes"]

_log = logging.getLogger("unspool")
_SUPERVISOR, _WORKER = "supervisor", "worker"


class SpoolRegistration(Registration):
    """The registration of a process in a file. A worker shares the lock of its supervisor until the supervisor
    detaches.
    """

    def __init__(self, directory: Directory, role: str) -> None:
        _sweep(directory)
        self._directory = directory
        self._name = f"{role}-{os.getpid()}-{os.urandom(4).hex()}"
        self._fd = -1
        try:
            memory: mmap.mmap | None = self._make()
        except OSError as error:  # workers must be able to empty a full disk
            reason = error.strerror or error
            _log.warning("cannot register this %s in %s: %s; status will not show it", role, directory.root, reason)
            memory = None  # a supervisor still sees what its worker runs
        super().__init__(role, memory)

    def _make(self) -> mmap.mmap:
        directory = self._directory
        directory.renew(TMP, RUN)
        run, tmp = directory.fd(RUN), directory.fd(TMP)
        draft = directory.drafts.name(self._name)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._fd = directory.hand_over(os.open(draft, flags, 0o600, dir_fd=tmp))
        try:
            lock.acquire(self._fd)
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(self._fd, 0, SIZE)
            else:
                os.write(self._fd, bytes(SIZE))
            # The mapping keeps a descriptor of its own. That one must not share the lock, so the file is opened again.
            apart = os.open(draft, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=tmp)
            try:
                mapped = mmap.mmap(apart, SIZE)
            finally:
                os.close(apart)
            # Other processes see the file from here on. Unlocked, it would be swept; incomplete, it would be misread.
            os.rename(draft, self._name, src_dir_fd=tmp, dst_dir_fd=run)
        except OSError:
            self.detach()
            os.unlink(draft, dir_fd=tmp)
            raise
        return mapped

    def detach(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def close(self) -> None:
        """Remove the file. The mapping ends with the object."""
        with contextlib.suppress(OSError):
            os.unlink(self._name, dir_fd=self._directory.fd(RUN))


def processes(directory: Directory) -> list[WorkerInfo]:
    """Return the entries of the live processes."""
    found = [info for _, info in _entries(directory) if info is not None]
    # A supervisor registers a worker before the fork. Until then, the worker's entry has the supervisor's pid.
    above = {info.pid for info in found if info.role == _SUPERVISOR}
    return [info for info in found if info.role != _WORKER or info.pid not in above]


def _sweep(directory: Directory) -> None:
    """Remove the files of killed processes."""
    for name, info in _entries(directory):
        if info is None:
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=directory.fd(RUN))


def _entries(directory: Directory) -> Iterator[tuple[str, WorkerInfo | None]]:
    """Yield the name and the entry of each process's file. The entry is None if the process is dead. A live file with
    invalid contents is skipped.
    """
    try:
        names = sorted(os.listdir(directory.path(RUN)))
    except OSError:
        return
    for name in names:
        role, dash, _ = name.partition("-")
        if not dash:
            continue
        with contextlib.suppress(OSError):
            fd = open_private(directory, f"{RUN}/{name}")
            try:
                if not lock.held(fd):
                    yield name, None
                elif (info := parse(role, os.read(fd, SIZE))) is not None:
                    yield name, info
            finally:
                os.close(fd)
