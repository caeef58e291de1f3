"""Writes history, in a process of its own: a slow disk or a locked database is never in a task's way.

The supervisor hands over what it has; what does not fit into the pipe it keeps, up to a bound, beyond which the oldest
lines are dropped and counted. Tasks are not touched by any of this.
"""

import contextlib
import json
import logging
import os
import select
import signal
import time
from collections import deque
from collections.abc import Callable, Sequence

from ..backends.base import Backend
from ..message import Record
from .report import dump_end

__all__ = ["Recorder"]

_log = logging.getLogger("unspool")
_KEPT = 50_000
_BATCH = 2_000
_RESTART = 5.0  # seconds between two starts, lest one that cannot live keeps the supervisor busy
_AGAIN = 0.002  # seconds until a pipe that was full may have room
_GATHER = 0.1  # seconds in which records are gathered into one transaction


class Recorder:
    """The supervisor's end.

    :param close_others: called in the new process, to close what it must not hold.
    """

    def __init__(self, backends: Sequence[Backend], close_others: Callable[[], None]) -> None:
        self._backends = backends
        self._close_others = close_others
        self._waiting: deque[bytes] = deque()
        self._rest = b""
        self._dropped = 0
        self._pid = 0
        self._writer = -1
        self._next_start = 0.0
        self._try_to_start()

    def put(self, index: int, record: Record) -> None:
        """Hands over one run of a spooler's task."""
        self.put_line(dump_end(index, "", None, record))

    def put_line(self, line: bytes) -> None:
        """The same, as the worker has reported it."""
        self._waiting.append(line)
        if len(self._waiting) > _KEPT:
            self._waiting.popleft()
            self._dropped += 1

    @property
    def full(self) -> bool:
        """Whether there is something to ``push``."""
        return bool(self._rest or self._waiting)

    def next_push(self) -> float | None:
        """Seconds after which ``push`` should be called again; None if there is nothing to push."""
        if not self.full:
            return None
        return max(_AGAIN, self._next_start - time.monotonic() if self._writer < 0 else 0.0)

    def push(self) -> None:
        """Passes on what the pipe takes."""
        while self.full:
            if self._writer < 0 and not self._try_to_start():
                return
            if not self._rest:
                batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), _BATCH))]
                self._rest = b"%b\n" % b"\n".join(batch)
            try:
                written = os.write(self._writer, self._rest)
            except BlockingIOError:
                return
            except BrokenPipeError:  # it died: what it had begun to read is lost, and the rest goes to a new one
                _log.warning("the recorder of history died; a new one goes on")
                self._rest = self._rest.partition(b"\n")[2]
                self._end()
                continue
            self._rest = self._rest[written:]

    def detach(self) -> None:
        """In a fork of the supervisor: the recorder ends when the supervisor does, not with its children."""
        with contextlib.suppress(OSError):
            os.close(self._writer)

    def close(self) -> None:
        """Lets it write what it has, and waits for it."""
        self._next_start = float("inf")
        if self._writer >= 0:
            os.set_blocking(self._writer, True)
            self.push()
        self._end()
        self._dropped += len(self._waiting) + self._rest.count(b"\n")
        if self._dropped:
            _log.warning("%d lines of history were dropped; no task is affected", self._dropped)

    def _try_to_start(self) -> bool:
        if time.monotonic() < self._next_start:
            return False
        self._next_start = time.monotonic() + _RESTART
        try:
            self._start()
        except OSError as error:  # too many processes or open files: there may be room again soon
            _log.error("no recorder of history: %s; trying again in %g s, and tasks go on", error.strerror, _RESTART)
            return False
        return True

    def _start(self) -> None:
        reader, writer = os.pipe()
        try:
            pid = os.fork()
        except OSError:
            os.close(reader)
            os.close(writer)
            raise
        self._pid, self._writer = pid, writer
        if pid == 0:
            self.detach()
            _live(self._backends, reader, self._close_others)
        os.close(reader)
        os.set_blocking(writer, False)

    def _end(self) -> None:
        if self._writer >= 0:
            os.close(self._writer)
            self._writer = -1
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self._pid, 0)


def _live(backends: Sequence[Backend], reader: int, close_others: Callable[[], None]) -> None:
    """The process's life: until the supervisor closes the pipe, or is gone."""
    status = 1
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            signal.signal(number, signal.SIG_IGN)  # the supervisor says when to end
        signal.set_wakeup_fd(-1)
        close_others()
        _record(backends, reader)
        status = 0
    finally:
        os._exit(status)


def _record(backends: Sequence[Backend], reader: int) -> None:
    rest = b""
    failed = False
    while chunk := os.read(reader, 1 << 16):
        lines = rest + chunk
        deadline = time.monotonic() + _GATHER
        while lines.count(b"\n") < _BATCH and (left := deadline - time.monotonic()) > 0:
            if not select.select([reader], [], [], left)[0] or not (chunk := os.read(reader, 1 << 16)):
                break
            lines += chunk
        whole, _, rest = lines.rpartition(b"\n")
        batches: dict[int, list[Record]] = {}
        for _, index, _, _, record in json.loads(b"[%b]" % whole.replace(b"\n", b",")):
            batches.setdefault(index, []).append(Record(*record))
        for index, records in batches.items():
            try:
                backends[index].record(records)
            except Exception as error:  # noqa: BLE001  whatever a database may raise costs history, and nothing else
                if not failed:
                    _log.warning("history of %s cannot be written: %s; tasks go on", backends[index].name, error)
                failed = True
            else:
                failed = False
