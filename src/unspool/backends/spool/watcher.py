"""The kernel's notice that something changed in a directory: inotify, if available.

It watches names moved in and files closed after writing. The second also reports that a task's file was released
without being removed: it was put back, or its worker was killed. An event is only a hint; losing one (overflow, no
watches left) causes a scan.
"""

import contextlib
import errno
import logging
import os
import select
import sys
import time
from collections.abc import Collection
from typing import NamedTuple

from ...imports import late

__all__ = ["Change", "Watcher"]

_WRITING = 1  # milliseconds
_USED_UP = "the inotify watches of this user are used up; raise fs.inotify.max_user_watches with sysctl"
_log = logging.getLogger("unspool")
_lost: list[object] = []  # instances whose descriptor the program has closed; its number may be another file's by now


class Change(NamedTuple):
    """A change: a name in a part (empty for the root), or without a name, an event that requires a full scan."""

    part: str
    name: str
    directory: bool = False
    lost: bool = False


class Watcher:
    """Watch parts of a directory. Without inotify, it reports no changes and ``working`` is False."""

    def __init__(self) -> None:
        self._parts: dict[int, str] = {}
        self._notify = None
        if sys.platform != "linux":
            return
        try:
            with late:
                import inotify_simple  # takes 10 ms, and most producers do not watch

            self._notify = inotify_simple.INotify(nonblocking=True)
            self._fd = self._notify.fileno()
            flags = inotify_simple.flags
        except OSError as error:
            _log.warning("no inotify: %s; the spooler is scanned once a second instead", error.strerror)
            return
        self._mask = (
            flags.MOVED_TO | flags.CLOSE_WRITE | flags.CREATE | flags.DELETE_SELF | flags.MOVE_SELF
            | flags.ONLYDIR | flags.EXCL_UNLINK
        )  # fmt: skip
        self._mask_removed = self._mask | flags.DELETE
        self._created, self._directory_flag = int(flags.CREATE), int(flags.ISDIR)
        self._lost = int(flags.Q_OVERFLOW | flags.DELETE_SELF | flags.MOVE_SELF | flags.UNMOUNT)
        self._ignored = int(flags.IGNORED)

    @property
    def working(self) -> bool:
        """Return whether changes are reported."""
        return self._notify is not None

    def fileno(self) -> int | None:
        """Return a descriptor that is readable when there are changes."""
        return None if self._notify is None else self._notify.fileno()

    def watch(self, part: str, path: str, *, removals: bool = False) -> None:
        """Watch a directory, also for removed names if ``removals`` is set.

        If the system refuses, all watches end, ``working`` is False from then on, and a warning is logged.
        """
        if self._notify is None or part in self._parts.values():
            return
        try:
            self._parts[self._notify.add_watch(path, self._mask_removed if removals else self._mask)] = part
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                return
            reason = _USED_UP if error.errno == errno.ENOSPC else error.strerror
            _log.warning("cannot watch %s: %s; the spooler is scanned once a second instead", path, reason)
            self.close()

    def unwatch(self, part: str) -> None:
        """End the watch of a directory. Changes before that may still be reported."""
        for watch, watched in list(self._parts.items()):
            if watched == part and self._notify is not None:
                del self._parts[watch]
                with contextlib.suppress(OSError):  # the directory was removed, and with it the watch
                    self._notify.rm_watch(watch)

    def is_open(self) -> bool:
        """Return whether changes are reported, and the program has not closed the descriptor."""
        if self._notify is None:
            return False
        try:
            return os.readlink(f"/proc/self/fd/{self._fd}") == "anon_inode:inotify"
        except OSError:
            return not os.path.exists("/proc/self/fd")

    def changes(self) -> list[Change]:
        """Return the changes since the last call. Wait at most as long as it takes to write a file that was just
        created."""
        if self._notify is None:
            return []
        found = []
        events = list(self._notify.read(timeout=0))
        if events and all(mask & self._created and not mask & self._directory_flag for _, mask, _, _ in events):
            events += self._notify.read(timeout=_WRITING)
        for watch, mask, _, name in events:
            if mask & self._ignored:
                self._parts.pop(watch, None)
            elif mask & self._lost:
                found.append(Change(self._parts.get(watch, ""), "", lost=True))
            elif mask & self._directory_flag:
                found.append(Change(self._parts.get(watch, ""), name, directory=True))
            elif not mask & self._created:  # a file that was only created is still being written
                found.append(Change(self._parts.get(watch, ""), os.fsdecode(name)))
        return found

    def wait(self, names: Collection[str], seconds: float) -> bool:
        """Wait until one of these names changes, but not longer than some seconds. Return False if the watch is
        lost."""
        if self._notify is None:
            return False
        end = time.monotonic() + seconds
        poller = select.poll()
        poller.register(self._notify.fileno(), select.POLLIN)
        while (left := end - time.monotonic()) > 0 and poller.poll(left * 1000):
            changes = self.changes()
            if any(change.lost for change in changes):
                return False
            if any(change.name in names for change in changes):
                break
        return True

    def close(self) -> None:
        """End all watches. This takes the kernel some 10 ms."""
        if self._notify is not None:
            if self.is_open():
                self._notify.close()
            else:
                _lost.append(self._notify)
            self._notify = None
        self._parts.clear()
