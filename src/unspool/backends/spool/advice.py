"""What to do about a system error in a spool directory."""

import contextlib
import errno
import os
import stat

from ...errors import SpoolerUnusable

__all__ = ["unusable"]


def unusable(error: OSError, root: str, part: str) -> SpoolerUnusable:
    """Return a ``SpoolerUnusable`` for a system error while a part of a directory was used."""
    what = f"its directory {part}" if part else "it"
    advice = {
        errno.ENOTDIR: _not_a_directory(root, part),
        errno.EACCES: f"this user may not use {what}; check its owner and mode",
        errno.EROFS: "its file system is read-only",
        errno.ENOSPC: "the disk is full, of data or of inodes; make room and send again",
        errno.EDQUOT: "the quota is used up; make room and send again",
        errno.EMFILE: "this process has too many open files",
        errno.ENFILE: "this system has too many open files",
        errno.EBADF: "this process has closed descriptors that were not its own",
        errno.ELOOP: "a part of its path is a symbolic link, which is not followed",
        errno.EIO: "the disk reports an error",
    }.get(error.errno or 0, error.strerror or str(error))
    return SpoolerUnusable(error.errno, f"spooler {root} cannot be used: {advice}")


def _not_a_directory(root: str, part: str) -> str:
    """Return what exists instead of a part, or of a directory above it, and what to do about it."""
    names = part.split("/") if part else []
    for count in range(1, len(names) + 1):
        above = "/".join(names[:count])
        with contextlib.suppress(OSError):
            found = os.lstat(f"{root}/{above}").st_mode
            if not stat.S_ISDIR(found):
                kind = "a symbolic link, which is not followed" if stat.S_ISLNK(found) else "a file"
                return f"its directory {above} is {kind}; move it away"
    return "it is a file; name a directory"
