"""The time limit for what a stopping supervisor waits for, which becomes shorter if the stop is forced."""

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable

from ..backends.base import Clock

__all__ = ["Patience", "end_child"]

_IN_A_HURRY = 0.5  # seconds that are left after it was told to hurry
_LOOK_EVERY = 0.1  # seconds between two checks whether it was told to hurry
_DEATH = 1.0  # seconds that a killed process may take to end


class Patience:
    """A time limit for everything that a supervisor waits for.

    :param hurried: whether the supervisor was told to hurry.
    """

    def __init__(self, seconds: float, hurried: Callable[[], bool], timer: Clock = time.monotonic) -> None:
        self._timer = timer
        self._hurried = hurried
        self._deadline = timer() + seconds

    def left(self) -> float:
        """Return the seconds that are left."""
        now = self._timer()
        if self._hurried():
            self._deadline = min(self._deadline, now + _IN_A_HURRY)
        return max(0.0, self._deadline - now)


def end_child(pid: int, patience: Patience) -> int | None:
    """Wait for the end of a process, and kill it when the time is up.

    Return its exit code, which is negative for a signal; None if it was killed here. A process that has been reaped
    counts as 0.
    """
    code = _wait(pid, patience)
    if code is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        _wait(pid, Patience(_DEATH, lambda: False))
    return code


def _wait(pid: int, patience: Patience) -> int | None:
    with contextlib.suppress(ChildProcessError):  # it has been reaped
        while True:
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                return os.waitstatus_to_exitcode(status)
            if not (left := patience.left()):
                return None
            _wait_for_end(pid, min(left, _LOOK_EVERY))
    return 0


def _wait_for_end(pid: int, seconds: float) -> None:
    """Wait until the process has ended, or the time has passed."""
    try:
        process = os.pidfd_open(pid)
    except (AttributeError, OSError):  # not Linux, an old kernel, or no descriptor left
        time.sleep(min(seconds, 0.01))
        return
    try:
        poll = select.poll()
        poll.register(process, select.POLLIN)
        poll.poll(1000 * seconds)
    finally:
        os.close(process)
