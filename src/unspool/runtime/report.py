"""The pipe of a worker's reports to its supervisor: one line for each event, written as it happens.

The pipe keeps lines until the supervisor reads them, so they survive the worker, and a busy supervisor reads many at
once. A task may write to any descriptor of its process, so the supervisor validates each line.
"""

import contextlib
import json
import os
import threading

from .events import Event, dump, load

__all__ = ["BadReport", "Reader", "Writer"]

_CHUNK = 1 << 16
_LONGEST = 1 << 24  # bytes of a line; the longest valid one contains a traceback of 16,000 characters


class Writer:
    """The worker's end of the pipe. It can be used from several threads."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lock = threading.Lock()
        self.heard = True
        """Whether the supervisor was alive when the last line was written."""

    def fileno(self) -> int:
        """Return the descriptor of the pipe."""
        return self._fd

    def write(self, event: Event) -> bool:
        """Report an event.

        :returns: False if the supervisor is gone.
        """
        line = f"{dump(event)}\n".encode()
        with self._lock:
            try:
                while (written := os.write(self._fd, line)) < len(line):
                    line = line[written:]
            except BrokenPipeError:
                self.heard = False
        return self.heard


class BadReport(Exception):
    """An invalid line in a worker's pipe. Nothing after it can be trusted."""

    def __init__(self, line: bytes, events: list[Event]) -> None:
        super().__init__(f"it sent an invalid report: {line[:60]!r}")
        self.events = events
        """The events before that line, as ``Reader.read`` returns them."""


class Reader:
    """The supervisor's end of the pipe.

    :param spoolers: the number of spoolers; a report identifies one by its index.
    """

    def __init__(self, fd: int, spoolers: int) -> None:
        os.set_blocking(fd, False)
        self._fd = fd
        self._spoolers = spoolers
        self._rest = b""
        self.ended = False
        """Whether the worker's end is closed: the worker is dead, or a task has closed its descriptor."""

    def fileno(self) -> int:
        """Return the descriptor to wait on."""
        return self._fd

    def read(self) -> list[Event]:
        """Return the events that have arrived.

        :raises BadReport: once, for an invalid line. The reader then counts as ended, and reads nothing more.
        """
        parts = [self._rest]
        size = len(self._rest)
        with contextlib.suppress(BlockingIOError):
            while not self.ended and size <= _LONGEST:
                chunk = os.read(self._fd, _CHUNK)
                parts.append(chunk)
                size += len(chunk)
                self.ended = not chunk
        *lines, self._rest = b"".join(parts).split(b"\n")
        spoolers = self._spoolers
        try:
            found = json.loads(b"[%b]" % b",".join(lines))
            events = [load(values, line, spoolers) for values, line in zip(found, lines, strict=True)]
        except (ValueError, RecursionError):
            raise self._refusal(lines) from None
        if len(self._rest) > _LONGEST:
            raise self._refusal(lines)
        return events

    def _refusal(self, lines: list[bytes]) -> BadReport:
        """Return the error for the first invalid line, or for the rest, which is too long for a line."""
        events: list[Event] = []
        bad = self._rest
        self.ended, self._rest = True, b""
        for line in lines:
            try:
                events.append(load(json.loads(line), line, self._spoolers))
            except (ValueError, RecursionError):
                bad = line
                break
        return BadReport(bad, events)

    def close(self) -> None:
        """Close the pipe."""
        os.close(self._fd)
