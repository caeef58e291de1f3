"""Removal of files that killed processes left behind: drafts, notes and counts without their task, ended items of the
key-value table, free keys of unique tasks."""

import contextlib
import os
import time
from collections.abc import Iterator

from . import lock
from .dead_letters import REASON_SUFFIX, is_note, rename_hidden
from .directory import Directory
from .keys import Keys
from .keyvalue import SpoolKeyValue
from .layout import ASIDE, ATTEMPTS, KEYS, KV, TMP, is_priority
from .leaving import carries
from .scan import opened, read_all

__all__ = ["leftovers"]

_HOUR = 3600.0


def leftovers(directory: Directory) -> Iterator[None]:
    """Check one file at each step, and remove it if it was left behind. The caller sets the pace."""
    for part, name in _files(directory, TMP):
        with contextlib.suppress(OSError):
            device = os.stat(directory.path(f"{part}/{name}"), follow_symlinks=False).st_dev
            if directory.drafts.abandoned(name, device):
                _remove(directory, f"{part}/{name}")
        yield
    for state in ASIDE.values():
        for part, name in _files(directory, state):
            task = name.removesuffix(REASON_SUFFIX)
            if task != name and _is_orphan(directory, part, task, state) and not carries(directory):
                with contextlib.suppress(OSError):
                    if is_note(directory, f"{part}/{name}"):
                        _remove(directory, f"{part}/{name}")
                    else:  # a task that was moved here
                        rename_hidden(directory, part, name)
            yield
    for part, name in _files(directory, ATTEMPTS):
        priority, plus, rest = name.partition("+")
        ref = f"{priority}/{rest}" if plus and is_priority(priority) else name
        if not os.path.lexists(directory.path(ref)) and not carries(directory):
            _remove(directory, f"{part}/{name}")
        yield
    table = SpoolKeyValue(directory, durable=False, clock=time.time)
    for _, name in _files(directory, KV):
        with contextlib.suppress(OSError):
            table.remove_ended(name)
        yield
    keys = Keys(directory, durable=False, clock=time.time)
    for _, name in _files(directory, KEYS):
        with contextlib.suppress(OSError):
            keys.remove_free(name)
        yield


def _files(directory: Directory, part: str) -> Iterator[tuple[str, str]]:
    """Yield the files of a part and of its priorities."""
    for priority, entries in read_all(directory, part):
        for entry in entries:
            if priority or not is_priority(entry.name):
                yield f"{part}/{priority}" if priority else part, entry.name


def _is_orphan(directory: Directory, part: str, task: str, state: str) -> bool:
    """Return whether the task of a note is neither beside it nor about to be moved there.

    Within the queue, that move happens under the task's lock. From another queue, it happens within an hour.
    """
    with contextlib.suppress(OSError):
        if os.stat(directory.path(f"{part}/{task}{REASON_SUFFIX}")).st_mtime > time.time() - _HOUR:
            return False
    waiting = directory.path(f"{part}/{task}".removeprefix(f"{state}/"))
    if lock.is_locked(waiting):
        return False
    return not os.path.lexists(directory.path(f"{part}/{task}"))


def _remove(directory: Directory, path: str) -> None:
    part, _, name = path.rpartition("/")
    with contextlib.suppress(OSError), opened(directory, part) as fd:  # no link is followed
        os.unlink(name, dir_fd=fd)
