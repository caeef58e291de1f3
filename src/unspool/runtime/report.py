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

__all__ = ["BEGIN", "END", "FAILED", "READY", "REFUSED", "Reader", "Writer", "dump_record"]

READY, FAILED, BEGIN, END, REFUSED = "ready", "failed", "begin", "end", "refused"

_CHUNK = 1 << 16
_encode = json.JSONEncoder(separators=(",", ":")).encode


def dump_record(record: Record) -> str:
    """A record in JSON. By hand: one is written for each task, and the general encoder takes five times as long."""
    id, task, verdict, attempt, started, duration, pid, error = record
    return (
        f"[{_quoted(id)},{_quoted(task)},{_quoted(verdict)},{attempt},{started!r},{duration!r},{pid},{_quoted(error)}]"
    )


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
        again = "null" if until is None else repr(until)
        self._send(f'["{END}",{index},{_quoted(ref)},{again},{dump_record(record)}]\n'.encode())

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
        """The events that have arrived."""
        parts = [self._rest]
        with contextlib.suppress(BlockingIOError):
            while not self.ended:
                chunk = os.read(self._fd, _CHUNK)
                parts.append(chunk)
                self.ended = not chunk
        lines, newline, rest = b"".join(parts).rpartition(b"\n")
        self._rest = rest
        if not newline:
            return []
        events: list[list[Any]] = json.loads(b"[%b]" % lines.replace(b"\n", b","))
        return events

    def close(self) -> None:
        """Ends the channel."""
        os.close(self._fd)
