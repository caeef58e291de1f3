"""One file with a byte for each task: locked while the task runs, and set by its first run.

The lock belongs to an open file of the run, so the kernel drops it when the process ends for any reason. Two
simultaneous runs therefore meet at this lock, independently of the locks of the queue.
"""

import contextlib
import fcntl
import os
import struct
import time

__all__ = ["Mark"]

_DYING = 0.5  # seconds between the releases of two locks of a process that the kernel is ending


class Mark:
    """The mark of one task, held until it is closed.

    :param path: the file of all marks.
    """

    def __init__(self, path: str, key: str) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        number = int(key[1:].partition(":")[0])
        self.alone = self._lock(number)
        """Whether no other run holds it."""
        self.first = os.pread(self._fd, 1, number) != b"x"
        """Whether this is the first run of the task."""
        os.pwrite(self._fd, b"x", number)

    def _lock(self, byte: int) -> bool:
        end = time.monotonic() + _DYING
        while True:
            with contextlib.suppress(BlockingIOError):
                fcntl.fcntl(self._fd, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, byte, 1, 0))
                return True
            if time.monotonic() > end:
                return False
            time.sleep(0.01)

    def close(self) -> None:
        """Release it."""
        with contextlib.suppress(OSError):  # a task may have closed all descriptors
            os.close(self._fd)
