"""A process beside the supervisor that forwards tasks. It is replaced when it dies, and ends with the supervisor."""

import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable

from .patience import Patience, end_child
from .process import describe

__all__ = ["Sidecar"]

_log = logging.getLogger("unspool")
_RESTART = 5.0  # seconds between two starts, which limits the work for a process that cannot start


class Sidecar:
    """The supervisor's end.

    :param live: the function that the process runs. Its argument is a descriptor that becomes readable when the process
        must end.
    """

    def __init__(self, live: Callable[[int], object]) -> None:
        self._live = live
        self._pid = 0
        self._lifeline = -1
        self._next_start = 0.0

    def turn(self, close_others: Callable[[], None]) -> None:
        """Start the process, and restart it if it has died.

        :param close_others: called in the new process, to close what belongs only to the supervisor.
        """
        if self._pid:
            found, status = os.waitpid(self._pid, os.WNOHANG)
            if found:
                code = os.waitstatus_to_exitcode(status)
                _log.error("the process that forwards %s; a new one replaces it", describe(code))
                self._forget()
        if not self._pid and time.monotonic() >= self._next_start:
            self._next_start = time.monotonic() + _RESTART
            try:
                self._start(close_others)
            except OSError as error:  # too many processes or open files, which may change soon
                _log.error("cannot start the process that forwards: %s; trying again in %g s", error.strerror, _RESTART)

    def wait(self) -> float | None:
        """Return the seconds after which ``turn`` must be called even without an event; None if never."""
        return None if self._pid else max(0.0, self._next_start - time.monotonic())

    def detach(self) -> None:
        """In a forked child, close the lifeline, so that the process ends together with the supervisor."""
        if self._lifeline >= 0:
            with contextlib.suppress(OSError):
                os.close(self._lifeline)

    def close(self, patience: Patience) -> None:
        """End it, and wait until it has finished its transfers. If it is killed, the next one continues them."""
        if self._pid:
            pid = self._pid
            self._forget()
            if end_child(pid, patience) is None:
                _log.warning("the process that forwards did not end in time and was killed")

    def _forget(self) -> None:
        os.close(self._lifeline)
        self._pid, self._lifeline = 0, -1

    def _start(self, close_others: Callable[[], None]) -> None:
        end, lifeline = os.pipe()
        try:
            pid = os.fork()
        except OSError:
            os.close(end)
            os.close(lifeline)
            raise
        self._pid, self._lifeline = pid, lifeline
        if pid:
            os.close(end)
            return
        status = 1
        try:
            self.detach()
            signal.set_wakeup_fd(-1)
            close_others()
            self._live(end)
            status = 0
        except Exception as error:  # noqa: BLE001  it is logged, and tried again
            _log.error("%s", error)
        finally:
            os._exit(status)
