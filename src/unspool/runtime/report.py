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
    """The line of a run that ended, by hand, as ``Record.to_json``."""
    return f'["{END}",{index},{_quoted(ref)},{_number(until)},{record.to_json()}]'.encode()


def _dump_begin(index: int, ref: str, started: float, timeout: float | None, delay: float | None) -> bytes:
    return f'["{BEGIN}",{index},{_quoted(ref)},{started!r},{_number(timeout)},{_number(delay)}]\n'.encode()


def _number(value: float | None) -> str:
    return "null" if value is None else repr(float(value))  # as an heir of float may look like anything


class Writer:
    """The worker's end. Safe from several threads."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lock = threading.Lock()

    def write(self, *event: Any) -> None:
        """Tells one event. A supervisor that is gone hears nothing; the worker notices that elsewhere."""
        self._send(f"{_encode(event)}\n".encode())

    def begin(self, index: int, ref: str, started: float, timeout: float | None, delay: float | None) -> None:
        """Tells the beginning of a run: ``write(BEGIN, ...)``, for less."""
        self._send(_dump_begin(index, ref, started, timeout, delay))

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
