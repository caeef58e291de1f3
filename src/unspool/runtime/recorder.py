"""A separate process that writes history, so that a slow disk or a locked database never delays a task.

The supervisor sends records to it, and keeps a copy of each line until the process confirms that it is written. If the
process dies, a new one gets the unconfirmed lines. Lines that are not written at the end go into a journal, which the
recorder of the next supervisor imports. Beyond a limit, the oldest lines are dropped and counted. No task is affected.
"""

import contextlib
import logging
import os
import select
import signal
import struct
import time
from collections import deque
from collections.abc import Callable, Sequence

from ..backends.base import Backend
from ..errors import SpoolerUnusable
from ..message import Record
from ..printable import counted
from .events import Ended, dump, load_records
from .patience import Patience, end_child
from .process import describe

__all__ = ["Recorder"]

_log = logging.getLogger("unspool")
_KEPT = 50_000
_BATCH = 2_000  # lines that are sent at once
_LARGEST = 5_000  # lines in one transaction
_RESTART = 5.0  # seconds between two starts, which limits the work for a process that cannot start
_AGAIN = 0.002  # seconds until a pipe that was full may have room
_GATHER = 0.1  # seconds in which records are collected for one transaction
_APART = 1.0  # seconds between transactions of fewer than _LARGEST records, because each one waits for the disk
_DEATH = 0.5  # seconds in which a process that closed its pipe ends
_RETRY = 1.0  # seconds until a failed write is tried again
_written = struct.Struct("=HI")  # a confirmation: the index of a spooler, and the number of its lines


class Recorder:
    """The supervisor's end.

    :param close_others: called in the new process, to close what it must not hold.
    """

    def __init__(self, backends: Sequence[Backend], close_others: Callable[[], None]) -> None:
        self._backends = backends
        self._close_others = close_others
        self._waiting: deque[tuple[int, bytes]] = deque()
        self._sent: list[deque[bytes]] = [deque() for _ in backends]  # sent and not confirmed
        self._rest = b""
        self._dropped = 0
        self._pid = 0
        self._writer = self._answers = -1
        self._next_start = 0.0
        self._try_to_start()

    def put(self, index: int, record: Record) -> None:
        """Send the record of a run of a task."""
        self.put_line(index, dump(Ended(index, "", None, record)).encode())

    def put_line(self, index: int, line: bytes) -> None:
        """Send a record as the line that the worker has reported."""
        self._waiting.append((index, line))
        if len(self._waiting) > _KEPT:
            self._waiting.popleft()
            self._dropped += 1

    @property
    def full(self) -> bool:
        """Whether there is something to ``push``."""
        return bool(self._rest or self._waiting)

    def next_push(self) -> float | None:
        """Return the seconds after which ``push`` should be called again; None if there is nothing to push."""
        if not self.full:
            return None
        return max(_AGAIN, self._next_start - time.monotonic() if self._writer < 0 else 0.0)

    def push(self) -> None:
        """Write as much as the pipe accepts."""
        while self.full:
            if self._writer < 0 and not self._try_to_start():
                return
            self._take_answers()
            if not self._rest:
                batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), _BATCH))]
                for index, line in batch:
                    self._sent[index].append(line)
                self._rest = b"%b\n" % b"\n".join(line for _, line in batch)
            try:
                written = os.write(self._writer, self._rest)
            except BlockingIOError:
                return
            except BrokenPipeError:
                code = self._end(Patience(_DEATH, lambda: False))
                how = "closed its pipe" if code is None else describe(code)
                _log.warning("the recorder of history %s; a new one replaces it", how)
                self._take_back()
                continue
            self._rest = self._rest[written:]

    def detach(self) -> None:
        """In a forked child, close the pipes, so that the recorder ends together with the supervisor."""
        for fd in (self._writer, self._answers):
            with contextlib.suppress(OSError):
                os.close(fd)

    def finish(self, patience: Patience) -> None:
        """Send the last records. The process then writes them and ends."""
        self._next_start = float("inf")
        while self.full and self._writer >= 0 and (left := patience.left()):
            self.push()
            if self._writer >= 0:
                select.select([], [self._writer], [], min(left, _GATHER))
        if self._writer >= 0:
            os.close(self._writer)
            self._writer = -1

    def close(self, patience: Patience) -> None:
        """Wait for the end of the process after ``finish``. Records that are not written then go into a journal."""
        self._end(patience)
        self._take_back()
        kept: dict[int, list[Record]] = {}
        for index, record in load_records(line for _, line in self._waiting):
            kept.setdefault(index, []).append(record)
        for index, records in kept.items():
            try:
                self._dropped += _keep(self._backends[index], records)
            except OSError as error:
                _log.warning("history of %s cannot be written: %s", self._backends[index].name, error)
                self._dropped += len(records)
        if self._dropped:
            _log.warning("dropped %s of history; no task is affected", counted(self._dropped, "line"))

    def _take_answers(self) -> None:
        """Forget the confirmed lines."""
        with contextlib.suppress(BlockingIOError):
            while answers := os.read(self._answers, _written.size * 1024):
                for index, count in _written.iter_unpack(answers):
                    for _ in range(count):
                        self._sent[index].popleft()

    def _take_back(self) -> None:
        """Put the unconfirmed lines back into the queue."""
        for index, lines in enumerate(self._sent):
            self._waiting.extendleft((index, line) for line in reversed(lines))
            lines.clear()
        self._rest = b""

    def _try_to_start(self) -> bool:
        if time.monotonic() < self._next_start:
            return False
        self._next_start = time.monotonic() + _RESTART
        try:
            self._start()
        except OSError as error:  # too many processes or open files: there may be room again soon
            _log.error(
                "cannot start the recorder of history: %s; trying again in %g s; tasks continue",
                error.strerror,
                _RESTART,
            )
            return False
        return True

    def _start(self) -> None:
        with contextlib.ExitStack() as undo:
            fds = []
            for _ in range(2):
                for fd in os.pipe():
                    fds.append(fd)
                    undo.callback(os.close, fd)
            pid = os.fork()
            undo.pop_all()
        reader, writer, answers, answerer = fds
        self._pid, self._writer, self._answers = pid, writer, answers
        if pid == 0:
            self.detach()
            _live(self._backends, reader, answerer, self._close_others)
        os.close(reader)
        os.close(answerer)
        os.set_blocking(writer, False)
        os.set_blocking(answers, False)

    def _end(self, patience: Patience) -> int | None:
        """Return the exit code of the process; None if it did not end in time, or was not running."""
        if self._answers < 0:
            return None
        if self._writer >= 0:
            os.close(self._writer)
        code = end_child(self._pid, patience)
        self._take_answers()
        os.close(self._answers)
        self._writer = self._answers = -1
        return code


def _live(backends: Sequence[Backend], reader: int, answerer: int, close_others: Callable[[], None]) -> None:
    """Run the process until the supervisor closes the pipe or dies, and exit."""
    status = 1
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            signal.signal(number, signal.SIG_IGN)  # the supervisor decides when it ends
        signal.set_wakeup_fd(-1)
        close_others()
        _record(backends, reader, answerer)
        status = 0
    finally:
        os._exit(status)


def _record(backends: Sequence[Backend], reader: int, answerer: int) -> None:
    rest = b""
    given_up: set[int] = set()
    next_write = 0.0
    while chunk := os.read(reader, 1 << 16):
        chunks, number = [rest, chunk], chunk.count(b"\n")
        deadline = max(time.monotonic() + _GATHER, next_write)
        while number < _LARGEST and (left := deadline - time.monotonic()) > 0:
            if not select.select([reader], [], [], left)[0] or not (chunk := os.read(reader, 1 << 16)):
                break
            chunks.append(chunk)
            number += chunk.count(b"\n")
        whole, _, rest = b"".join(chunks).rpartition(b"\n")
        batches: dict[int, list[Record]] = {}
        for index, record in load_records(whole.split(b"\n")):
            batches.setdefault(index, []).append(record)
        for index, records in batches.items():
            if index in given_up or not _write(backends[index], records, reader):
                given_up.add(index)
                if lost := _keep(backends[index], records):
                    _log.warning("dropped %s of history; no task is affected", counted(lost, "line"))
            with contextlib.suppress(BrokenPipeError):  # the supervisor is gone
                os.write(answerer, _written.pack(index, len(records)))
        next_write = time.monotonic() + _APART


def _write(backend: Backend, records: Sequence[Record], reader: int) -> bool:
    """Write records, and retry as long as that fails and the supervisor is alive.

    Return False if they are not written.
    """
    closed = select.poll()
    closed.register(reader, 0)
    said = False
    while True:
        try:
            backend.record(records)
        except SpoolerUnusable as error:  # locked, full, or unreachable
            if not said:
                _log.warning("history of %s cannot be written: %s; tasks continue", backend.name, error)
            said = True
            if closed.poll(1000 * _RETRY):
                return False
        except Exception as error:  # noqa: BLE001  an error of a database affects only history
            _log.warning("left %s out of the history of %s: %s", counted(len(records), "run"), backend.name, error)
            return True
        else:
            return True


def _keep(backend: Backend, records: Sequence[Record]) -> int:
    """Write runs to a journal. Return the number of runs that are lost because there is no journal.

    :raises OSError: if the journal cannot be written.
    """
    if not backend.capabilities.journals:
        return len(records)
    backend.record(records, journal=True)
    text = "%s not in the history of %s yet; the next supervisor adds them"
    _log.warning(text, counted(len(records), "run"), backend.name)
    return 0
