"""Checks of a spool directory: its type, owner, mode and file system."""

import contextlib
import errno
import os
import pwd
import stat
import tempfile
import time
from collections.abc import Iterator

from ...finding import FAIL, OK, WARN, Finding
from ...printable import counted, printable
from . import trust
from .directory import Directory
from .layout import PRIVATE, TMP

__all__ = ["check"]

_LEFT_BEHIND = 60.0  # seconds after which a draft in tmp/ counts as abandoned
_JOURNALLED = {"ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "jfs", "reiserfs", "bcachefs", "apfs", "hfs"}
_REMOTE = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "glusterfs", "lustre", "afs"}
_VOLATILE = {"tmpfs": "it is memory: tasks do not survive a reboot", "ramfs": "it is memory: tasks do not survive it",
             "overlay": "it is a container's own layer: tasks vanish with the container"}  # fmt: skip


def check(directory: Directory) -> Iterator[Finding]:
    """Yield the findings about a directory.

    :raises SpoolerUnusable: if it exists and cannot be used.
    """
    path = directory.root
    if not os.path.lexists(path):
        above = _existing_parent(path)
        if os.access(above, os.W_OK | os.X_OK):
            yield Finding(path, OK, "does not exist yet; it is made when it is first used", missing=True)
            yield from _file_system(path, above)
        else:
            yield Finding(path, FAIL, f"does not exist, and cannot be made: {above} is not writable",
                          "make it, owned by the user that runs the workers, mode 0700", missing=True)  # fmt: skip
        return
    directory.fd("")
    yield _permissions(path, os.stat(path))
    try:
        _try_writing(path)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        advice = "make room" if full else "check its owner, mode and disk"
        yield Finding(path, FAIL, f"no file can be written there: {error.strerror}", advice)
        return
    if reason := trust.to_place(path):
        yield Finding(f"{path} place", WARN, reason, "chmod o-w it, or move the spooler")
    yield from _file_system(path, path)
    if drafts := _left_behind(f"{path}/{TMP}"):
        yield Finding(f"{path}/{TMP}", WARN, f"{counted(drafts, 'file')} of processes that died while sending",
                      "delete them; no task whose sending was acknowledged is among them")  # fmt: skip


def _permissions(path: str, found: os.stat_result) -> Finding:
    mode = stat.S_IMODE(found.st_mode)
    owner = _user(found.st_uid)
    text = f"owner {owner}, mode {mode:04o}" + (", writable" if os.access(path, os.W_OK | os.X_OK) else "")
    if found.st_uid not in (os.geteuid(), 0):
        text = f"{text}; you are {_user(os.geteuid())}, and your workers will not run it without a secret key"
        return Finding(path, WARN, text, f"run the workers as {owner}")
    if mode & 0o020:
        return Finding(
            path,
            WARN,
            f"{text}, also by its group, who can run code as you",
            f"chmod g-w {path}, or set UNSPOOL_SECRET_KEY",
        )
    if mode & 0o077:
        return Finding(path, WARN, f"{text}, and readable by others", f"chmod 700 {path}, if tasks carry secrets")
    return Finding(path, OK, text)


def _file_system(subject: str, place: str) -> Iterator[Finding]:
    kind = _kind(place)
    space = os.statvfs(place)
    free = space.f_bavail * space.f_frsize >> 20
    text = f"{kind}, {free:,} MB free"
    if free < 64 or (space.f_files and space.f_favail < 1000):
        yield Finding(f"{subject} disk", WARN, f"{text}, {space.f_favail:,} inodes free", "make room")
    elif kind in _VOLATILE:
        yield Finding(f"{subject} disk", WARN, f"{text}; {_VOLATILE[kind]}", "put it on a disk, or a mounted volume")
    elif kind in _REMOTE or kind.startswith("fuse"):
        yield Finding(f"{subject} disk", WARN, f"{text}; locks and events may not reach other machines",
                      "run workers on one machine only, or put it on a local disk")  # fmt: skip
    elif kind not in _JOURNALLED:
        yield Finding(f"{subject} disk", WARN, f"{text}; it is not known to keep a journal",
                      "after a power cut, check the file system before starting workers")  # fmt: skip
    else:
        yield Finding(f"{subject} disk", OK, text)
    if os.path.isdir(f"{place}/{PRIVATE}") and not _has_attributes(place):
        yield Finding(f"{subject} attributes", WARN, "the file system has no extended attributes: attempts are counted "
                      "in files beside the tasks, which is slower", "")  # fmt: skip


def _kind(place: str) -> str:
    """Return the type of the file system, from the longest mount point that contains the path."""
    best, kind = "", "unknown"
    path = os.path.realpath(place)
    with contextlib.suppress(OSError), open("/proc/self/mounts", "rb") as mounts:
        for line in mounts:
            _, point, found, *_ = line.split(b" ")
            target = os.fsdecode(point.replace(b"\\040", b" ")).rstrip("/")
            if (path == target or path.startswith(f"{target}/")) and len(target) >= len(best):
                best, kind = target, found.decode("ascii", "replace")
    return kind


def _has_attributes(place: str) -> bool:
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            os.setxattr(file.fileno(), "user.unspool", b"")
    except (OSError, AttributeError):
        return False
    return True


def _try_writing(path: str) -> None:
    """Write a file without a name, or at least with a name that uWSGI ignores."""
    with tempfile.TemporaryFile(dir=path) as file:
        file.write(b"x" * 4096)
        file.flush()
        os.fsync(file.fileno())


def _left_behind(place: str) -> int:
    horizon, count = time.time() - _LEFT_BEHIND, 0
    with contextlib.suppress(OSError), os.scandir(place) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                count += entry.stat(follow_symlinks=False).st_ctime < horizon
    return count


def _existing_parent(path: str) -> str:
    while not os.path.lexists(path):
        path = os.path.dirname(path)
    return path


def _user(uid: int) -> str:
    try:
        return printable(pwd.getpwuid(uid).pw_name)
    except KeyError:
        return str(uid)
