"""What a worker tells its supervisor: one JSON line an event, written as it happens.

The pipe keeps lines until the supervisor reads, so they survive the worker; and a busy supervisor reads many at once.
"""

import contextlib
import json
import os
import threading
from json.encoder import encode_basestring_ascii as _quoted
from typing import Any

from ..message import Record

__all__ = ["BEGIN", "END", "FAILED", "READY", "REFUSED", "Reader", "Writer", "dump_end"]

READY, FAILED, BEGIN, END, REFUSED = "ready", "failed", "begin", "end", "refused"

_CHUNK = 1 << 16
_encode = json.JSONEncoder(separators=(",", ":")).encode


def dump_end(index: int, ref: str, until: float | None, record: Record) -> bytes:
    """The line of a run that ended. By hand: there is one for each task, and the general encoder takes five times as
    long."""
    id, task, verdict, attempt, started, duration, pid, error = record
    again = "null" if until is None else repr(until)
    return (
        f'["{END}",{index},{_quoted(ref)},{again},[{_quoted(id)},{_quoted(task)},{_quoted(verdict)},{attempt},{started!r},'
        f"{duration!r},{pid},{_quoted(error)}]]"
    ).encode()


class Writer:
    """The worker's end. Safe from several threads."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lock = threading.Lock()

    def write(self, *event: Any) -> None:
        """Tells one event. A supervisor that is gone hears nothing; the worker notices that elsewhere."""
        self._send(f"{_encode(event)}\n".encode())

    def end(self, index: int, ref: str, until: float | None, record: Record) -> None:
        """Tells the end of a run: ``write(END, index, ref, until, record)``, for less."""
        self._send(b"%b\n" % dump_end(index, ref, until, record))

    def _send(self, line: bytes) -> None:
        with self._lock:
            try:
                while (written := os.write(self._fd, line)) < len(line):
                    line = line[written:]
            except BrokenPipeError:
                pass


class Reader:
    """The supervisor's end."""

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self._fd = fd
        self._rest = b""
        self.ended = False
        """Whether the worker's end is closed: it is dead, or its task closed what was not its own."""

    def fileno(self) -> int:
        """The descriptor to wait on."""
        return self._fd

    def read(self) -> list[list[Any]]:
        """The events that have arrived; those of runs that ended with their own line as the last element."""
        parts = [self._rest]
        with contextlib.suppress(BlockingIOError):
            while not self.ended:
                chunk = os.read(self._fd, _CHUNK)
                parts.append(chunk)
                self.ended = not chunk
        *lines, self._rest = b"".join(parts).split(b"\n")
        events: list[list[Any]] = json.loads(b"[%b]" % b",".join(lines))
        for event, line in zip(events, lines, strict=True):
            if event[0] == END:
                event.append(line)
        return events

    def close(self) -> None:
        """Ends the channel."""
        os.close(self._fd)
