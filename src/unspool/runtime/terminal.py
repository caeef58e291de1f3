"""The terminal of a supervisor, which it lends to a worker whose task reads from it, as a shell does with its jobs.

Workers lead process groups of their own, in the background of the terminal. So Ctrl-C reaches the supervisor alone, and
not the programs that tasks have started. A task that reads from the terminal, as a debugger does, is stopped by the
kernel with its group. The supervisor sees that, brings the group into the foreground, and lets it go on. The terminal
comes back when the run has ended. What is typed meanwhile goes to the worker, which passes an interrupt on.
"""

import contextlib
import os
import signal
from collections.abc import Iterable
from typing import Protocol

__all__ = ["Borrower", "Terminal", "is_foreground"]

_STANDARD_INPUT = 0
_WANT = (signal.SIGTTIN, signal.SIGTTOU)
_LOOK_EVERY = 1.0  # seconds; a shell does not tell that it has brought the supervisor into the foreground


class Borrower(Protocol):
    """A process that may need the terminal."""

    pid: int
    stopped: int
    """The signal that has stopped it, 0 if none has."""

    @property
    def busy(self) -> bool:
        """Whether it may need the terminal now."""

    def go_on(self) -> None:
        """Lets it go on after it was stopped."""


def is_foreground() -> bool:
    """Whether this process is in the foreground of its terminal."""
    try:
        return os.tcgetpgrp(_STANDARD_INPUT) == os.getpgrp()
    except OSError:  # standard input is no terminal, or not this session's
        return False


class Terminal:
    """The terminal, if standard input is one. If not, all of this does nothing."""

    def __init__(self) -> None:
        self._holder: Borrower | None = None

    def turn(self, processes: Iterable[Borrower]) -> None:
        """Takes it back from a process that is done with it, and lends it to one that was stopped for want of it."""
        alive = list(processes)
        if self._holder is not None and not (self._holder in alive and self._holder.busy):
            self.take_back()
        for process in alive:
            if process.stopped in _WANT and self._holder is None and is_foreground():
                self._give(process.pid)
                self._holder = process
                process.go_on()

    def wait(self, processes: Iterable[Borrower]) -> float | None:
        """Seconds after which ``turn`` may have something to do even if nothing happens; None if not."""
        return _LOOK_EVERY if any(process.stopped in _WANT for process in processes) else None

    @property
    def suspended(self) -> bool:
        """Whether the process that has it was stopped from it, by Ctrl-Z."""
        return self._holder is not None and self._holder.stopped == signal.SIGTSTP

    def take_back(self) -> None:
        """Brings this process into the foreground again, if another one was."""
        if self._holder is not None:
            self._holder = None
            self._give(os.getpgrp())

    @staticmethod
    def _give(group: int) -> None:
        # A process in the background that asks for this is stopped, unless it blocks the signal.
        former = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTTOU])
        try:
            with contextlib.suppress(OSError):  # the group has gone, or the terminal
                os.tcsetpgrp(_STANDARD_INPUT, group)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, former)
