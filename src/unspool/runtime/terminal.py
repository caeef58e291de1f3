"""The terminal of a supervisor, which lends it to a worker whose task reads from it, as a shell does for its jobs.

Workers lead their own process groups, in the background of the terminal. So Ctrl-C reaches only the supervisor, and not
the programs that tasks have started. If a task reads from the terminal, as a debugger does, the kernel stops its
process group. The supervisor detects this, brings the group into the foreground, and continues it. When the run has
ended, the supervisor takes the terminal back. Until then, input goes to the worker, which passes interrupts on.
"""

import contextlib
import os
import signal
from collections.abc import Iterable
from typing import Protocol

__all__ = ["Borrower", "Terminal", "is_foreground"]

_STANDARD_INPUT = 0
_WANT = (signal.SIGTTIN, signal.SIGTTOU)
_LOOK_EVERY = 1.0  # seconds; a shell gives no notice that it has brought the supervisor into the foreground


class Borrower(Protocol):
    """A process that may need the terminal."""

    pid: int
    stopped: int
    """The signal that has stopped it, or 0."""

    @property
    def busy(self) -> bool:
        """Return whether it may need the terminal now."""

    def go_on(self) -> None:
        """Continue it after a stop."""


def is_foreground() -> bool:
    """Return whether this process is in the foreground of its terminal."""
    try:
        return os.tcgetpgrp(_STANDARD_INPUT) == os.getpgrp()
    except OSError:  # standard input is not a terminal, or not the terminal of this session
        return False


class Terminal:
    """The terminal, if standard input is one. Otherwise all methods do nothing."""

    def __init__(self) -> None:
        self._holder: Borrower | None = None

    def turn(self, processes: Iterable[Borrower]) -> None:
        """Take the terminal back from a process that no longer needs it, and lend it to one that was stopped for it."""
        alive = list(processes)
        if self._holder is not None and not (self._holder in alive and self._holder.busy):
            self.take_back()
        for process in alive:
            if process.stopped in _WANT and self._holder is None and is_foreground():
                self._give(process.pid)
                self._holder = process
                process.go_on()

    def wait(self, processes: Iterable[Borrower]) -> float | None:
        """Return the seconds after which ``turn`` must be called even without an event; None if never."""
        return _LOOK_EVERY if any(process.stopped in _WANT for process in processes) else None

    @property
    def suspended(self) -> bool:
        """Return whether the process that has the terminal was stopped by Ctrl-Z."""
        return self._holder is not None and self._holder.stopped == signal.SIGTSTP

    def take_back(self) -> None:
        """Bring this process into the foreground again, if another process is there."""
        if self._holder is not None:
            self._holder = None
            self._give(os.getpgrp())

    @staticmethod
    def _give(group: int) -> None:
        # A background process that calls this is stopped, unless it blocks the signal.
        former = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTTOU])
        try:
            with contextlib.suppress(OSError):  # the group or the terminal is gone
                os.tcsetpgrp(_STANDARD_INPUT, group)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, former)
