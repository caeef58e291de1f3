"""The pipe from which all workers take tickets: records of one size, so that any reader gets whole records.

A write of up to PIPE_BUF bytes is atomic, and the pipe only ever contains whole records, so a read of one record's size
returns one record. Reading does not block. A worker waits with epoll, and of several waiting workers one is woken.
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
    """Tickets on their way from the supervisor to whichever worker is free; or those that a worker has claimed ahead,
    which it takes out again one by one, unless its supervisor does.

    :param size: bytes of the pipe.
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
        """Return the reading end."""
        return self._reader

    @property
    def descriptors(self) -> tuple[int, int]:
        """Return the descriptors of both ends, of which a process may have closed one."""
        return self._reader, self._writer

    def __len__(self) -> int:
        """Return the number of tickets that no worker has taken yet."""
        answer = fcntl.ioctl(self._reader, termios.FIONREAD, bytes(4))
        return int(struct.unpack("i", answer)[0]) // _RECORD

    def put(self, tickets: Iterable[tuple[int, Ticket]], *, workers: int = 0) -> list[tuple[int, Ticket]]:
        """Put tickets in, each with its spooler's number; return those that found no room.

        :param workers: how many processes may wait for tickets. The kernel wakes one of them for each write, so as many
            tickets are written one by one.
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
        :returns: None when the supervisor has closed the queue, or is gone.
        """
        record = os.read(self._reader, _RECORD)
        if not record:
            return None
        return _load(record)

    def get_some(self, most: int) -> list[tuple[int, Ticket]]:
        """Return the next tickets, as many as there are now, of two no more than one: the rest is for other workers.

        :raises BlockingIOError: if there is none now.
        :returns: none when the supervisor has closed the queue, or is gone.
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
        """No more tickets come: workers end when those within are taken."""
        os.close(self._writer)

    def close_reader(self) -> None:
        """In the supervisor, when the queue is done with."""
        os.close(self._reader)


def _dump(index: int, ticket: Ticket) -> bytes:
    ref = ticket.ref.encode("utf-8", "surrogateescape")
    return _layout.pack(index, ticket.rank, ticket.due, ticket.token, len(ref), ref)


def _load(records: bytes, start: int = 0) -> tuple[int, Ticket]:
    index, rank, due, token, size, ref = _layout.unpack_from(records, start)
    return index, Ticket(rank, due, ref[:size].decode("utf-8", "surrogateescape"), token)
