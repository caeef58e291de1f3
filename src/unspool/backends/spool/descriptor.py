"""Descriptors that are kept for long. A program may close all its descriptors, as daemons do, and open other files."""

import os

__all__ = ["close", "status"]


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
