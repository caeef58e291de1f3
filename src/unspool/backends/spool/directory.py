"""A spool directory held by descriptors, and who may own it and its parts."""

import contextlib
import errno
import os
import stat
import threading
import weakref

from ... import forks
from ...errors import SpoolerUnusable
from . import trust
from .advice import unusable
from .descriptor import Kept, close_all
from .drafts import Drafts
from .layout import ASIDE, PRIVATE, RUN, TMP

__all__ = ["Directory"]

_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MAX_DESCRIPTORS = 64


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
        self._parts: dict[str, Kept] = {}
        self._removed: dict[str, Kept] = {}
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
        weakref.finalize(self, close_all, self._parts, self._removed).atexit = False
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
            close_all(self._parts, self._removed)
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

    def _open(self, part: str) -> Kept:
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
        made = self._parts[part] = Kept(fd, found.st_dev, found.st_ino)
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
        """Return a ``SpoolerUnusable`` for a system error while a part was used. The message says what to do."""
        return unusable(error, self.root, part)
