"""Files that a process keeps locked. The kernel releases the locks when the process ends, however it ends."""

import contextlib
import fcntl
import os
import uuid
import weakref

__all__ = ["LockedFile", "is_locked"]


class LockedFile:
    """A new file that this process keeps locked.

    :param folder: its directory, which is made if it is missing.
    :param role: the beginning of its name.
    """

    def __init__(self, folder: str, role: str) -> None:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        self.name = f"{role}-{uuid.uuid4().hex}"
        self.path = os.path.join(folder, self.name)
        draft = os.path.join(folder, f".{self.name}")
        self._file: int | None = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        os.rename(draft, self.path)  # other processes see the file only now, when it is locked
        _own.add(self)

    @property
    def is_open(self) -> bool:
        """Return whether this process holds the lock."""
        return self._file is not None

    @property
    def is_lost(self) -> bool:
        """Return whether other code has closed the descriptor. Its number may belong to another file by now."""
        try:
            return self._file is not None and not os.path.samestat(os.fstat(self._file), os.stat(self.path))
        except OSError:
            return True

    def leave(self) -> None:
        """Close the descriptor, and with it the lock of this process."""
        if self._file is not None and not self.is_lost:  # otherwise it would close the file of other code
            os.close(self._file)
        self._file = None

    def remove(self) -> None:
        """Remove the file and end the lock."""
        self.leave()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)


def is_locked(path: str) -> bool:
    """Return whether a live process holds this file."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False


_own: "weakref.WeakSet[LockedFile]" = weakref.WeakSet()


def _leave_to_the_parent() -> None:
    for file in list(_own):
        file.leave()


os.register_at_fork(after_in_child=_leave_to_the_parent)
