"""The reports of a worker to its supervisor: one JSON line for each event, written as it happens.

The pipe keeps lines until the supervisor reads them, so they survive the worker, and a busy supervisor reads many at
once. A task may write to any descriptor of its process, so the supervisor validates each line.
"""

import contextlib
import json
import os
import sys
import threading
from collections.abc import Iterable
from itertools import product
from json.encoder import encode_basestring_ascii as _quoted
from typing import Any

from ..backends.base import REF_SIZE
from ..message import Record, RefusalKind, Verdict

__all__ = [
    "BEGIN", "BROKEN", "END", "FAILED", "LEAVING", "OVER", "READY", "REFUSED", "BadReport", "Reader", "Writer",
    "dump_end",
]  # fmt: skip

READY, FAILED, BEGIN, END, REFUSED = "ready", "failed", "begin", "end", "refused"
BROKEN = "broken"
"""The worker ends because of an internal error."""
OVER = "over"
"""A run with a time limit has returned, and its end is being settled, which the limit does not include."""
LEAVING = "leaving"
"""The worker has settled all its runs, takes no more tasks, and is ending."""

_CHUNK = 1 << 16
_LONGEST = 1 << 24  # bytes of a line; the longest valid one contains a traceback of 16,000 characters
_LARGEST = sys.float_info.max
_NUMBER: tuple[type, ...] = (float, int)
_OPTIONAL: tuple[type, ...] = (*_NUMBER, type(None))
_SHAPES: dict[str, set[tuple[type, ...]]] = {
    READY: {(str, dict, bool)},
    FAILED: {(str, str, str)},
    BROKEN: {(str, str)},
    LEAVING: {(str,)},
    BEGIN: set(product((str,), (int,), (str,), _NUMBER, _OPTIONAL, _OPTIONAL)),
    OVER: {(str, int, str)},
    REFUSED: set(product((str,), (int,), (str,), (str,), _OPTIONAL, (str,))),
}
_RECORD = set(product((str,), (str,), (str,), (int,), _NUMBER, _NUMBER, (int,), (str,)))
_OF_NO_TASK = frozenset((FAILED, BROKEN, LEAVING))
_VERDICTS, _KINDS = frozenset(map(str, Verdict)), frozenset(map(str, RefusalKind))
_encode = json.JSONEncoder(separators=(",", ":")).encode


def dump_end(index: int, ref: str, until: float | None, record: Record) -> bytes:
    """Return the line of a run that ended, by hand, as ``Record.to_json``."""
    return f'["{END}",{index},{_quoted(ref)},{_number(until)},{record.to_json()}]'.encode()


def _dump_begin(index: int, ref: str, started: float, timeout: float | None, delay: float | None) -> bytes:
    return f'["{BEGIN}",{index},{_quoted(ref)},{started!r},{_number(timeout)},{_number(delay)}]\n'.encode()


def _number(value: float | None) -> str:
    return "null" if value is None else repr(float(value))  # as an heir of float may look like anything


def _is_ref(ref: str) -> bool:
    """Return whether the text may be a task's ref. Backends use a ref as a file name, among others."""
    try:
        size = len(ref) if ref.isascii() else len(ref.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError:
        return False
    return 0 < size <= REF_SIZE and "\0" not in ref and ref[0] != "/" and "../" not in ref


def _are_finite(numbers: Iterable[float | None]) -> bool:
    """Return whether the numbers are finite as floats. A JSON integer may be larger than any float."""
    for number in numbers:  # noqa: SIM110  a loop takes a third of the time
        if number is not None and not -_LARGEST <= number <= _LARGEST:
            return False
    return True


class Writer:
    """The worker's end. Safe from several threads."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lock = threading.Lock()
        self.heard = True
        """Whether the supervisor was alive when the last line was written."""

    def fileno(self) -> int:
        """Return the descriptor of the pipe."""
        return self._fd

    def write(self, *event: Any) -> None:
        """Report an event. Nothing happens if the supervisor is gone; the worker notices that elsewhere."""
        self._send(f"{_encode(event)}\n".encode())

    def begin(self, index: int, ref: str, started: float, timeout: float | None, delay: float | None) -> None:
        """Tells the beginning of a run: ``write(BEGIN, ...)``, for less."""
        self._send(_dump_begin(index, ref, started, timeout, delay))

    def end(self, index: int, ref: str, until: float | None, record: Record) -> bool:
        """Report the end of a run. A faster form of ``write(END, index, ref, until, record)``.

        :returns: False if the supervisor is gone.
        """
        return self._send(b"%b\n" % dump_end(index, ref, until, record))

    def _send(self, line: bytes) -> bool:
        with self._lock:
            try:
                while (written := os.write(self._fd, line)) < len(line):
                    line = line[written:]
            except BrokenPipeError:
                self.heard = False
        return self.heard


class BadReport(Exception):
    """An invalid line on a worker's pipe. Nothing after it can be trusted."""

    def __init__(self, line: bytes, events: list[list[Any]]) -> None:
        super().__init__(f"its report is no report: {line[:60]!r}")
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
        """Whether the worker's end is closed: it is dead, or its task closed what was not its own."""

    def fileno(self) -> int:
        """Return the descriptor to wait on."""
        return self._fd

    def read(self) -> list[list[Any]]:
        """Return the events that have arrived. The event of an ended run has its own line as the last element.

        :raises BadReport: once, at an invalid line; the reader then reads no more and counts as ended.
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
        try:
            events: list[list[Any]] = json.loads(b"[%b]" % b",".join(lines))
            good = len(events) == len(lines) and all(map(self._is_event, events))
        except (ValueError, RecursionError):
            good = False
        if not good or len(self._rest) > _LONGEST:
            raise self._refusal(lines)
        for event, line in zip(events, lines, strict=True):
            if event[0] == END:
                event.append(line)
        return events

    def _refusal(self, lines: list[bytes]) -> BadReport:
        """Return the error for the first invalid line, or for the rest, which is too long for a line."""
        events: list[list[Any]] = []
        bad = self._rest
        self.ended, self._rest = True, b""
        for line in lines:
            try:
                event = json.loads(line)
            except (ValueError, RecursionError):
                event = None
            if not self._is_event(event):
                bad = line
                break
            events.append([*event, line] if event[0] == END else event)
        return BadReport(bad, events)

    def _is_event(self, event: Any) -> bool:
        """Return whether an event is valid: its types, and numbers in range."""
        if type(event) is not list or not event or type(event[0]) is not str:
            return False
        kind = event[0]
        if kind == END:  # first, because there is one for each run
            return len(event) == 5 and self._is_end(*event)
        if tuple(map(type, event)) not in _SHAPES.get(kind, ()):
            return False
        if kind == READY:
            return all("\0" not in path and type(time) in _NUMBER for path, time in event[1].items())
        if kind in _OF_NO_TASK:
            return True
        if not (0 <= event[1] < self._spoolers and _is_ref(event[2])):
            return False
        if kind == REFUSED:
            return event[3] in _KINDS and _are_finite(event[4:5])
        return _are_finite(event[3:])

    def _is_end(self, _: str, index: Any, ref: Any, until: Any, record: Any) -> bool:
        return (
            type(index) is int
            and 0 <= index < self._spoolers
            and type(ref) is str
            and _is_ref(ref)
            and type(record) is list
            and tuple(map(type, record)) in _RECORD
            and record[2] in _VERDICTS
            and -_LARGEST <= record[4] <= _LARGEST
            and -_LARGEST <= record[5] <= _LARGEST
            and (until is None or (type(until) in _NUMBER and -_LARGEST <= until <= _LARGEST))
        )

    def close(self) -> None:
        """End the channel."""
        os.close(self._fd)
