"""Runs that were noted by processes with no recorder beside them: those of uWSGI.

A transaction for each run would be in the task's way, so each process appends a line to a file of its own, and puts
the file into the database when it is long. The file is locked as long as its process lives; what nobody has locked is
left over, and goes into the database with the next process's. Readers read the files, too.
"""

import contextlib
import json
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO

from ...message import Record
from . import lock
from .layout import PRIVATE, TMP, Directory

__all__ = ["Journal"]

_PREFIX = "journal-"
_LONG = 1 << 20  # bytes
_OPEN = os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC

Add = Callable[[Sequence[Record]], None]


class Journal:
    """The journals of a spool directory, and this process's own.

    :param add: puts records into the database.
    """

    def __init__(self, directory: Directory, add: Add) -> None:
        self._directory = directory
        self._add = add
        self._name = ""
        self._fd = -1
        self._pid = 0
        self._size = 0

    def append(self, record: Record) -> None:
        """Adds one line. What cannot be put into the database now stays in its file, for the next process.

        :raises OSError: if it cannot be written.
        """
        begun = self._pid == os.getpid()
        if not begun:
            self._begin()
        self._size += os.write(self._fd, json.dumps(record).encode() + b"\n")
        if not begun:
            self.ingest_leftovers()
        if self._size > _LONG:
            self._pid = 0
            with open(self._fd, "rb") as file:
                self._ingest(self._name, file)

    def records(self) -> Iterator[Record]:
        """All that is in journals, in no order."""
        for name in self._names():
            with contextlib.suppress(OSError), open(self._directory.path(f"{PRIVATE}/{name}"), "rb") as file:
                yield from _parse(file.read())

    def ingest_leftovers(self) -> None:
        """Puts what dead processes left into the database."""
        for name in self._names():
            with contextlib.suppress(OSError):
                fd = os.open(name, _OPEN, dir_fd=self._directory.fd(PRIVATE))
                with open(fd, "rb") as file:
                    if lock.acquire(fd):
                        self._ingest(name, file)

    def _begin(self) -> None:
        self._pid = os.getpid()  # a fork shares the file of its parent, and its lock
        self._name = f"{_PREFIX}{self._pid}-{os.urandom(4).hex()}"
        private, tmp = self._directory.fd(PRIVATE), self._directory.fd(TMP)
        self._fd = os.open(self._name, _OPEN | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=tmp)
        self._size = 0
        lock.acquire(self._fd)
        os.rename(self._name, self._name, src_dir_fd=tmp, dst_dir_fd=private)  # now that nobody takes it for left over

    def _ingest(self, name: str, file: BinaryIO) -> None:
        file.seek(0)
        with contextlib.suppress(sqlite3.Error):  # another process has it just now
            self._add(list(_parse(file.read())))
            os.unlink(name, dir_fd=self._directory.fd(PRIVATE))

    def _names(self) -> list[str]:
        try:
            return [name for name in os.listdir(self._directory.path(PRIVATE)) if name.startswith(_PREFIX)]
        except OSError:
            return []


def _parse(data: bytes) -> Iterator[Record]:
    for line in data.splitlines():
        with contextlib.suppress(ValueError, TypeError):  # cut short by a full disk
            yield Record(*json.loads(line))
