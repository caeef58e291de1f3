"""Enqueue: how tasks get into the directory, each whole or not at all.

By way of a draft. A task is written under a name of its own in ``.unspool/tmp``, synced, renamed into place, and the
directory synced. So under its final name a task is always whole: uWSGI, which runs or deletes what it finds
half-written, never meets one, and a power cut leaves it whole or absent. A failed fsync is never repeated: the kernel
has by then forgotten the data, so the file is given up and the caller told. A batch is written, then synced by one
``syncfs``, then renamed.

In place. A rename takes half of the time of a task that is not synced, so such a one, of a page at most and due at
once, is written under its final name instead, with mode 01000, and becomes a task by ``fchmod``. A file of that mode
is nobody's task: uWSGI asks ``access`` first; as root it may, but it leaves alone what has no header yet, and there is
no header without all the rest, since one write of a page or less shows at once. What a sender that was killed left like
this is removed by whoever comes upon it, once the number in its name tells that its sender is gone (see ``drafts``).
"""

import contextlib
import os
import sys
from collections.abc import Sequence

from ... import points, wire
from ...errors import SpoolerUnusable
from ...message import Envelope
from ...signing import Signer
from ..base import Clock
from .bell import Bell
from .file import sync_file_system, write_whole
from .layout import TMP, Directory, Names
from .trust import UNFINISHED, is_unfinished

__all__ = ["Sender"]

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_PAGE = 4096
_AT_ONCE = 32  # files that are open at once
_HAS_STICKY = sys.platform == "linux"  # elsewhere, only root may make such files


class Sender:
    """Puts envelopes into a directory.

    :param durable: True syncs each task to the disk before its call returns.
    """

    def __init__(self, directory: Directory, bell: Bell, signer: Signer | None, durable: bool, clock: Clock) -> None:
        self._directory = directory
        self._bell = bell
        self._signer = signer
        self._durable = durable
        self._clock = clock
        self._names = Names()

    def send(self, envelopes: Sequence[Envelope]) -> list[str]:
        """Sends all, and returns their refs.

        :raises FileNotFoundError: if the directory was removed since it was opened.
        :raises SpoolerUnusable: if it cannot be used.
        """
        try:
            refs = None
            if _HAS_STICKY and not self._durable and all(envelope.due is None for envelope in envelopes):
                refs = self._send_in_place(envelopes)
            if refs is None:
                refs = self._send_by_drafts(envelopes)
        except OSError as error:
            if isinstance(error, FileNotFoundError | SpoolerUnusable):
                raise
            raise self._directory.unusable(error) from error
        for due in {envelope.due for envelope in envelopes if envelope.priority is not None}:
            self._bell.announce(due)
        return refs

    def _send_in_place(self, envelopes: Sequence[Envelope]) -> list[str] | None:
        """The refs, or None if some of these need drafts."""
        contents = [wire.dump(envelope.vars, envelope.body, self._signer) for envelope in envelopes]
        writer = self._directory.drafts.number
        if not writer or max(map(len, contents), default=0) > _PAGE:
            return None
        refs = []
        for start in range(0, len(envelopes), _AT_ONCE):
            some = slice(start, start + _AT_ONCE)
            refs += self._write_in_place(envelopes[some], contents[some], writer)
        points.reach("send.kept")
        return refs

    def _write_in_place(self, envelopes: Sequence[Envelope], contents: Sequence[bytes], writer: int) -> list[str]:
        refs: list[str] = []
        files: list[tuple[int, int, str]] = []
        try:
            for envelope, content in zip(envelopes, contents, strict=True):
                name = self._names.next(self._clock(), None, writer)
                part = "" if envelope.priority is None else str(envelope.priority)
                at, target = self._directory.place(part, name)
                fd = os.open(target, _CREATE, UNFINISHED, dir_fd=at)
                files.append((fd, at, target))
                points.reach("send.created")
                write_whole(fd, content)
                points.reach("send.written")
                refs.append(f"{part}/{name}" if part else name)
            for fd, _, _ in files:
                os.fchmod(fd, 0o600)
                points.reach("send.renamed")
        except OSError:
            for fd, at, target in files:
                if is_unfinished(os.fstat(fd)):
                    os.unlink(target, dir_fd=at)
            raise
        finally:
            for fd, _, _ in files:
                os.close(fd)
        return refs

    def _send_by_drafts(self, envelopes: Sequence[Envelope]) -> list[str]:
        tmp = self._directory.fd(TMP)
        batch = len(envelopes) > 1
        written: list[tuple[str, str]] = []
        moved = 0
        try:
            for envelope in envelopes:
                name = self._names.next(self._clock(), envelope.due)
                part = "" if envelope.priority is None else str(envelope.priority)
                written.append((part, name))
                self._write(tmp, name, envelope, sync=self._durable and not batch)
            if batch and self._durable:
                sync_file_system(tmp)
                points.reach("send.synced")
            for part, name in written:
                at, target = self._directory.place(part, name)
                os.rename(self._directory.drafts.name(name), target, src_dir_fd=tmp, dst_dir_fd=at)
                moved += 1
                points.reach("send.renamed")
            if self._durable:
                for part in {part for part, _ in written}:
                    self._directory.sync(part)
            points.reach("send.kept")
        except OSError:
            for _, name in written[moved:]:
                with contextlib.suppress(OSError):
                    os.unlink(self._directory.drafts.name(name), dir_fd=tmp)
            raise
        return [f"{part}/{name}" if part else name for part, name in written]

    def _write(self, tmp: int, name: str, envelope: Envelope, *, sync: bool) -> None:
        data = wire.dump(envelope.vars, envelope.body, self._signer)
        fd = os.open(self._directory.drafts.name(name), _CREATE, 0o600, dir_fd=tmp)
        try:
            points.reach("send.created")
            write_whole(fd, data)
            if envelope.due is not None:
                due = int(envelope.due * 1e9)
                os.utime(fd, ns=(due, due))
            points.reach("send.written")
            if sync:
                os.fsync(fd)
                points.reach("send.synced")
        finally:
            os.close(fd)
