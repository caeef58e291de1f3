"""What wakes a worker that waits."""

import contextlib
import os
import select
import signal
import threading
from typing import Any

__all__ = ["Waker"]


class Waker:
    """Rung by signals, and by other threads.

    :param fd: what has the tickets. Of several processes that wait for it, the kernel wakes one.
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
        """End the present wait, or the next one."""
        with contextlib.suppress(BlockingIOError):  # it has been rung often enough
            os.write(self._writer, b"\0")

    def wait(self, *, or_ticket: bool = False) -> None:
        """Wait until it is rung, or, if asked, there may be a ticket."""
        poller = self._both if or_ticket else self._alone
        if any(ready == self._reader for ready, _ in poller.poll()):
            os.read(self._reader, 64)
