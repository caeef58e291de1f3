"""The switches of a spool directory and its live processes: small files in ``.unspool/run``.

A process's file is locked as long as it lives, so what is not locked is a leftover. Its content is mapped into memory
and says what the process runs now: noting that costs no system call, and it is there to read when the process has been
killed. The file's blocks are allocated beforehand, since writing to a mapped hole on a full disk would kill the writer.
Where there is no room for that file, the process lives without one: it is not seen by others, but its supervisor still
sees what it runs.
"""

import contextlib
import logging
import math
import mmap
import os
import struct
from collections.abc import Iterator

from ...errors import SpoolerUnusable
from ..base import REF_SIZE, WorkerInfo, check_period
from . import lock
from .file import open_private
from .layout import RUN, TMP, Directory

__all__ = ["SpoolControl"]

_log = logging.getLogger("unspool")
_PAUSED, _PERIOD = "paused", "period"
_SUPERVISOR, _WORKER = "supervisor", "worker"
_ROLES = (_SUPERVISOR, _WORKER, "forwarder")
_LAST_PID = (1 << 31) - 1
_SIZE = 4096
_slot = struct.Struct("<qdH")  # pid, since, length of the ref, which follows


class SpoolControl:
    """Implements ``base.Control`` for a directory."""

    def __init__(self, directory: Directory, period: float) -> None:
        self._directory = directory
        self._default_period = period
        self._paused = directory.path(f"{RUN}/{_PAUSED}")  # looked at before each task

    @property
    def paused(self) -> bool:
        return os.access(self._paused, os.F_OK)

    def pause(self) -> None:
        self._write(_PAUSED, "")

    def resume(self) -> None:
        self._directory.renew(RUN)
        try:
            os.unlink(_PAUSED, dir_fd=self._directory.fd(RUN))
        except FileNotFoundError:
            pass
        except OSError as error:
            raise self._directory.unusable(error) from error

    @property
    def period(self) -> float:
        try:
            with open(open_private(self._directory, f"{RUN}/{_PERIOD}"), encoding="ascii") as file:
                return check_period(float(file.read(40)))
        except (OSError, ValueError):  # OptionRefused is a ValueError: an edited file may hold anything
            return self._default_period

    def set_period(self, seconds: float) -> None:
        self._write(_PERIOD, f"{check_period(seconds)}")

    def register(self, role: str) -> "SpoolRegistration":
        self._sweep()
        return SpoolRegistration(self._directory, role)

    def live(self) -> list[WorkerInfo]:
        found = [info for _, info in self._processes() if info is not None]
        # A supervisor registers a worker before the fork. Until then, the worker's entry has the supervisor's pid.
        above = {info.pid for info in found if info.role == _SUPERVISOR}
        return [info for info in found if info.role != _WORKER or info.pid not in above]

    def _sweep(self) -> None:
        """Remove what killed processes left behind."""
        for name, info in self._processes():
            if info is None:
                with contextlib.suppress(OSError):
                    os.unlink(name, dir_fd=self._directory.fd(RUN))

    def _processes(self) -> Iterator[tuple[str, WorkerInfo | None]]:
        """Yield the status files of processes, each with None if its process is dead. Files with invalid contents are
        skipped.
        """
        try:
            names = sorted(os.listdir(self._directory.path(RUN)))
        except OSError:
            return
        for name in names:
            role, dash, _ = name.partition("-")
            if not dash:
                continue
            with contextlib.suppress(OSError):
                fd = open_private(self._directory, f"{RUN}/{name}")
                try:
                    if not lock.held(fd):
                        yield name, None
                    elif (info := _read_slot(role, os.read(fd, _SIZE))) is not None:
                        yield name, info
                finally:
                    os.close(fd)

    def _write(self, name: str, text: str) -> None:
        try:
            self._replace(name, text)
        except SpoolerUnusable:
            raise
        except OSError as error:
            raise self._directory.unusable(error) from error

    def _replace(self, name: str, text: str) -> None:
        self._directory.renew(TMP, RUN)
        tmp, run = self._directory.fd(TMP), self._directory.fd(RUN)
        draft = self._directory.drafts.name(name)
        fd = open_private(self._directory, f"{TMP}/{draft}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        try:
            with open(fd, "w", encoding="ascii") as file:
                file.write(text)
            os.rename(draft, name, src_dir_fd=tmp, dst_dir_fd=run)
        except OSError:
            os.unlink(draft, dir_fd=tmp)
            raise


class SpoolRegistration:
    """Implements ``base.Registration``. Made before a fork, it is the child's: the lock is shared, and the parent may
    read."""

    def __init__(self, directory: Directory, role: str) -> None:
        self._directory = directory
        self._name = f"{role}-{os.getpid()}-{os.urandom(4).hex()}"
        self._fd = -1
        try:
            self._map = self._make()
        except OSError as error:  # a full disk must not keep anybody from working it off
            reason = error.strerror or error
            _log.warning("cannot register this %s in %s: %s; status will not show it", role, directory.root, reason)
            self._map = mmap.mmap(-1, _SIZE)  # shared with the child all the same
        self.running("", 0.0)

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
                os.posix_fallocate(self._fd, 0, _SIZE)
            else:
                os.write(self._fd, bytes(_SIZE))
            # The mapping keeps a descriptor of its own; opened apart, that one is no part of the lock.
            apart = os.open(draft, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=tmp)
            try:
                mapped = mmap.mmap(apart, _SIZE)
            finally:
                os.close(apart)
            # Seen only now that it is locked and whole, or it would be swept, or misread.
            os.rename(draft, self._name, src_dir_fd=tmp, dst_dir_fd=run)
        except OSError:
            self.detach()
            os.unlink(draft, dir_fd=tmp)
            raise
        return mapped

    def running(self, ref: str, since: float) -> None:
        size = 0
        if ref:
            name = ref.encode("utf-8", "surrogateescape")
            size = len(name)
            self._map[_slot.size : _slot.size + size] = name
        _slot.pack_into(self._map, 0, os.getpid(), since, size)

    def ref(self) -> str:
        info = _read_slot(_WORKER, self._map[:_SIZE])
        return info.ref if info else ""

    def since(self) -> float:
        info = _read_slot(_WORKER, self._map[:_SIZE])
        return info.since if info else 0.0

    def detach(self) -> None:
        """In the parent, after a fork: the child alone holds the lock now, the parent still reads."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def close(self) -> None:
        """Take the file away. The mapping ends with the object."""
        self._unlink()

    def _unlink(self) -> None:
        with contextlib.suppress(OSError):
            os.unlink(self._name, dir_fd=self._directory.fd(RUN))


def _read_slot(role: str, data: bytes) -> WorkerInfo | None:
    """Return the status that a process has written; None if the bytes are invalid."""
    if len(data) < _slot.size:
        return None
    pid, since, length = _slot.unpack_from(data)
    if role not in _ROLES or not 0 < pid <= _LAST_PID or not 0 <= since < math.inf:
        return None
    ref = data[_slot.size : _slot.size + min(length, REF_SIZE)]
    return WorkerInfo(role, pid, ref.decode("utf-8", "surrogateescape"), since)
