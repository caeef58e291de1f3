"""Claims of tasks in a spool directory: taking a task, and carrying out what follows from its run.

Claim. The file is opened (never through a link, never blocking) and locked. Then the path is checked to still lead to
the locked inode: the previous holder of the lock may have removed or moved the file, and a lock on an unlinked inode is
granted. Then the file's type, links, owner, due time, attempts and content are checked. If a check fails, closing the
file releases the lock. The lock ends with the process, so crash recovery needs nothing else.

The attempt is counted before the content is read, because reading takes as much memory as the task is large. A process
without that much memory dies, and the count remains: the fourth claim reads only the variables, and the task becomes a
dead letter because it killed its worker three times. If the task is damaged or cannot be read, the attempt is
subtracted again.

Settle. A finished task is removed with ``unlink`` under the lock. Nothing is synced: a power cut may restore a finished
task, since delivery is at least once. For a retry, the count is written before ``utime``, so that a crash in between
loses the back-off and not an attempt. For a dead letter, the note is written before ``rename``.
"""

import contextlib
import errno
import logging
import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ... import forks, points, wire
from ...errors import ClaimLost, Damaged, SpoolerUnusable
from ...message import (
    Ack,
    Bury,
    Claim,
    DeferOnCrash,
    Disposition,
    End,
    Envelope,
    Exchanged,
    Mark,
    Refusal,
    RefusalKind,
    Release,
    Retry,
    State,
)
from ...printable import printable
from ...retry import MAX_CRASHES
from ..base import Clock
from . import lock
from .attempts import DONE, RUNNING, WAITING, Attempts, Count, open_attempts
from .dead_letters import set_aside
from .deferred_close import DeferredClose
from .directory import Directory
from .file import read_whole, write_whole
from .layout import TMP, priority_of
from .names import writer_of
from .trust import is_unfinished

__all__ = ["Claims"]

_log = logging.getLogger("unspool")

_WRITING = 5.0  # seconds in which an incomplete file may be one that another program is still writing
_SOON = 0.01  # seconds within which a sender completes its task; an event follows
_LOOK_AGAIN = 60.0  # seconds after which a file that cannot be used now is checked again
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EBADF)  # errors of the process, not of the task
_CLAIM = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_BLOCK = 1 << 20
_QUIET = getattr(os, "O_NOATIME", 0)  # updating the access time costs as much as reading the file


class _Held(NamedTuple):
    """A claim's token: the locked descriptor, and the directory and name of its file."""

    file: int
    at: int
    name: str
    begun: Count
    inode: int


class Claims:
    """The claims of this process on tasks of a directory.

    :param max_size: the maximum size of a task's body in bytes.
    :param rest: called before the worker waits.
    """

    def __init__(
        self,
        directory: Directory,
        max_size: int,
        clock: Clock,
        rest: Callable[[], object],
    ) -> None:
        self._directory = directory
        self._max_size = max_size
        self._clock = clock
        self._rest = rest
        self._known_attempts: Attempts | None = None
        self._held: set[int] = set()
        self.deferred_close: DeferredClose | None = None
        """Takes the descriptors of removed files, if a supervisor closes them."""
        forks.register(after_in_child=self.let_go)  # a lock lives as long as any copy of its descriptor

    @property
    def attempts(self) -> Attempts:
        """Where the attempts of the tasks are counted."""
        if self._known_attempts is None:
            self._known_attempts = open_attempts(self._directory)
        return self._known_attempts

    def exchange(self, ends: Sequence[End], refs: Sequence[str]) -> Exchanged:
        if not ends and not refs:
            self._rest()
        ended = [self._settle(claim, disposition) for claim, disposition, _, _ in ends]
        return Exchanged(ended, [self._take(ref) for ref in refs])

    def _take(self, ref: str) -> Claim | Refusal:
        try:
            at, name, fd = self._open(ref)
        except OSError as error:
            if error.errno in _EXHAUSTED:
                if self.deferred_close is not None and self.deferred_close.pass_on():
                    return self._take(ref)  # the deferred descriptors took the room
                raise self._directory.unusable(error) from error
            return self._refusal(error, ref)
        if fd <= 2:  # the output of this process would be written into the task
            os.close(fd)
            raise SpoolerUnusable("this process has closed its standard descriptors")
        points.reach("claim.opened")
        try:
            claim = self._claim(fd, at, name, ref)
        except OSError as error:
            claim = self._refusal(error, ref)
        except MemoryError:  # counts as a crash, like a kill for lack of memory; a new worker may have more
            os.close(fd)
            id = printable(f"{self._directory.root}/{ref}")
            reason = f"task {id} does not fit into the memory of process {os.getpid()}"
            raise SpoolerUnusable(errno.ENOMEM, reason) from None
        except BaseException:
            os.close(fd)
            raise
        if isinstance(claim, Refusal):
            os.close(fd)
        else:
            self._held.add(fd)
        return claim

    def _open(self, ref: str) -> tuple[int, str, int]:
        at, name = self._directory.at(ref)
        try:
            return at, name, os.open(name, _CLAIM | _QUIET, dir_fd=at)
        except PermissionError:  # O_NOATIME is allowed only for the file's owner
            return at, name, os.open(name, _CLAIM, dir_fd=at)
        except FileNotFoundError:
            if self._directory.is_current(ref.rpartition("/")[0]):
                raise
            self._directory.reopen()  # another directory has replaced it
        at, name = self._directory.at(ref)
        return at, name, os.open(name, _CLAIM, dir_fd=at)

    def _claim(self, fd: int, at: int, name: str, ref: str) -> Claim | Refusal:
        if not lock.acquire(fd):
            return Refusal(RefusalKind.BUSY)
        points.reach("claim.locked")
        found = os.fstat(fd)
        path = os.stat(name, dir_fd=at, follow_symlinks=False)
        if path.st_ino != found.st_ino or path.st_dev != found.st_dev:
            return Refusal(RefusalKind.EARLY, self._clock() + 1)
        now = self._clock()
        own = found.st_mode == self._directory.file_mode and found.st_nlink == 1
        own = own and found.st_uid == self._directory.trusted
        if not own and is_unfinished(found):
            return self._unfinished(at, name, found)
        if not own and (reason := self.objection(found)) is not None:
            return Refusal(RefusalKind.UNUSABLE, now + _LOOK_AGAIN, reason)
        if found.st_mtime > now:
            return Refusal(RefusalKind.EARLY, found.st_mtime)
        count = (self._known_attempts or self.attempts).begin(fd, ref)
        points.reach("claim.counted")
        if count.phase == DONE:
            return self._remove_done(at, name, ref)
        try:
            if count.crashes < MAX_CRASHES:
                data = read_whole(fd, found.st_size, self._max_size)
            else:  # not read completely, because that may be what kills its workers
                data = os.read(fd, wire.HEADER_SIZE + wire.MAX_VARS)
        except Damaged as error:
            former = count.withdrawn()
            self.attempts.write(fd, ref, former)
            if (until := self._written_until(found)) is not None:
                return Refusal(RefusalKind.EARLY, until)
            self._bury(ref, at, name, Bury(str(error), corrupt=True), former)
            return Refusal(RefusalKind.CORRUPT, None, str(error))
        except OSError:  # an unreadable disk is not a crash of a worker
            with contextlib.suppress(OSError):
                self.attempts.write(fd, ref, count.withdrawn())
            raise
        points.reach("claim.read")
        return Claim(
            f"{self._directory.root}/{ref}",
            ref,
            Envelope(data, priority_of(ref), found.st_mtime),
            count.attempts,
            count.crashes,
            _Held(fd, at, name, count, found.st_ino),
            count.unhandled,
        )

    def _settle(self, claim: Claim, disposition: Disposition) -> float | None:
        token: _Held = claim.token
        self._check(claim.id, token)
        until = None
        try:
            until = self._carry_out(claim.ref, token, disposition)
        except OSError:
            if self._is_there(token):  # otherwise the file was removed, perhaps by the task itself
                until = self._postpone(claim.ref, token, done=isinstance(disposition, Ack))
        finally:
            self._held.discard(token.file)
            if self.deferred_close is not None and until is None and isinstance(disposition, Ack):
                self.deferred_close.add(token.file, token.inode)
            else:
                self._close(token.file, stays=until is not None)
        points.reach("settled")
        return until

    @staticmethod
    def _check(id: str, token: _Held) -> None:
        """Raise ``ClaimLost`` if a task closed all descriptors, and with them its lock."""
        try:
            if os.fstat(token.file).st_ino == token.inode:
                return
        except OSError as error:
            if error.errno != errno.EBADF:
                return
        raise ClaimLost(f"task {id} closed its worker's descriptors, and with them its lock")

    @staticmethod
    def _is_there(token: _Held) -> bool:
        try:
            os.stat(token.name, dir_fd=token.at, follow_symlinks=False)
        except FileNotFoundError:
            return False
        except OSError:
            pass  # the error does not show that the file is gone
        return True

    @staticmethod
    def _close(fd: int, *, stays: bool) -> None:
        if stays:
            with contextlib.suppress(OSError):
                lock.release(fd)  # a child that the task left running may share the descriptor
        os.close(fd)

    def _carry_out(self, ref: str, token: _Held, disposition: Disposition) -> float | None:
        file, at, name, begun, _ = token
        match disposition:
            case Ack():
                points.reach("ack.begin")
                os.unlink(name, dir_fd=at)
                points.reach("ack.removed")
                if self.attempts.outlive:
                    self.attempts.clear(ref)
            case Retry(at=when):
                points.reach("retry.begin")
                if disposition.begun:
                    waiting = begun._replace(phase=WAITING)
                else:
                    waiting = begun.withdrawn()._replace(unhandled=begun.unhandled + 1)
                self.attempts.write(file, ref, waiting)
                points.reach("retry.counted")
                due = int(when * 1e9)
                try:
                    os.utime(file, ns=(due, due))
                except PermissionError:  # only a file's owner may set its mtime
                    self._replace(ref, token, waiting, due)
                points.reach("retry.dated")
                return when
            case Release(crashed):
                if not crashed:  # otherwise the count of a run without an end is that of a crash
                    self.attempts.write(file, ref, begun.withdrawn())
                return self._clock()
            case Bury():
                if disposition.partial and (until := self._written_until(os.fstat(file))) is not None:
                    self.attempts.write(file, ref, begun.withdrawn())
                    return until
                attempts = begun.attempts - (not disposition.begun)
                self._bury(ref, at, name, disposition, begun._replace(attempts=attempts))
        return None

    def _written_until(self, found: os.stat_result) -> float | None:
        """Return how long another program may still be writing a file; None if it was not changed a moment ago."""
        # The mtime is used, because counting an attempt changes the ctime.
        until = found.st_mtime + _WRITING
        return until if self._clock() < until else None

    def _replace(self, ref: str, token: _Held, count: Count, due: int) -> None:
        """Replace another user's task with a copy of this user that has the due time, in a directory that a group
        shares.
        """
        self._directory.renew(TMP)
        tmp, drafts = self._directory.fd(TMP), self._directory.drafts
        draft = drafts.name(os.path.basename(ref))
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        copy = self._directory.hand_over(os.open(draft, flags, 0o600, dir_fd=tmp))
        try:
            os.lseek(token.file, 0, os.SEEK_SET)
            while data := os.read(token.file, _BLOCK):
                write_whole(copy, data)
            self.attempts.write(copy, ref, count)
            os.utime(copy, ns=(due, due))
            os.fsync(copy)
            os.rename(draft, token.name, src_dir_fd=tmp, dst_dir_fd=token.at)
        except OSError:
            os.unlink(draft, dir_fd=tmp)
            raise
        finally:
            os.close(copy)

    def _postpone(self, ref: str, token: _Held, *, done: bool) -> float:
        """Postpone a task whose disposition failed, for example on a failing disk. A finished task never runs again."""
        until = self._clock() + _LOOK_AGAIN
        with contextlib.suppress(OSError):
            self.attempts.write(token.file, ref, token.begun._replace(phase=DONE if done else WAITING))
            os.utime(token.file, (until, until))
        return until

    def mark(self, ref: str, mark: Mark) -> None:
        if isinstance(mark, DeferOnCrash):
            # Set the mtime by path, which drops no lock. The next process that gets the lock uses it.
            with contextlib.suppress(OSError):
                os.utime(self._directory.path(ref), (mark.until, mark.until), follow_symlinks=False)
            return
        # Mark the run by path, while its worker may still write. Whichever writes last, an ended run stays ended.
        with contextlib.suppress(OSError):
            count = self.attempts.read(ref)
            if count.phase == RUNNING:
                self.attempts.write(self._directory.path(ref), ref, count._replace(phase=WAITING))

    def objection(self, found: os.stat_result) -> str | None:
        """Return why a file must not be run, or None. Another user's directory may have replaced it since the feed's
        scan."""
        if not self._directory.signed and self._directory.owner.stranger:
            return self.stranger()
        return self._directory.objection(found)

    def stranger(self) -> str:
        return (
            f"it belongs to user {self._directory.owner.uid}, who could then run code as this one; run the workers as "
            "its owner, or set UNSPOOL_SECRET_KEY"
        )

    def _refusal(self, error: OSError, ref: str) -> Refusal:
        if isinstance(error, FileNotFoundError):
            return Refusal(RefusalKind.GONE)
        if isinstance(error, PermissionError):
            with contextlib.suppress(OSError):
                at, name = self._directory.at(ref)
                found = os.stat(name, dir_fd=at, follow_symlinks=False)
                if is_unfinished(found):
                    return self._unfinished(at, name, found)
        reasons = {
            errno.ELOOP: "a symbolic link",
            errno.EISDIR: "a directory",
            errno.EACCES: "not readable by this user",
        }
        reason = reasons.get(error.errno or 0) or f"{error.strerror or error}"
        return Refusal(RefusalKind.UNUSABLE, self._clock() + _LOOK_AGAIN, reason)

    def _bury(self, ref: str, at: int, name: str, bury: Bury, count: Count) -> None:
        state = State.CORRUPT if bury.corrupt else State.DEAD
        set_aside(self._directory, state, at, name, ref, bury.reason, count, self._clock())

    def _unfinished(self, at: int, name: str, found: os.stat_result) -> Refusal:
        """Refuse a file that is not a task yet. Its sender is about to complete it, or has died."""
        if not self._directory.drafts.is_dead(writer_of(name), found.st_dev):
            now = self._clock()  # soon at first, and less often if the sender is stopped while it writes
            return Refusal(RefusalKind.EARLY, now + min(max(_SOON, now - found.st_ctime), _LOOK_AGAIN))
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=at)
        return Refusal(RefusalKind.GONE)

    def _remove_done(self, at: int, name: str, ref: str) -> Refusal:
        try:
            os.unlink(name, dir_fd=at)
        except OSError as error:
            return Refusal(
                RefusalKind.UNUSABLE, self._clock() + _LOOK_AGAIN, f"done, but cannot be removed: {error.strerror}"
            )
        id = printable(f"{self._directory.root}/{ref}")
        _log.warning("removed task %s, which is marked as done and could not be removed when it finished", id)
        self.attempts.clear(ref)
        return Refusal(RefusalKind.GONE)

    def let_go(self) -> None:
        """Close the descriptors of all claims without settling them."""
        for fd in self._held:
            with contextlib.suppress(OSError):
                os.close(fd)
        self._held.clear()
