"""The owners of unfinished files in a spool directory, and the proof that such a file was abandoned.

Each process has a number, which is part of the name of each file that it has not finished: of its drafts in
``.unspool/tmp``, and of tasks that it writes in place. The number consists of the inode of ``.unspool/writers`` and of
one byte in that file. The process keeps this byte locked for as long as it lives.

A writer is dead if the file with this inode is available and no process holds the lock on the byte. A live writer never
counts as dead:

  1. It holds the lock from before it creates the file until the file has its final name and mode, because the send
     keeps a reference to its ``Drafts``, and the descriptor is closed with the last reference.
  2. It also holds its ``writers`` file open. An inode number is not given to a second file of the same file system
     while the first one is open. A process that has a file of this number open therefore has the same file, and sees
     the lock.
  3. A process that has another ``writers`` file, because the first one was removed, has no proof. It leaves the file
     alone.
  4. A process that has lost the descriptor, and with it the lock, gets another number before its next send
     (``lost``).

This holds across containers, host names, reused process ids and restarts. It costs a process one lock. On a file system
without locks, no unfinished file is removed.
"""

import contextlib
import errno
import os
import re
import threading
import weakref
from collections.abc import Callable

from ... import forks
from . import descriptor, lock

__all__ = ["Drafts"]

_FILE = "writers"
_OPEN = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
_BYTES = 1 << 32  # bytes that can be locked; the higher bits of a number hold the inode
_LOOKS = 256
_TRIES = 16  # attempts to lock a random byte; even one collision is improbable
_number_of = re.compile(r".*\.([0-9a-f]{1,24})", re.ASCII | re.DOTALL).fullmatch


class Drafts:
    """The names of this process's drafts, and which drafts belong to dead processes.

    :param place: returns a descriptor of the directory for the ``writers`` file.
    :param hand_over: sets the owner of that file as the spool directory requires.
    """

    def __init__(self, place: Callable[[], int], hand_over: Callable[[int], int] = int) -> None:
        self._place = place
        self._hand_over = hand_over
        self._fd = self._device = self._inode = -1
        self._byte = self._looks = 0
        self._closing: weakref.finalize[[int, int], Drafts] | None = None
        self._begin()
        forks.register(after_in_child=self._begin)

    def _begin(self) -> None:
        """Forget the number, which is that of the parent after a fork."""
        if self._closing is not None:
            self._closing()
        self._number: int | None = None
        self._lost = False
        self._lock = threading.Lock()

    def name(self, name: str) -> str:
        """Return the name of the draft for a file ``name``. Each call returns the same name."""
        return f"{name}.{self.number:x}"

    @property
    def number(self) -> int:
        """Return the number of this process; 0 if it cannot have one."""
        found = self._number
        return self._sign() if found is None else found

    @property
    def current(self) -> int:
        """Return the number of this process; 0 if it cannot have one, or has closed the descriptor and lost the lock.

        Some calls also check whether the file was removed. The old number remains safe then, but abandoned drafts of
        this process would never be removed.
        """
        number = self.number
        if not number or self._lost:
            return 0
        self._looks += 1
        try:
            if self._looks % _LOOKS:  # no other file has this position, and this check costs half of ``fstat``
                self._lost = os.lseek(self._fd, 0, os.SEEK_CUR) != self._byte
            else:
                self._lost = not os.fstat(self._fd).st_nlink
        except OSError:
            self._lost = True
        return 0 if self._lost else number

    @property
    def lost(self) -> bool:
        """Return whether this process had a number and cannot use it any more."""
        return bool(self._number) and not self.current

    def abandoned(self, draft: str, device: int) -> bool:
        """Return whether the writer of a draft is certainly dead.

        :param device: the file system that the draft is on.
        """
        found = _number_of(draft)
        return found is not None and self.is_dead(int(found[1], 16), device)

    def is_dead(self, number: int, device: int) -> bool:
        """Return whether the process with this number is certainly dead.

        :param device: the file system that its file is on.
        """
        own = self.number
        inode, byte = divmod(number, _BYTES)
        if number in (0, own) or (device, inode) != (self._device, self._inode):
            return False
        return descriptor.status(self._fd, inode) is not None and not lock.held(self._fd, byte)

    def _sign(self) -> int:
        with self._lock:
            if self._number is not None:
                return self._number
            number = 0
            with contextlib.suppress(OSError):  # writing the draft meets the same error and raises it
                self._fd = self._hand_over(os.open(_FILE, _OPEN, 0o600, dir_fd=self._place()))
                found = os.fstat(self._fd)
                self._device, self._inode = found.st_dev, found.st_ino
                self._closing = weakref.finalize(self, descriptor.close, self._fd, self._inode)
                self._closing.atexit = False  # the lock is held until the process ends
                byte = self._take_byte()
                self._byte = os.lseek(self._fd, byte, os.SEEK_SET)
                number = self._inode * _BYTES + byte
            self._number = number
            return number

    def _take_byte(self) -> int:
        """Lock a byte that no other process has, and return its position.

        :raises OSError: if no byte can be locked, as when another program has locked the whole file.
        """
        for _ in range(_TRIES):
            byte = int.from_bytes(os.urandom(4), "little") or 1
            if lock.acquire(self._fd, byte):
                return byte
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN), _FILE)
