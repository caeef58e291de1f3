"""The number of attempts of a task, stored beside its payload and never in it.

An extended attribute of the task's file holds ``<attempts> <crashes> <phase>`` and, if not zero, the number of claims
by programs that have no handler for the task. It is set before the task is read, so it survives whatever the task does
to its worker. It is set by descriptor, or by path without opening the file, so it drops no lock. It changes neither the
content nor the mtime, which is the due time. It costs 3 µs. A task that is copied with ``cp`` starts with a count of
zero.

Phase ``r`` (running) on a file that no process has locked means that the run ended with its worker: a crash. ``w`` is
waiting. ``d`` is done, and is written only if the file of a finished task could not be removed: the task must not run
again.

Trust: a user who can write to a task's file can set its count, and a signature does not cover the count. Such a user
could also remove the file. So a count only limits how often a task still runs, and the removal of a file that is marked
as done is logged. An invalid count, such as a negative number, is treated as zero: the task has all its attempts again.

On file systems without such attributes (NFS before 4.2, macOS), a small file in ``.unspool/attempts`` holds the count.
"""

import contextlib
import errno
import os
import re
from typing import NamedTuple, Protocol

from .directory import Directory
from .file import open_private
from .layout import ATTEMPTS, TMP

__all__ = ["DONE", "RUNNING", "WAITING", "Attempts", "Count", "Sidecars", "open_attempts", "read_count"]

RUNNING, WAITING, DONE = "r", "w", "d"
_NAME = "user.unspool"
_FULL = (errno.ENOSPC, errno.EDQUOT)


_kept = re.compile(rb"([0-9]{1,9}) ([0-9]{1,9}) ([rwd])(?: ([0-9]{1,9}))?").fullmatch


class Count(NamedTuple):
    """The counts of a task: runs started, runs that ended with their worker, the phase, and claims without a
    handler."""

    attempts: int = 0
    crashes: int = 0
    phase: str = WAITING
    unhandled: int = 0

    def begun(self) -> "Count":
        """Return this count after one more run has started."""
        return Count(self.attempts + 1, self.crashes + (self.phase == RUNNING), RUNNING, self.unhandled)

    def withdrawn(self) -> "Count":
        """Return this count as it was before the run that has just begun."""
        return self._replace(attempts=self.attempts - 1, phase=WAITING)

    def dump(self) -> bytes:
        """Return the stored form."""
        kept = b"%d %d %s" % (self.attempts, self.crashes, self.phase.encode())
        return b"%s %d" % (kept, self.unhandled) if self.unhandled else kept

    @classmethod
    def load(cls, data: bytes) -> "Count":
        """Return the count in a stored form; an invalid form counts as zero."""
        found = _kept(data.strip())
        return cls() if found is None else cls(int(found[1]), int(found[2]), found[3].decode(), int(found[4] or 0))


_FIRST = Count().begun()


class Attempts(Protocol):
    """The storage of counts. ``file`` is an open descriptor of the task's file, or its path if it must not be
    opened."""

    outlive: bool
    """Whether a count outlives its file and must therefore be cleared."""

    def begin(self, file: int | str, ref: str) -> Count:
        """Count a run before it starts, and return the count. The count of a finished task stays unchanged."""

    def write(self, file: int | str, ref: str, count: Count) -> None:
        """Replace the count."""

    def read(self, ref: str) -> Count:
        """Return the count of a file, by path, without opening it."""

    def clear(self, ref: str) -> None:
        """Delete the count of a task that starts again from zero or has left."""


def open_attempts(directory: Directory) -> Attempts:
    """Return the storage that the directory's file system supports."""
    try:
        os.setxattr(directory.fd(TMP), _NAME, b"")
    except AttributeError:
        return Sidecars(directory)
    except OSError as error:
        if error.errno not in _FULL:  # a full file system with attribute support
            return Sidecars(directory)
    return _Attributes(directory)


def read_count(directory: Directory, ref: str) -> Count:
    """Return the count of a file from either storage.

    It is for readers: it creates no file and drops no lock.
    """
    try:
        return Count.load(os.getxattr(directory.path(ref), _NAME, follow_symlinks=False))
    except AttributeError:
        return _read_side(directory, ref)
    except OSError as error:
        if error.errno == errno.ENODATA:  # if attributes are supported, no other storage is used
            return Count()
        return _read_side(directory, ref)


def _read_side(directory: Directory, ref: str) -> Count:
    try:
        side = open_private(directory, f"{ATTEMPTS}/{_side_name(ref)}")
    except OSError:
        return Count()
    try:
        return Count.load(os.read(side, 64))
    finally:
        os.close(side)


class _Attributes:
    outlive = False

    def __init__(self, directory: Directory) -> None:
        self._directory = directory

    def begin(self, file: int | str, ref: str) -> Count:
        try:
            os.setxattr(file, _NAME, _FIRST_BYTES, os.XATTR_CREATE)
            return _FIRST
        except FileExistsError:
            count = Count.load(os.getxattr(file, _NAME))
        except OSError as error:
            # On a full disk, only running tasks makes room, so the count of a first run may be lost.
            if error.errno in _FULL:
                return _FIRST
            raise
        if count.phase != DONE:
            count = count.begun()
            self.write(file, ref, count)
        return count

    def write(self, file: int | str, ref: str, count: Count) -> None:
        os.setxattr(file, _NAME, count.dump())

    def read(self, ref: str) -> Count:
        return read_count(self._directory, ref)

    def clear(self, ref: str) -> None:
        with contextlib.suppress(OSError):
            os.removexattr(self._directory.path(ref), _NAME, follow_symlinks=False)


_FIRST_BYTES = _FIRST.dump()


class Sidecars:
    outlive = True

    def __init__(self, directory: Directory) -> None:
        self._directory = directory

    def begin(self, file: int | str, ref: str) -> Count:
        count = self.read(ref)
        if count.phase != DONE:
            count = count.begun()
            self.write(file, ref, count)
        return count

    def write(self, file: int | str, ref: str, count: Count) -> None:
        try:
            side = self._open(ref)
            try:
                os.write(side, count.dump().ljust(48))
            finally:
                os.close(side)
        except OSError as error:
            if error.errno not in _FULL:
                raise

    def read(self, ref: str) -> Count:
        return _read_side(self._directory, ref)

    def clear(self, ref: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(_side_name(ref), dir_fd=self._fd())

    def _open(self, ref: str) -> int:
        inside, flags = f"{ATTEMPTS}/{_side_name(ref)}", os.O_WRONLY | os.O_CREAT
        self._fd()
        try:
            return open_private(self._directory, inside, flags)
        except FileNotFoundError:
            self._directory.renew(ATTEMPTS)
            self._fd()
            return open_private(self._directory, inside, flags)

    def _fd(self) -> int:
        return self._directory.fd(ATTEMPTS)


def _side_name(ref: str) -> str:
    return ref.replace("/", "+")
