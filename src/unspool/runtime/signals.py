"""Signals as events of a loop: their numbers are kept, and a descriptor becomes readable."""

import contextlib
import signal
import socket
from types import FrameType
from typing import Any

__all__ = ["Signals"]

_CAUGHT = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP)


class Signals:
    """The signals that a supervisor handles. The death of a child only wakes the loop.

    :param others: signals to handle in addition to TERM, INT, QUIT and HUP.
    """

    def __init__(self, *others: int) -> None:
        self._numbers = (*_CAUGHT, *others)
        self._waker, self._ringer = socket.socketpair()
        self._waker.setblocking(False)
        self._ringer.setblocking(False)
        self._pending: list[int] = []
        self._former: dict[int, Any] = {}
        self._former_wakeup = -1

    def catch(self) -> None:
        """Install the handlers, in the main thread."""
        self._former = {number: signal.signal(number, self._note) for number in self._numbers}
        self._former[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda *_: None)
        self._former_wakeup = signal.set_wakeup_fd(self._ringer.fileno(), warn_on_full_buffer=False)

    def release(self) -> None:
        """Restore the former handlers, and close the descriptors."""
        signal.set_wakeup_fd(self._former_wakeup)
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self.close()

    def close(self) -> None:
        """Close the descriptors."""
        self._waker.close()
        self._ringer.close()

    def fileno(self) -> int:
        """Return a descriptor that becomes readable when a signal arrives."""
        return self._waker.fileno()

    def drain(self) -> None:
        """Make the descriptor unreadable again."""
        with contextlib.suppress(BlockingIOError):
            while self._waker.recv(4096):
                pass

    def take(self) -> list[int]:
        """Return the signals that have arrived, in order."""
        taken, self._pending = self._pending, []
        return taken

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self._pending.append(number)
