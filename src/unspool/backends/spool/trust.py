"""Which files of a spool directory may be run, decided from the results of ``stat`` alone. See ``docs/security.md``.

Without a secret key, owners and modes are the boundary. Everything in the directory must belong to the directory's
owner, to root, or to the user of this process, and must not be writable by everybody. A group with write access is
trusted, and a worker warns about it: on many systems that group is the user alone. So directories within may also
belong to the group, and files too if there is a secret key.
"""

import os
import stat
from typing import NamedTuple

__all__ = ["UNFINISHED", "Owner", "is_unfinished", "to_file", "to_part", "to_place", "to_sender"]

UNFINISHED = stat.S_ISVTX
"""The mode of a file that is being written in place; see ``sending``. Other programs do not use this mode."""

_KINDS = {stat.S_IFLNK: "a symbolic link", stat.S_IFDIR: "a directory", stat.S_IFIFO: "a FIFO"}


class Owner(NamedTuple):
    """The user, group and mode of a spool directory."""

    uid: int
    gid: int
    mode: int

    def allows(self, uid: int) -> bool:
        """Return whether files of this user are allowed in the directory."""
        return uid in (self.uid, 0) or uid == os.geteuid()

    def shares(self, found: os.stat_result) -> bool:
        """Return whether this file or directory belongs to the group, in a spool directory that the group shares."""
        return self.shared and found.st_gid == self.gid

    @property
    def stranger(self) -> bool:
        """Return whether the directory belongs neither to this user nor to root, so that another user would run code as
        this one.
        """
        return self.uid != 0 and self.uid != os.geteuid()

    @property
    def shared(self) -> bool:
        """Return whether the directory's group may write to it."""
        return bool(self.mode & stat.S_IWGRP)


def is_unfinished(found: os.stat_result) -> bool:
    """Return whether this file is being written in place, or was when its sender died."""
    return found.st_mode == stat.S_IFREG | UNFINISHED


def to_file(found: os.stat_result, owner: Owner, *, signed: bool) -> str | None:
    """Return why a file with a task's name must not be run, or None.

    :param signed: whether a secret key is set, so that a signed task of another user in the group is trusted.
    """
    if not stat.S_ISREG(found.st_mode):
        return f"{_KINDS.get(stat.S_IFMT(found.st_mode), 'a special file')}, not a regular file"
    if found.st_nlink != 1:
        return f"a file with {found.st_nlink} hard links, which two workers could run at once"
    if not owner.allows(found.st_uid) and not (signed and owner.shares(found)):
        return f"a file of user {found.st_uid}, who is neither this one nor the directory's owner"
    if is_unfinished(found):
        return "not completely written by its sender"
    if found.st_mode & stat.S_IWOTH:
        return "a file that everybody may write to; chmod o-w it if you trust it"
    return None


def to_part(found: os.stat_result, owner: Owner) -> str | None:
    """Return why a directory in the spooler, such as a priority's, must not be used, or None."""
    if not stat.S_ISDIR(found.st_mode):
        return f"{_KINDS.get(stat.S_IFMT(found.st_mode), 'a file')}, not a directory"
    if not owner.allows(found.st_uid) and not owner.shares(found):
        return f"a directory of user {found.st_uid}, who is neither this one nor the spooler's owner"
    if found.st_mode & stat.S_IWOTH:
        return "a directory that everybody may write to; chmod o-w it"
    return None


def to_sender(owner: Owner, *, signed: bool) -> str | None:
    """Return why no worker would run a task sent by this process, or None."""
    if signed or os.geteuid() in (0, owner.uid) or owner.uid == 0:
        return None
    return (
        f"it belongs to user {owner.uid}, whose workers would not run a task of user {os.geteuid()}; send as its "
        "owner, or set UNSPOOL_SECRET_KEY for senders and workers"
    )


def to_place(path: str) -> str | None:
    """Return why the directories above a spooler must not be trusted, or None.

    This does not prevent workers from starting: another user's directory or task is not run.
    """
    above = os.path.dirname(os.path.realpath(path))
    while True:
        found = os.stat(above)
        if found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX:
            return f"everybody may write to {above}, and so put another directory in its place"
        if above == os.path.dirname(above):
            return None
        above = os.path.dirname(above)
