"""A file whose lock the processes of a spool directory hold one after another, each for a moment."""

import contextlib
import errno
import os
import time
from collections.abc import Iterator

from ... import forks
from ...errors import SpoolerUnusable
from . import lock, trust
from .directory import Directory

__all__ = ["Mutex"]

_OPEN = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_PATIENCE = 10.0  # seconds to wait for the lock, which is meant to be held for less than a millisecond
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.0002, 0.005  # seconds between two attempts to get it
_KINDS = {errno.ELOOP: "a symbolic link", errno.EISDIR: "a directory", errno.ENXIO: "a socket"}


class Mutex:
    """A lock of a part of the directory. It excludes other processes and other threads, and ends with its process.

    :param part: the directory of the file.
    :param name: the file, which is created on first use.
    """

    def __init__(self, directory: Directory, part: str, name: str) -> None:
        self._directory = directory
        self._part = part
        self._name = name
        self._descriptors: set[int] = set()  # those that threads are using
        forks.register(after_in_child=self._close_inherited)

    @contextlib.contextmanager
    def held(self, *, wait: bool = True) -> Iterator[int]:
        """Hold the lock, and yield a descriptor of the file.

        :param wait: whether to wait while another process holds it.
        :raises SpoolerUnusable: if another process holds it for too long, or the file must not be used.
        :raises OSError: if the file cannot be opened or locked.
        """
        patience = _PATIENCE if wait else 0.0
        end, pause = time.monotonic() + patience, _SHORTEST_PAUSE
        while True:
            fd = self._open()
            self._descriptors.add(fd)
            try:
                if lock.acquire(fd) and self._is_current(fd):
                    yield fd
                    return
            finally:
                self._descriptors.discard(fd)
                with contextlib.suppress(OSError):
                    lock.release(fd)  # a child that another thread has forked may share it for a moment
                os.close(fd)
            if time.monotonic() >= end:
                raise self._unusable(
                    f"another process has locked {self._part}/{self._name} for {patience:.0f} s; end that process, or "
                    "continue it if it is stopped"
                )
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _close_inherited(self) -> None:
        """Close the descriptors of the parent, because a lock lives as long as any copy of its descriptor."""
        for fd in self._descriptors:
            with contextlib.suppress(OSError):
                os.close(fd)
        self._descriptors.clear()

    def _open(self) -> int:
        try:
            fd = os.open(self._name, _OPEN, 0o600, dir_fd=self._directory.fd(self._part))
        except OSError as error:
            if error.errno not in _KINDS:
                raise
            reason: str | None = _KINDS[error.errno]
        else:
            reason = trust.to_file(os.fstat(fd), self._directory.owner, signed=True)
            if reason is None:
                return self._directory.hand_over(fd)
            os.close(fd)
        raise self._unusable(f"{self._directory.path(self._part)}/{self._name} is {reason}; move it away")

    def _is_current(self, fd: int) -> bool:
        """Return whether the path still leads to the file. It may have been removed meanwhile."""
        with contextlib.suppress(FileNotFoundError):
            path = os.stat(self._name, dir_fd=self._directory.fd(self._part), follow_symlinks=False)
            return os.path.samestat(path, os.fstat(fd))
        return False

    def _unusable(self, reason: str) -> SpoolerUnusable:
        return SpoolerUnusable(f"spooler {self._directory.root} cannot be used: {reason}")
