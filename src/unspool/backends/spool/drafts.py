"""Whose drafts lie in ``.unspool/tmp``, and how it is proven that one was abandoned.

Each draft's name ends in a number of its writer's process, and that process keeps the byte of that number locked, in
one file for all, for as long as it lives. A draft whose byte nobody has locked was left by a process that is gone: this
holds across containers, host names, pids that are used again, and restarts. It costs a process one lock, and a draft
nothing. Where there are no locks, drafts are never swept.
"""

import contextlib
import os
import re
import threading
import weakref
from collections.abc import Callable

from . import lock

__all__ = ["Drafts"]

_FILE = "writers"
_OPEN = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
_number_of = re.compile(r".*\.([0-9a-f]{12})", re.ASCII | re.DOTALL).fullmatch


class Drafts:
    """Names drafts for this process, and tells those of dead ones.

    :param place: a descriptor of the directory for that file.
    """

    def __init__(self, place: Callable[[], int]) -> None:
        self._place = place
        self._pid = self._number = 0
        self._fd = -1
        self._closing: weakref.finalize[[int], Drafts] | None = None
        self._lock = threading.Lock()

    def name(self, name: str) -> str:
        """What a draft that will be called ``name`` is called until then; the same in each call."""
        return f"{name}.{self.number:012x}"

    @property
    def number(self) -> int:
        """This process's number; 0 if there can be none."""
        if self._pid != os.getpid():
            self._sign()
        return self._number

    def abandoned(self, draft: str) -> bool:
        """Whether it is certain that its writer is gone."""
        found = _number_of(draft)
        return found is not None and self.is_dead(int(found[1], 16))

    def is_dead(self, number: int) -> bool:
        """Whether it is certain that the process with this number is gone."""
        return number not in (0, self.number) and self._fd >= 0 and not lock.held(self._fd, number)

    def forget(self) -> None:
        """In a fork, whose drafts are its own; or when the directory is another."""
        self._lock = threading.Lock()  # another thread may have held it when this process was forked
        self._fd, self._pid = -1, 0
        if self._closing is not None:
            self._closing()

    def _sign(self) -> None:
        with self._lock:
            if self._pid == os.getpid():
                return
            number = 0
            with contextlib.suppress(OSError):  # whatever is wrong with the place, writing the draft will tell
                self._fd = os.open(_FILE, _OPEN, 0o600, dir_fd=self._place())
                self._closing = weakref.finalize(self, _close, self._fd)
                self._closing.atexit = False  # the lock is held to the end
                while not number or not lock.acquire(self._fd, number):
                    number = int.from_bytes(os.urandom(6), "little")
            self._number, self._pid = number, os.getpid()


def _close(fd: int) -> None:
    with contextlib.suppress(OSError):
        os.close(fd)
