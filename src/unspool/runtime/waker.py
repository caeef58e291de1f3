"""The object that wakes a waiting worker."""

import contextlib
import os
import select
import signal
import threading
from typing import Any

__all__ = ["Waker"]


class Waker:
    """A wait that signals and other threads can end.

    :param fd: the descriptor of the tickets. If several processes wait for it, the kernel wakes one of them.
    """

    def __init__(self, fd: int) -> None:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)
        if threading.current_thread() is threading.main_thread():
            signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._alone = select.poll()
        self._alone.register(self._reader, select.POLLIN)
        if hasattr(select, "epoll"):
            self._both: Any = select.epoll()
            self._both.register(fd, select.EPOLLIN | select.EPOLLEXCLUSIVE)
        else:
            self._both = select.poll()
            self._both.register(fd, select.POLLIN)
        self._both.register(self._reader, select.POLLIN)

    @property
    def descriptors(self) -> tuple[int, ...]:
        """Return the descriptors that it needs."""
        return self._reader, self._writer, *([self._both.fileno()] if hasattr(self._both, "fileno") else [])

    def ring(self) -> None:
        """End the current wait, or the next one."""
        with contextlib.suppress(BlockingIOError):  # enough rings are waiting
            os.write(self._writer, b"\0")

    def wait(self, *, or_ticket: bool = False) -> None:
        """Wait for a ring, or, with ``or_ticket``, until there may be a ticket."""
        poller = self._both if or_ticket else self._alone
        if any(ready == self._reader for ready, _ in poller.poll()):
            os.read(self._reader, 64)
