"""Transfer of tasks from and to a spool directory.

Leaving: the task is locked, then its file is moved to a directory where neither workers nor uWSGI look. The lock is
kept until the file is deleted, so that no other process carries it. The key is made of the task's unique name, and
survives the carrier.

Arriving: the file is written completely and synced in a directory where workers do not look. Its name is made of the
key, so a second write replaces the first. The commit renames it into place, which happens once.
"""

import contextlib
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from ... import forks, points, wire
from ...errors import Damaged, SpoolerUnusable, TaskBusy
from ...imports import late
from ...message import State, Unique
from ...printable import printable
from ..base import Clock
from ..depot import Parcel
from . import lock
from .attempts import DONE, RUNNING, Attempts, Count
from .changing import Changing
from .dead_letters import REASON_SUFFIX, Note, discard_reason, read_note, set_aside, write_reason
from .directory import Directory
from .file import open_private, read_whole, sync_file_system, write_whole
from .keys import Keys
from .layout import ASIDE, IDENTITY, PRIVATE, TMP, priority_of
from .leaving import ARRIVING, LEAVING, LEFT, Leaving, label, left_part, under_way
from .names import PREFIX, keyed, unique_of
from .uwsgi.wakefile import Wakefile

__all__ = ["SpoolDepot"]

_log = logging.getLogger("unspool")
_MOST = 1 << 25  # maximum bytes of tasks held at once, unless a single task is larger
_WRITING = 5.0  # seconds for which another program may still be writing an incomplete file
_OPEN = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
_IDENTITY_SIZE = 8


class _Token(NamedTuple):
    """The locked descriptor of a task, the location of its file, and its counts."""

    fd: int
    at: Leaving
    counts: Count


class SpoolDepot:
    """Implement ``depot.Depot`` for a spool directory.

    :param objection: returns the reason why a file must be neither run nor carried, or None.
    """

    def __init__(
        self,
        directory: Directory,
        changing: Changing,
        attempts: Callable[[], Attempts],
        objection: Callable[[os.stat_result], str | None],
        wakefile: Wakefile,
        keys: Keys,
        max_size: int,
        clock: Clock,
    ) -> None:
        self._directory = directory
        self._changing = changing
        self._attempts = attempts
        self._objection = objection
        self._wakefile = wakefile
        self._keys = keys
        self._max_size = max_size
        self._clock = clock
        self._locked: set[int] = set()
        forks.register(after_in_child=self.release)  # a lock lives as long as any copy of its descriptor

    # --- the source

    def leave(self, ids: Iterable[str]) -> list[Parcel]:
        parcels: list[Parcel] = []
        size = 0
        self._directory.renew(LEAVING)
        for id in ids:
            parcel = self._leave(id)
            if parcel is not None:
                parcels.append(parcel)
                size += len(parcel.data)
                if size >= _MOST:
                    break
        if parcels:
            self._sync([LEAVING])
        return parcels

    def departures(self) -> list[Parcel]:
        return [parcel for one in under_way(self._directory) if (parcel := self._take(one, one.inside)) is not None]

    def release(self) -> None:
        """Release all locks."""
        for fd in self._locked:
            with contextlib.suppress(OSError):
                os.close(fd)
        self._locked.clear()

    def stay(self, parcels: Sequence[Parcel], corrupt: str = "") -> None:
        for parcel in parcels:
            fd, at, count = parcel.token
            with self._unusable():
                there, name = self._directory.at(at.inside)
                if corrupt and not at.place:
                    set_aside(self._directory, State.CORRUPT, there, name, at.ref, corrupt, count, self._clock())
                else:
                    self._rename(at.inside, f"{ASIDE[at.place]}/{at.ref}" if at.place else at.ref)
            self._let_go(fd)

    def left(self, parcels: Sequence[Parcel], destination: str) -> list[Parcel]:
        part = left_part(destination)
        noted = []
        with self._unusable():
            self._directory.renew(LEFT, part)
            self._directory.fd(LEFT)
            for parcel in parcels:
                fd, at, count = parcel.token
                self._rename(at.inside, f"{part}/{at.name}")
                points.reach("left.renamed")
                token = _Token(fd, at._replace(part=part, destination=destination), count)
                noted.append(parcel._replace(destination=destination, token=token))
        self._sync([part])
        return noted

    def gone(self, parcels: Sequence[Parcel]) -> None:
        for parcel in parcels:
            fd, at, _ = parcel.token
            with self._unusable(), contextlib.suppress(FileNotFoundError):
                there, name = self._directory.at(at.inside)
                os.unlink(name, dir_fd=there)
                points.reach("gone.removed")
            if at.place:
                discard_reason(self._directory, at.place, at.ref)
            elif self._attempts().outlive:
                self._attempts().clear(at.ref)
            self._let_go(fd)

    # --- the destination

    @property
    def identity(self) -> str:
        with self._unusable():
            self._directory.renew(PRIVATE, TMP)
            for _ in range(2):
                with (
                    contextlib.suppress(FileNotFoundError),
                    open(open_private(self._directory, IDENTITY), "rb") as file,
                ):
                    return file.read(_IDENTITY_SIZE).hex()
                self._identify()
        raise SpoolerUnusable(
            f"spooler {self._directory.root} cannot be used: its {IDENTITY} is removed again and again"
        )

    def _identify(self) -> None:
        """Create the file of the identity, completely or not at all, unless another process is faster."""
        tmp, private = self._directory.fd(TMP), self._directory.fd(PRIVATE)
        draft = self._directory.drafts.name(os.path.basename(IDENTITY))
        fd = open_private(self._directory, f"{TMP}/{draft}", _CREATE)
        try:
            write_whole(fd, os.urandom(_IDENTITY_SIZE))
            os.fsync(fd)
            with contextlib.suppress(FileExistsError):
                os.link(draft, os.path.basename(IDENTITY), src_dir_fd=tmp, dst_dir_fd=private)
        finally:
            os.close(fd)
            os.unlink(draft, dir_fd=tmp)
        self._directory.sync(PRIVATE)

    def accept(self, parcels: Sequence[Parcel]) -> None:
        with self._unusable():
            self._directory.renew(TMP, ARRIVING)
            tmp = self._directory.fd(TMP)
            drafts = {self._directory.drafts.name(parcel.key): parcel for parcel in parcels}
            for draft, parcel in drafts.items():
                self._write(tmp, draft, parcel)
                points.reach("accept.written")
            if drafts:
                sync_file_system(tmp)
            for draft, parcel in drafts.items():
                at, name = self._directory.place(ARRIVING, _arriving(parcel))
                os.rename(draft, name, src_dir_fd=tmp, dst_dir_fd=at)
                points.reach("accept.renamed")
        if parcels:
            self._sync([ARRIVING])

    def confirm(self, parcels: Sequence[Parcel]) -> None:
        parts, dues = set(), set()
        with self._unusable():
            for parcel in parcels:
                at, name = self._directory.place(ARRIVING, _arriving(parcel))
                try:
                    due = os.stat(name, dir_fd=at, follow_symlinks=False).st_mtime
                except FileNotFoundError:
                    continue  # it is already committed
                ref = _final(parcel, due)
                if parcel.state in ASIDE:
                    ref = f"{ASIDE[parcel.state]}/{ref}"
                    with contextlib.suppress(FileNotFoundError):  # moved by a process that died at this point
                        self._rename(f"{ARRIVING}/{name}{REASON_SUFFIX}", f"{ref}{REASON_SUFFIX}")
                elif parcel.priority is not None:
                    dues.add(due)
                waits = parcel.state not in ASIDE
                # If another task has the key here, this one forgets it.
                with self._keys.taken(ref) if waits else contextlib.nullcontext():
                    self._rename(f"{ARRIVING}/{name}", ref)
                points.reach("confirm.renamed")
                parts.add(ref.rpartition("/")[0])
        self._sync(parts)
        for due in dues:
            self._wakefile.announce(due)

    def _write(self, tmp: int, draft: str, parcel: Parcel) -> None:
        fd = open_private(self._directory, f"{TMP}/{draft}", _CREATE)
        try:
            write_whole(fd, parcel.data)
            due = int(parcel.due * 1e9)
            os.utime(fd, ns=(due, due))
            if parcel.state in ASIDE:
                note = {"reason": parcel.reason, "attempts": parcel.attempts, "crashes": parcel.crashes}
                at, name = self._directory.place(ARRIVING, _arriving(parcel))
                write_reason(self._directory, at, name, note | {"at": self._clock()})
            elif parcel.attempts or parcel.crashes:
                ref = _final(parcel, os.fstat(fd).st_mtime)
                self._attempts().write(fd, ref, Count(parcel.attempts, parcel.crashes))
        except OSError:
            os.unlink(draft, dir_fd=tmp)
            raise
        finally:
            os.close(fd)

    # --- parts

    def _leave(self, id: str) -> Parcel | None:
        try:
            place, ref = self._changing.locate(id)
        except (LookupError, TaskBusy):
            return None
        where = f"{ASIDE[place]}/{ref}" if place else ref
        name = label(place, ref)
        parcel = self._take(Leaving(LEAVING, name, place, ref), where)
        if parcel is None:
            return None
        try:
            if os.path.lexists(self._directory.path(f"{LEAVING}/{name}")):
                raise FileExistsError  # a copy of this task has the same name
            self._rename(where, f"{LEAVING}/{name}")
        except OSError:  # the name is too long or the disk is full; the task stays
            self._let_go(parcel.token.fd)
            return None
        points.reach("leave.renamed")
        return parcel

    def _take(self, at: Leaving, inside: str) -> Parcel | None:
        """Return the task in a file, locked. Return None if another process has it, or it must not be carried."""
        try:
            there, name = self._directory.at(inside)
            fd = os.open(name, _OPEN, dir_fd=there)
        except OSError:
            return None
        try:
            parcel = self._parcel(fd, there, name, at, inside)
        except OSError:
            parcel = None
        if parcel is None:
            os.close(fd)
        else:
            self._locked.add(fd)
        return parcel

    def _parcel(self, fd: int, there: int, name: str, at: Leaving, inside: str) -> Parcel | None:
        if not lock.acquire(fd):
            return None
        found, path = os.fstat(fd), os.stat(name, dir_fd=there, follow_symlinks=False)
        if (path.st_ino, path.st_dev) != (found.st_ino, found.st_dev) or self._objection(found):
            return None
        try:
            data = read_whole(fd, found.st_size, self._max_size)
            wire.load(data, None)
        except Damaged:
            if found.st_size > _MOST or (not at.place and self._clock() - found.st_ctime < _WRITING):
                return None
            data = os.pread(fd, found.st_size, 0)
        if at.place:
            note = read_note(self._directory, at.place, at.ref) or Note("", 0, 0)
            count, reason = Count(note.attempts, note.crashes), note.reason
        else:
            count, reason = self._attempts().read(at.ref if self._attempts().outlive else inside), ""
            if count.phase == DONE:
                os.unlink(name, dir_fd=there)
                id = self._directory.path(at.ref)
                _log.warning(
                    "removed task %s, which is marked as done and could not be removed when it finished", printable(id)
                )
                return None
        key = _key(at.ref)
        state = State(at.place) if at.place else State.READY
        crashes = count.crashes + (count.phase == RUNNING)
        id = self._directory.path(f"{ASIDE[at.place]}/{at.ref}" if at.place else at.ref)
        return Parcel(key, id, state, data, priority_of(at.ref), found.st_mtime, count.attempts, crashes, reason,
                      at.destination, _Token(fd, at, count), _unique(at.ref, count))  # fmt: skip

    def _rename(self, inside: str, target: str) -> None:
        at, name = self._directory.at(inside)
        part, _, base = target.rpartition("/")
        target_at, target_name = self._directory.place(part, base) if part else (self._directory.fd(""), base)
        os.rename(name, target_name, src_dir_fd=at, dst_dir_fd=target_at)

    def _let_go(self, fd: int) -> None:
        self._locked.discard(fd)
        os.close(fd)

    def _sync(self, parts: Iterable[str]) -> None:
        with self._unusable():
            for part in parts:
                self._directory.sync(part)

    @contextlib.contextmanager
    def _unusable(self) -> Iterator[None]:
        try:
            yield
        except SpoolerUnusable:
            raise
        except OSError as error:
            raise self._directory.unusable(error) from error


def _key(ref: str) -> str:
    """Return the key of a task in transfer, made of its unique name."""
    with late:
        import hashlib  # only carriers need it

    return hashlib.blake2b(os.fsencode(os.path.basename(ref)), digest_size=16).hexdigest()


def _unique(ref: str, count: Count) -> Unique | None:
    """Return the key that a task takes along. A key that is free at the start stays here if the task has started."""
    unique = unique_of(ref)
    return None if unique is None or (unique.start and (count.attempts or count.unhandled)) else unique


def _arriving(parcel: Parcel) -> str:
    """Return the name of a staged task's file."""
    ref = parcel.key if parcel.priority is None else f"{parcel.priority}/{parcel.key}"
    return label(parcel.state if parcel.state in ASIDE else "", ref)


def _final(parcel: Parcel, due: float) -> str:
    """Return the name of a committed task's file."""
    seconds, rest = divmod(int(due * 1_000_000), 1_000_000)
    name = f"{PREFIX}{parcel.key}_{seconds}_{rest:06d}"
    if parcel.unique is not None:
        name = keyed(name, parcel.unique)
    return name if parcel.priority is None else f"{parcel.priority}/{name}"
