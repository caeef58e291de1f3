"""Journals of runs, written by processes without a recorder, such as those of uWSGI.

A transaction for each run would delay tasks, so each process appends a line to a file of its own. When that file is
long, the process begins another one, and moves the long ones into the database when it is idle, a few at a time. If it
is never idle and there are many, it moves them between two tasks. The process keeps its file locked while it writes to
it. The next process moves an unlocked file, which was left over, into the database. Readers also read the files.
"""

import contextlib
import errno
import json
import os
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from ... import forks
from ...message import Record
from . import descriptor, lock
from .directory import Directory
from .file import open_private
from .layout import PRIVATE, TMP

__all__ = ["Journal"]

_PREFIX = "journal-"
_LONG = 1 << 18  # bytes: about 1,200 runs, which take 10 ms to insert into the database
_MANY = 32  # number of full journals after which a process inserts some between two tasks
_MOMENT = 0.01  # seconds
_MOST = 1 << 28  # bytes; no process writes that many to one journal
_CREATE = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

Add = Callable[[Sequence[Record]], None]


class Journal:
    """The journals of a spool directory.

    :param add: puts records into the database.
    """

    def __init__(self, directory: Directory, add: Add) -> None:
        self._directory = directory
        self._add = add
        self._name = ""
        self._fd = -1  # no journal is begun
        self._inode = self._size = 0
        self._waiting: deque[str] = deque()
        forks.register(after_in_child=self._close_inherited)

    def append(self, records: Sequence[Record]) -> None:
        """Add a line for each record.

        :raises OSError: if it cannot be written.
        """
        if self._fd < 0:
            self._waiting = deque(self._names())
            self._begin()
        elif self._size > _LONG:
            self._end()
            self._begin()
            if len(self._waiting) > _MANY:
                self.ingest_some()
        lines = "".join(f"{record.to_json()}\n" for record in records).encode()
        self._size += len(lines)
        while (written := os.write(self._fd, lines)) < len(lines):  # the disk is full; the next write raises
            lines = lines[written:]

    def ingest_some(self) -> None:
        """Put the oldest journals into the database, for a moment. Journals that fail are left for the next process."""
        if self._fd >= 0:
            deadline = time.monotonic() + _MOMENT
            while self._waiting and time.monotonic() < deadline:
                self._ingest(self._waiting.popleft())

    def ingest_leftovers(self) -> None:
        """Put the journals of dead processes into the database."""
        for name in self._names():
            self._ingest(name)

    def records(self) -> Iterator[Record]:
        """Yield the records in all journals, the oldest file first."""
        for name in self._names():
            with contextlib.suppress(OSError), open(self._open(name), "rb") as file:
                yield from _parse(file.read().splitlines())

    def _begin(self) -> None:
        self._name = name = f"{_PREFIX}{time.time_ns():020d}-{os.urandom(4).hex()}"  # sorts by age
        self._directory.renew(PRIVATE, TMP)
        private, tmp = self._directory.fd(PRIVATE), self._directory.fd(TMP)
        draft = self._directory.drafts.name(name)
        fd = self._directory.hand_over(os.open(draft, _CREATE, 0o600, dir_fd=tmp))
        try:
            lock.acquire(fd)
            # The file is locked now, so no process takes it for a leftover.
            os.rename(draft, name, src_dir_fd=tmp, dst_dir_fd=private)
        except OSError:
            os.close(fd)
            raise
        self._fd, self._inode, self._size = fd, os.fstat(fd).st_ino, 0

    def _end(self) -> None:
        self._waiting.append(self._name)
        fd, self._fd = self._fd, -1
        os.close(fd)

    def _close_inherited(self) -> None:
        """Close the file of the parent, because its lock lives as long as any copy of its descriptor."""
        descriptor.close(self._fd, self._inode)
        self._fd = -1

    def _ingest(self, name: str) -> None:
        with contextlib.suppress(OSError, sqlite3.Error):  # the journal is gone, or another process holds the database
            fd = self._open(name, os.O_RDWR)
            with open(fd, "rb") as file:
                if lock.acquire(fd) and os.fstat(fd).st_nlink:  # otherwise another process has just inserted it
                    self._add(_parse(file.read().splitlines()))
                    os.unlink(name, dir_fd=self._directory.fd(PRIVATE))

    def _open(self, name: str, flags: int = os.O_RDONLY) -> int:
        fd = open_private(self._directory, f"{PRIVATE}/{name}", flags)
        if os.fstat(fd).st_size > _MOST:  # it is left alone, because reading it would take too much memory
            os.close(fd)
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), name)
        return fd

    def _names(self) -> list[str]:
        try:
            return sorted(name for name in os.listdir(self._directory.path(PRIVATE)) if name.startswith(_PREFIX))
        except OSError:
            return []


def _parse(lines: Sequence[bytes]) -> list[Record]:
    """Return the records in these lines. Invalid lines are skipped: a full disk may have cut one short."""
    try:
        return [record for row in json.loads(b"[%b]" % b",".join(lines)) if (record := Record.of(row)) is not None]
    except (ValueError, RecursionError):
        return [record for line in lines for record in _parse([line])] if len(lines) > 1 else []
