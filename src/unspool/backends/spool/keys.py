"""The keys of unique tasks in a spool directory.

The name of a task with a key contains the key (``names.keyed``). The file ``.unspool/keys/<key>`` lists the ref of the
task that has the key. It is read and written only by a process that holds its lock, which ends with the process.

A key belongs to the first task of this list that still holds it: its file exists, complete, in the queue or leaving it;
the time of the key is not over; and it has not started, if the start frees the key. So no worker does anything for a
key: it becomes free when its task is removed, by unspool, by uWSGI or by hand, or is set aside. The next send finds
that and replaces the list. ``sweep`` removes files of free keys.

No second task. A send holds the lock from before it looks for the holder until its task is visible. It lists the task
before the task is visible. A process that gets the lock later therefore finds the task.

No key without its task. If the sender is killed before its task is visible, the list names a task that does not exist,
and nothing else keeps the key. A sender that is stopped meanwhile keeps the lock, so other senders of the key fail and
do not store a second task.

A task that is renamed, by a new priority or due time, is listed under both names before the rename. The lock of the key
is taken after the lock of the task, and never the other way round.

Power cut. With full durability, the list and its name are synced before the task is visible. With relaxed durability,
neither the list nor the task is synced; if only the task survives, another task of the key can be sent beside it.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator

from ... import points
from ..base import Clock
from .attempts import RUNNING, read_count
from .directory import Directory
from .layout import KEYS, is_priority
from .leaving import LEAVING, label
from .mutex import Mutex
from .names import is_task, unique_of
from .trust import is_unfinished

__all__ = ["Key", "Keys"]

_SIZE = 4096
_END = "."  # the last line, so that an incomplete list counts as empty
_MOST = 3  # refs in a list


class Keys:
    """The keys of a directory.

    :param durable: True to sync each change to the disk.
    """

    def __init__(self, directory: Directory, durable: bool, clock: Clock) -> None:
        self.directory = directory
        self.durable = durable
        self.clock = clock

    @contextlib.contextmanager
    def held(self, key: str, *, wait: bool = True) -> Iterator["Key"]:
        """Hold the lock of a key.

        :param wait: whether to wait while another process holds it.
        :raises SpoolerUnusable: if another process holds it for too long, or the file must not be used.
        :raises OSError: if the file cannot be opened or locked.
        """
        self.directory.renew(KEYS)
        with Mutex(self.directory, KEYS, key).held(wait=wait) as fd:
            points.reach("key.locked")
            yield Key(self, fd)

    @contextlib.contextmanager
    def renamed(self, ref: str, target: str) -> Iterator[None]:
        """Let a task keep its key while the block renames it."""
        unique = unique_of(ref)
        if unique is None or ref == target:
            yield
            return
        with self.held(unique.key) as key:
            refs = key.refs()
            if ref in refs:
                key.give(target, *refs)
            yield

    @contextlib.contextmanager
    def taken(self, ref: str) -> Iterator[str | None]:
        """Give a task its key while the block makes it visible.

        Yield the ref of the task that has the key instead, or None.
        """
        unique = unique_of(ref)
        if unique is None:
            yield None
            return
        with self.held(unique.key) as key:
            holder = key.holder()
            if holder in (None, ref):
                key.give(ref)
            yield None if holder == ref else holder

    def remove_free(self, name: str) -> None:
        """Remove the file of a key that no task has.

        :raises OSError: if it cannot be used, or another process holds its lock.
        """
        with self.held(name, wait=False) as key:
            if key.holder() is None:
                os.unlink(name, dir_fd=self.directory.fd(KEYS))


class Key:
    """A key whose lock this process holds.

    :param fd: a descriptor of its file.
    """

    def __init__(self, keys: Keys, fd: int) -> None:
        self._keys = keys
        self._fd = fd

    def refs(self) -> list[str]:
        """Return the refs in the list. Invalid ones are left out."""
        lines = os.fsdecode(os.pread(self._fd, _SIZE, 0)).split("\n")
        return [ref for ref in lines[: lines.index(_END)] if _is_ref(ref)] if _END in lines else []

    def holder(self) -> str | None:
        """Return the ref of the task that has the key, or None if it is free."""
        return next(filter(self._holds, self.refs()), None)

    def give(self, *refs: str) -> None:
        """Give the key to the first of these tasks that exists."""
        content = os.fsencode("\n".join([*list(dict.fromkeys(refs))[:_MOST], _END, ""]))
        if os.pwrite(self._fd, content, 0) < len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        points.reach("key.written")
        if self._keys.durable:
            os.fsync(self._fd)
            self._keys.directory.sync(KEYS)
            points.reach("key.synced")

    def _holds(self, ref: str) -> bool:
        unique, directory = unique_of(ref), self._keys.directory
        if unique is None or unique.until <= self._keys.clock():
            return False
        try:
            found = os.stat(directory.path(ref), follow_symlinks=False)
        except OSError:
            return os.path.lexists(directory.path(f"{LEAVING}/{label('', ref)}"))
        if not stat.S_ISREG(found.st_mode) or is_unfinished(found):
            return False
        count = read_count(directory, ref)
        return not (unique.start and (count.attempts or count.crashes or count.unhandled or count.phase == RUNNING))


def _is_ref(ref: str) -> bool:
    part, slash, name = ref.rpartition("/")
    return is_task(name) and "\0" not in name and (not slash or is_priority(part) is not None)
