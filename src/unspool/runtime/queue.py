"""The pipe from which all workers take tickets: records of a fixed size, so that each reader gets whole records.

A write of up to PIPE_BUF bytes is atomic, and the pipe contains only whole records, so a read of a record's size
returns one record. Reading does not block. Workers wait with epoll, and the kernel wakes one of them.
"""

import contextlib
import fcntl
import os
import select
import struct
import termios
from collections.abc import Iterable

from ..backends.base import REF_SIZE, Ticket

__all__ = ["Queue"]

_RECORD = 512
_layout = struct.Struct(f"=HqdqH{REF_SIZE}s{_RECORD - REF_SIZE - 28}x")  # spooler, rank, due, token, length of ref, ref
_PER_WRITE = select.PIPE_BUF // _RECORD
_PIPE_SIZE = 1 << 18


class Queue:
    """Tickets from the supervisor for the next free worker, or the tickets that one worker has claimed ahead. The
    worker takes these out again one by one, and the supervisor can take them back.

    :param size: the size of the pipe in bytes.
    """

    def __init__(self, size: int = _PIPE_SIZE) -> None:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)
        found = 1 << 16
        with contextlib.suppress(OSError, AttributeError):
            found = fcntl.fcntl(self._writer, fcntl.F_SETPIPE_SZ, size)
        self.capacity = found // _RECORD

    def fileno(self) -> int:
        """Return the descriptor of the reading end."""
        return self._reader

    @property
    def descriptors(self) -> tuple[int, int]:
        """Return the descriptors of both ends. A process may have closed one of them."""
        return self._reader, self._writer

    def __len__(self) -> int:
        """Return the number of tickets that no worker has taken yet."""
        answer = fcntl.ioctl(self._reader, termios.FIONREAD, bytes(4))
        return int(struct.unpack("i", answer)[0]) // _RECORD

    def put(self, tickets: Iterable[tuple[int, Ticket]], *, workers: int = 0) -> list[tuple[int, Ticket]]:
        """Put tickets into the pipe, each with the index of its spooler. Return those for which there was no room.

        :param workers: the number of processes that may wait for tickets. The kernel wakes one of them for each write,
            so this number of tickets is written one by one.
        """
        waiting = list(tickets)
        while waiting:
            number = 1 if workers > 0 else _PER_WRITE
            try:
                os.write(self._writer, b"".join(_dump(index, ticket) for index, ticket in waiting[:number]))
            except BlockingIOError:
                break
            waiting = waiting[number:]
            workers -= 1
        return waiting

    def get(self) -> tuple[int, Ticket] | None:
        """Return the next ticket.

        :raises BlockingIOError: if there is none now.
        :returns: None if the supervisor has closed the queue or is dead.
        """
        record = os.read(self._reader, _RECORD)
        if not record:
            return None
        return _load(record)

    def get_some(self, most: int) -> list[tuple[int, Ticket]]:
        """Return the next tickets, at most half of those in the pipe, so that other workers get some too.

        :raises BlockingIOError: if there is none now.
        :returns: an empty list if the supervisor has closed the queue or is dead.
        """
        some = os.read(self._reader, _RECORD * (min(most, max(len(self) // 2, 1)) if most > 1 else 1))
        return [_load(some, start) for start in range(0, len(some), _RECORD)]

    def recall(self) -> list[tuple[int, Ticket]]:
        """Take back and return all tickets that no worker has taken yet."""
        found = []
        with contextlib.suppress(BlockingIOError):
            while (item := self.get()) is not None:
                found.append(item)
        return found

    def close_writer(self) -> None:
        """Close the writing end. Workers end when they have taken the remaining tickets."""
        os.close(self._writer)

    def close_reader(self) -> None:
        """Close the reading end."""
        os.close(self._reader)


def _dump(index: int, ticket: Ticket) -> bytes:
    ref = ticket.ref.encode("utf-8", "surrogateescape")
    return _layout.pack(index, ticket.rank, ticket.due, ticket.token, len(ref), ref)


def _load(records: bytes, start: int = 0) -> tuple[int, Ticket]:
    index, rank, due, token, size, ref = _layout.unpack_from(records, start)
    return index, Ticket(rank, due, ref[:size].decode("utf-8", "surrogateescape"), token)
