"""The paths of a spool directory, and who may own them. No other module builds a path.

::

    mail/                        the spooler, mode 0700
      uwsgi_spoolfile_on_…       a task; its ref is this name
      5/uwsgi_spoolfile_on_…     a task of priority 5; its ref is ``5/<name>``
      .unspool/
        tmp/                     unfinished files
        writers                  the owners of unfinished files; see ``drafts``
        dead/  corrupt/          dead letters, in the same tree, with ``<name>.reason`` beside each
        run/                     live processes, the pause flag, the period
        kv/                      the items of the key-value table; see ``keyvalue``
        attempts/                counts, if the file system has no extended attributes
        history.sqlite3          the history, beside its rollback journal
        identity                 distinguishes this directory from a later one, for tasks that are moved to it

A name has uWSGI's form: ``uwsgi_spoolfile_on_<host>_<pid>_<counter>_<random>_<seconds>_<microseconds>``. unspool puts
the *due* time at its end, so that one reading of the directory gives an order without looking at each file. The due
time is the file's mtime; the name contains a lower bound of it.
"""

import contextlib
import errno
import itertools
import os
import re
import socket
import stat
import threading
import weakref
from typing import NamedTuple

from ... import forks
from ...errors import SpoolerUnusable
from ..base import UNNUMBERED
from . import trust
from .drafts import Drafts

__all__ = [
    "ASIDE",
    "ATTEMPTS",
    "BELL",
    "HISTORY",
    "IDENTITY",
    "KV",
    "PREFIX",
    "PRIVATE",
    "RUN",
    "TMP",
    "Directory",
    "Names",
    "hint",
    "is_bell",
    "is_priority",
    "is_task",
    "priority_of",
    "rank_of",
    "renamed",
    "spooler_of",
    "writer_of",
]

PREFIX = "uwsgi_spoolfile_on_"
BELL = f"{PREFIX}unspool_bell"
PRIVATE = ".unspool"
TMP = f"{PRIVATE}/tmp"  # noqa: S108  ours, in a private directory
RUN = f"{PRIVATE}/run"
KV = f"{PRIVATE}/kv"
ATTEMPTS = f"{PRIVATE}/attempts"
HISTORY = f"{PRIVATE}/history.sqlite3"
IDENTITY = f"{PRIVATE}/identity"
ASIDE = {"dead": f"{PRIVATE}/dead", "corrupt": f"{PRIVATE}/corrupt"}

_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MAX_DESCRIPTORS = 64
_is_number = re.compile(r"[0-9]{1,30}", re.ASCII).fullmatch
is_priority = re.compile(r"[0-9]{1,9}", re.ASCII).fullmatch


def is_bell(name: str) -> bool:
    """Return whether this is a wakefile of uWSGI and not a task; see ``wakefile``."""
    return name.startswith(BELL) and (len(name) == len(BELL) or name[len(BELL)] == "_")


def is_task(name: str) -> bool:
    """Return whether a file of this name is a task."""
    return name.startswith(PREFIX) and not is_bell(name)


def priority_of(ref: str) -> int | None:
    """Return the priority in a ref's directory, or None."""
    head, slash, _ = ref.rpartition("/")
    return int(head) if slash else None


def spooler_of(path: str) -> str:
    """Return the spooler that contains a task's absolute path. The path need not exist.

    A directory whose name is a number is a priority, unless it is a spooler itself.
    """
    head, private, _ = path.partition(f"/{PRIVATE}/")
    if private:
        return head
    head = os.path.dirname(path)
    if is_priority(os.path.basename(head)) and not os.path.isdir(f"{head}/{PRIVATE}"):
        return os.path.dirname(head)
    return head


def rank_of(priority: int | None) -> int:
    """Return the sort key of a priority. Tasks without a priority come last."""
    return UNNUMBERED if priority is None else priority


def hint(name: str) -> float:
    """Return the time at the end of a name: a lower bound of the due time, or 0 if the name has no time."""
    parts = name.rsplit("_", 2)
    try:
        return int(parts[1]) + int(parts[2]) / 1_000_000
    except (IndexError, ValueError):
        return 0.0


def writer_of(name: str) -> int:
    """Return the number of the process that wrote a task in place, from the task's name; 0 if the name has none."""
    parts = name.rsplit("_", 3)
    return int(parts[1]) if len(parts) == 4 and _is_number(parts[1]) else 0


def renamed(ref: str, due: float) -> str:
    """Return the ref with another time at the end of its name. A name without a time gets one."""
    seconds, rest = divmod(int(due * 1_000_000), 1_000_000)
    start = ref.rsplit("_", 2)[0] if hint(ref) else ref
    return f"{start}_{seconds}_{rest:06d}"


class Names:
    """Create names that are unique across threads, processes and hosts. Within a process, their times rise strictly."""

    def __init__(self) -> None:
        self._renew()
        forks.register(after_in_child=self._renew)

    def _renew(self) -> None:
        self._lock = threading.Lock()
        self._counter = itertools.count(1)
        self._last = 0
        host = re.sub(r"[/\0]", "-", socket.gethostname())[:64]
        self._start = f"{PREFIX}{host}_{os.getpid()}_"
        self._random = int.from_bytes(os.urandom(4), "little")

    def next(self, now: float, due: float | None, writer: int | None = None) -> str:
        """Return a new name for a task that is sent now and due at ``due`` (Unix time).

        :param writer: the number of its writer, which becomes part of the name; see ``drafts``.
        """
        microseconds = int((now if due is None else due) * 1_000_000)
        if due is None:
            with self._lock:  # two tasks of the same microsecond, or a clock set back, keep their order
                if microseconds <= self._last:
                    microseconds = min(self._last + 1, microseconds + 1_000_000)
                self._last = microseconds
        seconds, rest = (
            microseconds // 1_000_000,
            microseconds % 1_000_000,
        )  # ``%`` is a third faster than ``divmod``
        return "%s%d_%d_%d_%06d" % (self._start, next(self._counter), writer or self._random, seconds, rest)  # noqa: UP031


class _Part(NamedTuple):
    """An open directory: its descriptor, and the status of the directory when it was opened."""

    fd: int
    device: int
    inode: int

    def found(self) -> os.stat_result | None:
        """Return the current status of the descriptor; None if it is closed or refers to another file."""
        try:
            found = os.fstat(self.fd)
        except OSError:
            return None
        return found if self.is_at(found) else None

    def is_at(self, found: os.stat_result) -> bool:
        """Return whether this is the directory with this status."""
        return found.st_ino == self.inode and found.st_dev == self.device


class Directory:
    """A spool directory held by descriptors, so that no path is followed through a link that another user put there.

    It is opened on first use. Later, the path may lead to another directory that was moved, linked or mounted there,
    and the program may close all its descriptors, as daemons do. ``is_current`` detects both, and ``reopen`` opens the
    directory again.

    :param signed: whether a secret key is set, so that tasks are trusted for their signature.
    """

    def __init__(self, root: str, *, signed: bool = False) -> None:
        self.root = root
        self.signed = signed
        self.drafts = self._new_drafts()
        """The names of this process's drafts. A writer keeps a reference, because ``reopen`` replaces this object."""
        self._parts: dict[str, _Part] = {}
        self._removed: dict[str, _Part] = {}
        self._lock = threading.Lock()
        self._owner: trust.Owner | None = None
        self.trusted = -1
        """The user whose private files need no closer check: this user, if it owns the directory. Otherwise -1."""
        self.mode = 0o600
        """The mode of new files. If a group shares the directory, the group may read and write them."""
        self.file_mode = stat.S_IFREG | self.mode
        """The mode with the type of a file, as ``stat`` returns it."""
        self.gives = False
        """Whether new files must get another owner or group; see ``give``."""
        # It runs when no thread uses the directory any more, for example after a change of settings, and never while a
        # thread may hold a descriptor number.
        weakref.finalize(self, _close_all, self._parts, self._removed).atexit = False
        forks.register(after_in_child=self._renew_lock)

    def _renew_lock(self) -> None:
        self._lock = threading.Lock()  # another thread may have held it

    def _new_drafts(self) -> Drafts:
        return Drafts(lambda: self.fd(PRIVATE), self.hand_over)

    @property
    def owner(self) -> trust.Owner:
        """Return the owner of the directory, read when it was opened."""
        self.fd("")
        return self._owner or trust.Owner(os.geteuid(), os.getegid(), 0o700)

    @property
    def opened(self) -> bool:
        """Return whether it has been opened, here or in the process from which this one was forked."""
        return self._owner is not None

    def fd(self, part: str) -> int:
        """Return a descriptor of the root (an empty part) or of a directory in it, which is created if it is missing.

        :raises SpoolerUnusable: if it cannot be opened, or other users may write to it.
        """
        found = self._parts.get(part)
        if found is None:
            with self._lock:
                found = self._parts.get(part) or self._open(part)
        return found.fd

    def at(self, ref: str) -> tuple[int, str]:
        """Return a descriptor and the name of a ref relative to it.

        :raises FileNotFoundError: if its directory does not exist. It is not created.
        """
        part, slash, name = ref.rpartition("/")
        if not slash:
            return self.fd(""), name
        found = self._parts.get(part)
        if found is not None:
            return found.fd, name
        os.stat(part, dir_fd=self.fd(""), follow_symlinks=False)
        return self.place(part, name)

    def place(self, part: str, name: str) -> tuple[int, str]:
        """Return a descriptor and the name of a file in a directory, which is created if it is missing.

        No descriptor is closed to make room, because threads may be using any of them. Beyond some dozens of
        priorities, the path is resolved each time instead.
        """
        if part not in self._parts and len(self._parts) >= _MAX_DESCRIPTORS:
            root = self.fd("")
            if above := os.path.dirname(part):
                self.renew(above)
                self.fd(above)
            self._make(part, root)
            if (reason := self.part_objection(f"{part}/")) is not None:
                raise SpoolerUnusable(f"spooler {self.root} cannot be used {reason}")
            return root, f"{part}/{name}"
        return self.fd(part), name

    def path(self, ref: str) -> str:
        """Return the absolute path of a ref."""
        return f"{self.root}/{ref}"

    def sync(self, part: str) -> None:
        """Make the names in a directory durable."""
        at, name = self.place(part, ".") if part else (self.fd(""), ".")
        fd = os.open(name, _OPEN_DIRECTORY, dir_fd=at)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def objection(self, found: os.stat_result) -> str | None:
        """Return why a file with a task's name must not be run, or None."""
        return trust.to_file(found, self.owner, signed=self.signed)

    def hand_over(self, fd: int) -> int:
        """Call ``give`` if necessary, and return the descriptor.

        :raises OSError: if the owner or mode cannot be set. The descriptor is then closed.
        """
        if self.gives:
            try:
                self.give(fd)
            except OSError:
                os.close(fd)
                raise
        return fd

    def give(self, fd: int) -> None:
        """Set the owner and group of a file or directory that this process has created.

        A file created by root gets the directory's owner, because that user's programs could not use it otherwise. If a
        group shares the directory, the file gets the group, which may read and write it.
        """
        owner, found, user = self.owner, os.fstat(fd), os.geteuid()
        folder = stat.S_ISDIR(found.st_mode)
        if found.st_uid != user or (found.st_nlink != 1 and not folder):
            return  # it existed before, perhaps as a hard link to a file that must not be given away
        if user == 0 and (owner.uid, owner.gid) != (found.st_uid, found.st_gid):
            os.fchown(fd, owner.uid, owner.gid)
        elif owner.shared and found.st_gid != owner.gid:
            with contextlib.suppress(PermissionError) if user == owner.uid else contextlib.nullcontext():
                os.fchown(fd, -1, owner.gid)  # the owner need not be a member of the group
        if owner.shared and not trust.is_unfinished(found):
            os.fchmod(fd, owner.mode & stat.S_ISGID | 0o770 if folder else self.mode)

    def part_objection(self, ref: str) -> str | None:
        """Return why nothing in a ref's directory may be run, or None."""
        part, slash, _ = ref.rpartition("/")
        if not slash:
            return None
        reason = trust.to_part(os.stat(part, dir_fd=self.fd(""), follow_symlinks=False), self.owner)
        return reason and f"in {part}, {reason}"

    def is_current(self, part: str = "") -> bool:
        """Return whether the path still leads to a part of the directory, or to the root, and its descriptor is
        open."""
        held = self._parts.get(part)
        if held is None:
            part, held = "", self._parts.get("")
        if held is None:
            return True
        try:
            return held.is_at(os.stat(f"{self.root}/{part}" if part else self.root)) and held.is_at(os.fstat(held.fd))
        except OSError:
            return False

    def is_gone(self) -> bool:
        """Return whether the directory, or a part of it, was removed, moved away or replaced since it was opened."""
        if self._owner is None:
            return not os.path.isdir(self.root)
        return not all(map(self.is_current, list(self._parts)))

    def has_lost_descriptors(self) -> bool:
        """Return whether the program has closed the descriptor of a part.

        Its number may belong to another file by now.
        """
        return any(held.found() is None for held in list(self._parts.values()))

    def renew(self, *parts: str) -> None:
        """Let the next use of each part create it again if it was removed, as by ``rm -r .unspool/dead``.

        If the whole directory was moved away, this does nothing: the open descriptors can still be used. If the program
        has closed the descriptors, all of them are opened again.
        """
        root = self._parts.get("")
        closed = root is not None and root.found() is None
        if closed or (self.is_current() and not all(map(self.is_current, parts))):
            self.reopen()

    def reopen(self) -> None:
        """Close the descriptors that are no longer current, so that the next use opens them again."""
        with self._lock:
            moved = not self.is_current()
            stale = [part for part in self._parts if moved or not self.is_current(part)]
            self._forget(stale)
            if self.drafts.lost or PRIVATE in stale:
                self.drafts = self._new_drafts()

    def close(self) -> None:
        """Close all descriptors. No other thread may be using them. The next use opens them again."""
        with self._lock:
            _close_all(self._parts, self._removed)
            self._parts.clear()
            self._removed.clear()
            self._owner, self.trusted = None, -1
            self.drafts = self._new_drafts()

    def _forget(self, parts: list[str]) -> None:
        """Close the descriptors that no other thread can be using.

        A descriptor whose number another thread may have just read stays open; otherwise that thread could write to
        another file that gets the same number. The descriptor of a removed directory is reused for the directory that
        replaces it.
        """
        for part in parts:
            held = self._parts.pop(part)
            found = held.found()
            if found is not None and not found.st_nlink:
                self._removed[part] = held
            elif found is not None and threading.active_count() == 1:
                os.close(held.fd)
        if "" in parts:
            self._owner, self.trusted = None, -1

    def _open(self, part: str) -> _Part:
        try:
            fd = self._open_root() if not part else self._open_part(part)
        except OSError as error:
            if isinstance(error, SpoolerUnusable):
                raise
            raise self.unusable(error, part) from error
        former = self._removed.pop(part, None)
        if former is not None and former.found() is not None:
            os.dup2(fd, former.fd, inheritable=False)
            os.close(fd)
            fd = former.fd
        found = os.fstat(fd)
        made = self._parts[part] = _Part(fd, found.st_dev, found.st_ino)
        return made

    def _open_root(self) -> int:
        with contextlib.suppress(FileExistsError):
            os.makedirs(os.path.dirname(self.root), mode=0o755, exist_ok=True)
            os.mkdir(self.root, 0o700)
        fd = os.open(self.root, _OPEN_DIRECTORY & ~os.O_NOFOLLOW)
        found = os.fstat(fd)
        if stat.S_IMODE(found.st_mode) & stat.S_IWOTH:
            os.close(fd)
            raise SpoolerUnusable(
                f"spooler {self.root} may be written by everybody, who could then run code as you; chmod o-w it"
            )
        if found.st_uid not in (os.geteuid(), 0) and os.geteuid() != 0 and not os.access(self.root, os.W_OK):
            os.close(fd)
            raise SpoolerUnusable(f"spooler {self.root} belongs to another user and is not writable by this one")
        self._owner = trust.Owner(found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode))
        self.mode = 0o660 if self._owner.shared else 0o600
        self.file_mode = stat.S_IFREG | self.mode
        self.gives = self._owner.shared or found.st_uid != os.geteuid()
        self.trusted = found.st_uid if found.st_uid == os.geteuid() else -1
        return fd

    def _open_part(self, part: str) -> int:
        at = (self._parts.get("") or self._open("")).fd
        opened = -1
        for name in part.split("/"):
            made = self._make(name, at)
            deeper = os.open(name, _OPEN_DIRECTORY, dir_fd=at)
            if made and name == PRIVATE:
                # Created while there is room, because running tasks must not need any.
                for other in (TMP, RUN, *ASIDE.values()):
                    self._make(os.path.basename(other), deeper)
            if opened >= 0:
                os.close(opened)
            at = opened = deeper
            if (reason := trust.to_part(os.fstat(at), self.owner)) is not None:
                os.close(opened)
                raise SpoolerUnusable(f"spooler {self.root} cannot be used in {part}, {reason}")
        return opened

    def _make(self, name: str, at: int) -> bool:
        """Create a directory inside another one, unless it exists."""
        made = name
        if self.gives:  # the directory has a temporary name until its owner and mode are set
            with contextlib.suppress(FileNotFoundError):
                os.stat(name, dir_fd=at, follow_symlinks=False)
                return False
            made = f"{os.path.dirname(name) or '.'}/.{os.path.basename(name)}-{os.urandom(8).hex()}"
        try:
            os.mkdir(made, 0o700, dir_fd=at)
            if self.gives:
                os.close(self.hand_over(os.open(made, _OPEN_DIRECTORY, dir_fd=at)))
                os.rename(made, name, src_dir_fd=at, dst_dir_fd=at)
        except FileExistsError:
            return False
        except OSError as error:
            if made != name:
                with contextlib.suppress(OSError):
                    os.rmdir(made, dir_fd=at)
            if error.errno == errno.ENOTEMPTY:  # another process was faster
                return False
            raise
        os.fsync(at)  # a task is only as durable as its directory
        return True

    def unusable(self, error: OSError, part: str = "") -> SpoolerUnusable:
        """Return a ``SpoolerUnusable`` for a system error while a part was opened. The message says what to do."""
        what = f"its directory {part}" if part else "it"
        advice = {
            errno.ENOTDIR: self._not_a_directory(part),
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
        return SpoolerUnusable(error.errno, f"spooler {self.root} cannot be used: {advice}")

    def _not_a_directory(self, part: str) -> str:
        """Return what exists instead of a part, or of a directory above it, and what to do about it."""
        names = part.split("/") if part else []
        for count in range(1, len(names) + 1):
            above = "/".join(names[:count])
            with contextlib.suppress(OSError):
                found = os.lstat(f"{self.root}/{above}").st_mode
                if not stat.S_ISDIR(found):
                    kind = "a symbolic link, which is not followed" if stat.S_ISLNK(found) else "a file"
                    return f"its directory {above} is {kind}; move it away"
        return "it is a file; name a directory"


def _close_all(*opened: dict[str, _Part]) -> None:
    for parts in opened:
        for part in parts.values():
            if part.found() is not None:
                os.close(part.fd)
