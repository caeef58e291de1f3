"""Enqueue: tasks are written into the directory completely or not at all.

With a draft. A task is written under a unique name in ``.unspool/tmp``, synced, renamed into place, and the directory
is synced. A task is therefore always complete under its final name: uWSGI, which runs or deletes incomplete files,
never finds one, and a power cut leaves the task complete or absent. A failed fsync is never repeated, because the
kernel has already discarded the data: the file is given up and the caller gets an error. A batch is written, then
synced by one ``syncfs``, then renamed.

In place. A rename takes half of the time of a task that is not synced. A small task (at most one page) that is due at
once is therefore written under its final name, with mode 01000, and becomes a task by ``fchmod``. A file with that mode
is not a task. uWSGI checks ``access`` first; as root it has access, but it ignores a file without a header, and the
header becomes visible together with the rest because a page is written at once. Workers remove such a file if its
sender is dead.

No acknowledged task is removed without a verdict:

  1. A task is acknowledged only after its ``rename`` or ``fchmod`` has succeeded. The ``rename`` needs the complete
     draft. Before the ``fchmod``, the file is looked up by the path that is returned as the task's id; the files of a
     batch are looked up in the open directory, whose path is looked up once. A task is therefore sent again if its
     file was removed meanwhile, or if the path no longer leads to the directory it was written into.
  2. Until then its file is a draft, or has mode 01000. Workers remove these if the sender is dead, and a live sender
     never counts as dead (see ``drafts``). A dead sender acknowledges nothing.
  3. From then on the file is a task. Workers remove it under its lock, for a verdict; ``unspool rm``, ``purge`` and
     ``move`` remove it on request.

A send that fails part-way reports which of its tasks are in the queue (``SpoolerUnusable.sent``). They are not removed,
because a worker may have started them. For the same reason, a send that starts over because a directory was removed or
moved sends only the remaining tasks.
"""

import contextlib
import errno
import itertools
import os
import sys
from collections.abc import Sequence

from ... import points
from ...errors import SpoolerUnusable
from ...message import Duplicate, Envelope, Unique
from ..base import Clock
from .directory import Directory
from .file import sync_file_system, write_whole
from .keys import Key, Keys
from .layout import TMP
from .names import Names, keyed
from .trust import UNFINISHED, is_unfinished, to_sender
from .uwsgi.wakefile import Wakefile

__all__ = ["Sender"]

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_PAGE = 4096
_AT_ONCE = 32  # files open at once
_ELSEWHERE = (errno.ENOENT, errno.ENOTDIR, errno.EBADF, errno.EXDEV, errno.ESTALE)  # removed, moved, or closed
_HAS_STICKY = sys.platform == "linux"  # elsewhere, only root may make such files
_File = tuple[int, str, int, str]
"""A task that is being written in place: its descriptor and ref, and the directory and name of its file."""


class Sender:
    """Write envelopes into a directory.

    :param keys: the keys of unique tasks.
    :param durable: True to sync each task to the disk before its call returns.
    """

    def __init__(self, directory: Directory, wakefile: Wakefile, keys: Keys, durable: bool, clock: Clock) -> None:
        self._keys = keys
        self._directory = directory
        self._wakefile = wakefile
        self._durable = durable
        self._clock = clock
        self._names = Names()

    def send(self, envelopes: Sequence[Envelope]) -> list[str]:
        """Send all envelopes, and return their refs. That of a task that has the key of another one is a
        ``Duplicate``.

        :raises SpoolerUnusable: if not all could be sent. It has the ids of the tasks that were sent.
        """
        sent: list[str] = []
        try:
            try:
                if len(envelopes) == 1 and not self._durable and _HAS_STICKY and self._send_one(envelopes[0], sent):
                    return sent
                self._send(envelopes, sent)
            except OSError as error:
                if error.errno not in _ELSEWHERE or len(sent) == len(envelopes):
                    raise
                self._directory.reopen()
                self._send(envelopes[len(sent) :], sent)
        except OSError as error:
            raise self._failure(error, sent, len(envelopes)) from error
        finally:
            self._announce(envelopes, sent)
        return sent

    def _send_one(self, envelope: Envelope, sent: list[str]) -> bool:
        """Write one task in place, without the lists of a batch. Return whether it was written.

        If anything is unusual, nothing is done and False is returned.
        """
        data, priority, due, _, unique = envelope
        directory, drafts = self._directory, self._directory.drafts
        if due is not None or unique is not None or len(data) > _PAGE or directory.trusted < 0 or directory.gives:
            return False
        if not (writer := drafts.current):
            return False
        file = self._begin(priority, data, writer)
        try:
            path = f"{directory.root}/{file[1]}"
            if not os.access(path, os.F_OK):
                os.lstat(path)  # raises the reason; the name is unique, so the path leads to this file
            self._publish(file, sent)
        except BaseException:
            _remove_unfinished(file)
            raise
        finally:
            os.close(file[0])
        points.reach("send.kept")
        return True

    def _announce(self, envelopes: Sequence[Envelope], sent: Sequence[str]) -> None:
        """Create the wakefile for uWSGI, once for each due time of the sent tasks with a priority."""
        dues: set[float | None] = set()
        for envelope, _ in zip(envelopes, sent):  # noqa: B905  perhaps only the first ones were sent
            if envelope.priority is not None:
                dues.add(envelope.due)
        for due in dues:
            self._wakefile.announce(due)

    def _failure(self, error: OSError, sent: Sequence[str], wanted: int) -> SpoolerUnusable:
        text = str(error if isinstance(error, SpoolerUnusable) else self._directory.unusable(error))
        if sent:
            text += f"; {len(sent)} of {wanted} tasks are in the queue (see 'sent' of this error), send only the others"
        failure = SpoolerUnusable(error.errno, text)
        failure.sent = tuple(map(self._directory.path, sent))
        return failure

    def _send(self, envelopes: Sequence[Envelope], sent: list[str]) -> None:
        """Send these envelopes, and add their refs to ``sent``."""
        if self._directory.trusted < 0 and (reason := to_sender(self._directory.owner, signed=self._directory.signed)):
            raise SpoolerUnusable(f"spooler {self._directory.root} cannot be used: {reason}")
        if not any(envelope.unique for envelope in envelopes):
            self._send_plain(envelopes, sent)
            return
        for unique, some in itertools.groupby(envelopes, lambda envelope: envelope.unique):
            if unique is None:
                self._send_plain(list(some), sent)
            else:
                for envelope in some:
                    self._send_unique(envelope, unique, sent)

    def _send_unique(self, envelope: Envelope, unique: Unique, sent: list[str]) -> None:
        """Send a task with a key, unless another task has the key."""
        with self._keys.held(unique.key) as key:
            if (holder := key.holder()) is not None:
                sent.append(Duplicate(holder))
            else:
                self._send_by_drafts([envelope], sent, key)

    def _send_plain(self, envelopes: Sequence[Envelope], sent: list[str]) -> None:
        if not self._durable and _HAS_STICKY and all(map(_is_small, envelopes)):
            drafts = self._directory.drafts  # kept to the end: its lock shows that this sender is alive
            if drafts.lost:
                self._directory.reopen()
                drafts = self._directory.drafts
            if writer := drafts.number:
                for start in range(0, len(envelopes), _AT_ONCE):
                    self._write_in_place(envelopes[start : start + _AT_ONCE], writer, sent)
                points.reach("send.kept")
                return
        self._send_by_drafts(envelopes, sent)

    def _write_in_place(self, envelopes: Sequence[Envelope], writer: int, sent: list[str]) -> None:
        files: list[_File] = []
        try:
            for envelope in envelopes:
                files.append(self._begin(envelope.priority, envelope.data, writer))
            self._look_for(files)
            for file in files:
                self._publish(file, sent)
        except BaseException:
            for file in files:
                _remove_unfinished(file)
            raise
        finally:
            _close_all(files)

    def _begin(self, priority: int | None, content: bytes, writer: int) -> _File:
        """Write the file of a task that is not visible yet, and return it."""
        directory = self._directory
        ref = name = self._names.next(self._clock(), None, writer)
        part = ""
        if priority is not None:
            part = str(priority)
            ref = f"{part}/{name}"
        at, target = directory.place(part, name)
        file = os.open(target, _CREATE, UNFINISHED, dir_fd=at), ref, at, target
        try:
            if directory.gives:
                directory.give(file[0])
            points.reach("send.created")
            write_whole(file[0], content)
            points.reach("send.written")
        except BaseException:
            _remove_unfinished(file)
            os.close(file[0])
            raise
        return file

    def _look_for(self, files: Sequence[_File]) -> None:
        """Check that the path leads to all files. This takes less time than checking each path.

        :raises FileNotFoundError: if it does not.
        """
        for part in {ref.rpartition("/")[0] for _, ref, _, _ in files}:
            if not self._directory.is_current(part):
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), part)
        for _, _, at, name in files:
            if not os.access(name, os.F_OK, dir_fd=at):
                os.stat(name, dir_fd=at, follow_symlinks=False)

    def _publish(self, file: _File, sent: list[str]) -> None:
        """Make a written file a task, and add its ref to ``sent``."""
        os.fchmod(file[0], self._directory.mode)
        sent.append(file[1])
        points.reach("send.renamed")

    def _send_by_drafts(self, envelopes: Sequence[Envelope], sent: list[str], key: Key | None = None) -> None:
        """Write drafts, and rename them.

        :param key: the key of the only task.
        """
        parts = ["" if envelope.priority is None else str(envelope.priority) for envelope in envelopes]
        tmp, drafts = self._directory.fd(TMP), self._directory.drafts
        batch = len(envelopes) > 1
        written: list[str] = []
        moved = 0
        try:
            for envelope in envelopes:
                name = self._names.next(self._clock(), envelope.due)
                if envelope.unique is not None:
                    name = keyed(name, envelope.unique)
                written.append(name)
                self._write(tmp, drafts.name(name), envelope, sync=self._durable and not batch)
            if batch and self._durable:
                sync_file_system(tmp)
                points.reach("send.synced")
            if not all(map(self._directory.is_current, set(parts))):
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
            for part, name in zip(parts, written, strict=True):
                at, target = self._directory.place(part, name)
                if key is not None:
                    key.give(f"{part}/{name}" if part else name)
                os.rename(drafts.name(name), target, src_dir_fd=tmp, dst_dir_fd=at)
                moved += 1
                sent.append(f"{part}/{name}" if part else name)
                points.reach("send.renamed")
        except BaseException:
            for name in written[moved:]:
                with contextlib.suppress(OSError):
                    os.unlink(drafts.name(name), dir_fd=tmp)
            raise
        finally:
            if self._durable:
                for part in set(parts[:moved]):
                    self._directory.sync(part)
        points.reach("send.kept")

    def _write(self, tmp: int, draft: str, envelope: Envelope, *, sync: bool) -> None:
        fd = self._directory.hand_over(os.open(draft, _CREATE, 0o600, dir_fd=tmp))
        try:
            points.reach("send.created")
            write_whole(fd, envelope.data)
            if envelope.due is not None:
                due = int(envelope.due * 1e9)
                os.utime(fd, ns=(due, due))
            points.reach("send.written")
            if sync:
                os.fsync(fd)
                points.reach("send.synced")
        finally:
            os.close(fd)


def _is_small(envelope: Envelope) -> bool:
    """Return whether a task can be written in place."""
    return envelope.due is None and len(envelope.data) <= _PAGE


def _remove_unfinished(file: _File) -> None:
    """Remove a file that this send created, unless it has become a task."""
    _, _, at, name = file
    with contextlib.suppress(OSError):
        if is_unfinished(os.stat(name, dir_fd=at, follow_symlinks=False)):
            os.unlink(name, dir_fd=at)


def _close_all(files: list[_File]) -> None:
    """Close all files, even if closing one of them raises. The error is raised afterwards."""
    while files:
        fd = files.pop()[0]
        try:
            os.close(fd)
        except OSError:
            _close_all(files)
            raise
