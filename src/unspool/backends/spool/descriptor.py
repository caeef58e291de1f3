"""Descriptors that are kept for long. A program may close all its descriptors, as daemons do, and open other files."""

import os
from typing import NamedTuple

__all__ = ["Kept", "close", "close_all", "status"]


def status(fd: int, inode: int) -> os.stat_result | None:
    """Return the status of a descriptor, or None if it does not refer to this inode any more."""
    try:
        found = os.fstat(fd)
    except OSError:
        return None
    return found if found.st_ino == inode else None


def close(fd: int, inode: int) -> None:
    """Close a descriptor, unless it does not refer to this inode any more."""
    if status(fd, inode) is not None:
        os.close(fd)


class Kept(NamedTuple):
    """A descriptor, and the status of its file when it was opened."""

    fd: int
    device: int
    inode: int

    def found(self) -> os.stat_result | None:
        """Return the current status of the descriptor; None if it is closed or refers to another file."""
        found = status(self.fd, self.inode)
        return found if found is not None and self.is_at(found) else None

    def is_at(self, found: os.stat_result) -> bool:
        """Return whether this is the file with this status."""
        return found.st_ino == self.inode and found.st_dev == self.device


def close_all(*opened: dict[str, Kept]) -> None:
    """Close these descriptors, unless they do not refer to their files any more, and forget them."""
    for parts in opened:
        while parts:
            _, kept = parts.popitem()
            if kept.found() is not None:
                os.close(kept.fd)
