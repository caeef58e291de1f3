"""The key-value table of a spool directory: a file for each item in ``.unspool/kv``; see ``item``.

Change. A new file is written as a draft. Then the lock of the table is taken, the version of the present item is
compared, and the draft is renamed over the file. A file in the table never changes, so a reader needs no lock and sees
an item whole. A process that is killed leaves the old item or the new one, and the kernel releases its lock.

Version. It is a random number of 63 bits. A counter would have to be as durable as all items that were ever dropped.

Life. An ephemeral item is absent unless its file is locked. The process that puts it locks the draft before it is
renamed, and keeps the descriptor open. A forked child closes its copy, because a lock lives as long as any copy of its
descriptor (see ``forks``). The file is open for writing, so the kernel also reports the end of the process to the
waiting ones, as the closing of a written file. Ended items are removed by ``sweep``.

Links, directories, FIFOs, large files, files of other users and files that are not an item's count as no item. They are
never followed and never block. ``put`` replaces them, except for a directory. A value is data, which is not run, so in
a spool directory that a group shares, items of all its members are valid also without a secret key.
"""

import contextlib
import errno
import os
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence

from ... import forks, points
from ...errors import SpoolerUnusable
from ..base import Clock
from ..keyvalue import FOREVER, Item, Life, Until, check_key, check_life, check_value
from . import descriptor, lock, trust
from .directory import Directory
from .file import write_whole
from .item import LARGEST_FILE, SMALLEST_FILE, Stored, dump, key_of, name_of, new_version, parse
from .layout import KV, TMP
from .mutex import Mutex
from .watcher import Watcher

__all__ = ["SpoolKeyValue"]

_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_PRIVATE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NO_ITEM = (errno.ENOENT, errno.ELOOP, errno.ENXIO, errno.ENODEV, errno.EACCES, errno.EPERM)  # errors of a file
_POLL = 0.1  # seconds between two looks at a key where the kernel reports no changes
_LOOK_AGAIN = 60.0  # seconds after which a wait looks even if the kernel has reported nothing


class SpoolKeyValue:
    """Implement ``keyvalue.KeyValue`` for a directory. Several threads may use it.

    :param durable: True to sync each change to the disk before its call returns.
    """

    def __init__(self, directory: Directory, durable: bool, clock: Clock) -> None:
        self._directory = directory
        self._durable = durable
        self._clock = clock
        self._ephemeral: dict[str, tuple[int, int]] = {}  # descriptor and inode of each file that is kept locked
        self._drafts: set[int] = set()  # descriptors of files that threads are writing
        self._watchers: list[Watcher] = []  # not in use; at most a few, kept because closing one takes 10 ms
        weakref.finalize(self, _close_all, self._watchers).atexit = False
        self._mutex = Mutex(directory, KV, "lock")
        forks.register(after_in_child=self._close_inherited)

    # --- keyvalue.KeyValue

    def get(self, keys: Sequence[str]) -> list[Item | None]:
        for key in keys:
            check_key(key)
        with self._reported():
            found = [self._find(key) for key in keys] if self._exists() else [None] * len(keys)
        return [stored and stored.item for stored in found]

    def put(self, key: str, value: bytes, *, expect: int | None = None, life: Life = FOREVER) -> int | None:
        check_key(key)
        stored = Stored(Item(check_value(value), new_version()), check_life(life))
        with self._reported():
            self._directory.renew(TMP, KV)
            self._directory.fd(KV)
            if expect is not None and self._version(key) != expect:  # before anything is written
                return None
            return stored.item.version if self._put(key, stored, expect) else None

    def drop(self, key: str, *, expect: int | None = None) -> bool:
        check_key(key)
        with self._reported():
            found = self._drop(key, expect) if self._exists() else None
            if found and self._durable and not found.ephemeral:
                self._directory.sync(KV)
        return found is not None

    def scan(self, prefix: str, after: str = "", limit: int = 1000) -> list[tuple[str, Item]]:
        check_key(prefix, prefix=True)
        check_key(after, prefix=True)
        found: list[tuple[str, Item]] = []
        with self._reported():
            keys = [key_of(name) for name in os.listdir(self._directory.fd(KV))] if self._exists() else []
            for key in sorted(key for key in keys if key and key.startswith(prefix) and key > after):
                if len(found) >= limit:
                    break
                if (stored := self._find(key)) is not None:
                    found.append((key, stored.item))
        return found

    def wait(self, versions: Mapping[str, int], timeout: float) -> bool:
        for key in versions:
            check_key(key)
        end = time.monotonic() + timeout
        with self._reported():
            if self._remaining(versions) is None:
                return True
            while time.monotonic() < end:
                watcher = self._take_watcher()
                try:
                    if self._watch(watcher, versions, end):
                        return True
                finally:
                    self._keep_watcher(watcher)
        return False

    # --- the backend

    def close(self) -> None:
        """End the ephemeral items of this process."""
        for key in list(self._ephemeral):
            self._release(key)
        _close_all(self._watchers)

    def _close_inherited(self) -> None:
        """Close the descriptors of the parent, which keeps its items."""
        self.close()
        for fd in self._drafts:
            with contextlib.suppress(OSError):
                os.close(fd)
        self._drafts.clear()

    def remove_ended(self, name: str) -> None:
        """Remove the file of an item whose life has ended.

        :raises OSError: if it cannot be removed, or a process is just changing the table.
        """
        key = key_of(name)
        if key is None or not self._is_ended(key):
            return
        with self._mutex.held(wait=False):
            if self._is_ended(key):
                os.unlink(name, dir_fd=self._directory.fd(KV))

    # --- reading

    def _exists(self) -> bool:
        """Return whether the table exists. Reading does not create it."""
        if not self._directory.opened and not os.path.lexists(self._directory.root):
            return False
        self._directory.renew(KV)
        try:
            os.stat(KV, dir_fd=self._directory.fd(""), follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def _find(self, key: str) -> Stored | None:
        """Return the item of a key, unless its life has ended."""
        stored, locked = self._read(key) or (None, False)
        return stored if stored and self._lives(stored, locked) else None

    def _is_ended(self, key: str) -> bool:
        """Return whether a file has an item whose life has ended."""
        stored, locked = self._read(key) or (None, False)
        return stored is not None and not self._lives(stored, locked)

    def _lives(self, stored: Stored, locked: bool) -> bool:
        if isinstance(stored.life, Until):
            return stored.life.time > self._clock()
        return locked or not stored.ephemeral

    def _version(self, key: str) -> int:
        stored = self._find(key)
        return stored.item.version if stored else 0

    def _read(self, key: str) -> tuple[Stored, bool] | None:
        """Return the item in the file of a key, and whether a process keeps the file locked. Return None if there is no
        item.

        :raises OSError: if the file cannot be read, for example because of too many open files.
        """
        name = name_of(key)
        while True:
            try:
                fd = os.open(name, os.O_RDONLY | _PRIVATE, dir_fd=self._directory.fd(KV))
            except OSError as error:
                if error.errno in _NO_ITEM:
                    return None
                raise
            try:
                found = os.fstat(fd)
                if found.st_nlink:
                    stored = self._parse(fd, found)
                    locked = stored is not None and stored.ephemeral and lock.held(fd)
                    if stored is None or not stored.ephemeral or locked or self._is_at(name, found):
                        return stored and (stored, locked)
            finally:
                os.close(fd)
            # The file was replaced or removed. The lock of a replaced file may be released before it is looked at.

    def _parse(self, fd: int, found: os.stat_result) -> Stored | None:
        if trust.to_file(found, self._directory.owner, signed=True) is not None:
            return None
        if not SMALLEST_FILE <= found.st_size <= LARGEST_FILE:
            return None
        return parse(os.read(fd, found.st_size))

    def _is_at(self, name: str, found: os.stat_result) -> bool:
        """Return whether a file of the table is still at its path."""
        try:
            path = os.stat(name, dir_fd=self._directory.fd(KV), follow_symlinks=False)
        except FileNotFoundError:
            return False
        return os.path.samestat(path, found)

    # --- writing

    def _put(self, key: str, stored: Stored, expect: int | None) -> bool:
        """Write an item. Return False if there is another version than expected."""
        tmp, drafts = self._directory.fd(TMP), self._directory.drafts
        draft = drafts.name(f"kv-{stored.item.version:x}")
        fd = self._directory.hand_over(os.open(draft, _CREATE, 0o600, dir_fd=tmp))
        self._drafts.add(fd)
        placed = kept = False
        try:
            points.reach("put.created")
            write_whole(fd, dump(stored))
            if stored.ephemeral:
                lock.acquire(fd)
            elif self._durable:
                os.fsync(fd)
            points.reach("put.written")
            with self._mutex.held():
                points.reach("put.locked")
                former = self._find(key)
                if expect is not None and expect != (former.item.version if former else 0):
                    return False
                try:
                    os.rename(draft, name_of(key), src_dir_fd=tmp, dst_dir_fd=self._directory.fd(KV))
                except IsADirectoryError:
                    path = self._directory.path(f"{KV}/{name_of(key)}")
                    reason = f"{path} is a directory; move it away"
                    raise SpoolerUnusable(f"spooler {self._directory.root} cannot be used: {reason}") from None
                placed = True
                points.reach("put.renamed")
                self._release(key)
                if stored.ephemeral:
                    self._keep(key, fd)
                    kept = True
        finally:
            self._drafts.discard(fd)
            if not placed:
                with contextlib.suppress(OSError):
                    os.unlink(draft, dir_fd=tmp)
            if not kept:
                os.close(fd)
        # An ephemeral item does not survive a power cut. That it has replaced another one must.
        if self._durable and not (stored.ephemeral and (former is None or former.ephemeral)):
            self._directory.sync(KV)
        points.reach("put.synced")
        return True

    def _drop(self, key: str, expect: int | None) -> Stored | None:
        """Remove an item, and return it. Return None if there is none of this version."""
        with self._mutex.held():
            found = self._find(key)
            if found is None or expect not in (None, found.item.version):
                return None
            points.reach("drop.locked")
            os.unlink(name_of(key), dir_fd=self._directory.fd(KV))
            points.reach("drop.removed")
            self._release(key)
        return found

    def _keep(self, key: str, fd: int) -> None:
        """Keep the file of an ephemeral item locked. Close the files that other processes have replaced or removed."""
        for other, (held, inode) in list(self._ephemeral.items()):
            if (found := descriptor.status(held, inode)) is None or not found.st_nlink:
                self._release(other)
        self._ephemeral[key] = fd, os.fstat(fd).st_ino

    def _release(self, key: str) -> None:
        """Close the file of an ephemeral item of this process, unless the program has closed it."""
        held = self._ephemeral.pop(key, None)
        if held is not None:
            descriptor.close(*held)

    @contextlib.contextmanager
    def _reported(self) -> Iterator[None]:
        """Raise ``SpoolerUnusable`` for a system error."""
        try:
            yield
        except SpoolerUnusable:
            raise
        except OSError as error:
            raise self._directory.unusable(error, KV) from error

    # --- waiting

    def _remaining(self, versions: Mapping[str, int]) -> float | None:
        """Return the seconds until the next item ends by time, or None if a key has another version."""
        exists = self._exists()
        remaining = _LOOK_AGAIN
        for key, version in versions.items():
            stored = self._find(key) if exists else None
            if version != (stored.item.version if stored else 0):
                return None
            if stored and isinstance(stored.life, Until):
                remaining = min(remaining, stored.life.time - self._clock())
        return remaining

    def _take_watcher(self) -> Watcher:
        with contextlib.suppress(IndexError):
            while not (watcher := self._watchers.pop()).is_open():
                watcher.close()
            return watcher
        return Watcher()

    def _keep_watcher(self, watcher: Watcher) -> None:
        watcher.unwatch(KV)
        if watcher.working and not self._watchers:
            self._watchers.append(watcher)
        else:
            watcher.close()

    def _watch(self, watcher: Watcher, versions: Mapping[str, int], end: float) -> bool:
        """Wait for another version. Return False when the time has passed, or if the watch is lost."""
        self._directory.renew(KV)
        self._directory.fd(KV)  # created, because only a directory that exists can be watched
        watcher.watch(KV, self._directory.path(KV), removals=True)
        names = {name_of(key) for key in versions}
        while (remaining := self._remaining(versions)) is not None:
            left = min(end - time.monotonic(), remaining)
            if end <= time.monotonic():
                return False
            if not watcher.working:
                time.sleep(max(0.0, min(left, _POLL)))
            elif not watcher.wait(names, left):
                return False
        return True


def _close_all(watchers: list[Watcher]) -> None:
    while watchers:
        watchers.pop().close()
