"""What a worker tells its supervisor: one JSON line an event, written as it happens.

The pipe keeps lines until the supervisor reads, so they survive the worker; and a busy supervisor reads many at once.
"""

import contextlib
import json
import os
import threading
from typing import Any

__all__ = ["BEGIN", "END", "FAILED", "READY", "REFUSED", "Reader", "Writer"]

READY, FAILED, BEGIN, END, REFUSED = "ready", "failed", "begin", "end", "refused"

_CHUNK = 1 << 16
_encode = json.JSONEncoder(separators=(",", ":")).encode


class Writer:
    """The worker's end. Safe from several threads."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lock = threading.Lock()

    def write(self, *event: Any) -> None:
        """Tells one event. A supervisor that is gone hears nothing; the worker notices that elsewhere."""
        line = _encode(event).encode() + b"\n"
        with self._lock, contextlib.suppress(BrokenPipeError):
            while line:
                line = line[os.write(self._fd, line) :]


class Reader:
    """The supervisor's end."""

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self._fd = fd
        self._rest = b""

    def fileno(self) -> int:
        """The descriptor to wait on."""
        return self._fd

    def read(self) -> list[list[Any]]:
        """The events that have arrived."""
        parts = [self._rest]
        with contextlib.suppress(BlockingIOError):
            while chunk := os.read(self._fd, _CHUNK):
                parts.append(chunk)
        lines, newline, rest = b"".join(parts).rpartition(b"\n")
        self._rest = rest
        if not newline:
            return []
        events: list[list[Any]] = json.loads(b"[%b]" % lines.replace(b"\n", b","))
        return events

    def close(self) -> None:
        """Ends the channel."""
        os.close(self._fd)
