"""The names of tasks in a spool directory, in uWSGI's form.

A name is ``uwsgi_spoolfile_on_<host>_<pid>_<counter>_<random>_<seconds>_<microseconds>``. unspool puts the *due* time
at its end, so that one reading of the directory gives an order without looking at each file. The due time is the file's
mtime; the name contains a lower bound of it.

The name of a task with a key has ``key-<key><mode><until>-`` before the host. The mode is ``s`` if the start of the
task frees the key, otherwise ``d``. ``until`` is the time in microseconds from which the key is free; it is empty if
there is none.
"""

import itertools
import math
import os
import re
import socket
import threading

from ... import forks
from ...message import Unique

__all__ = ["BELL", "PREFIX", "Names", "hint", "is_bell", "is_task", "keyed", "renamed", "unique_of", "writer_of"]

PREFIX = "uwsgi_spoolfile_on_"
BELL = f"{PREFIX}unspool_bell"

_key_of = re.compile(PREFIX + r"key-(?P<key>[0-9a-f]{32})(?P<mode>[sd])(?P<until>[0-9]{0,20})-", re.ASCII).match
_is_number = re.compile(r"[0-9]{1,30}", re.ASCII).fullmatch


def is_bell(name: str) -> bool:
    """Return whether this is a wakefile of uWSGI and not a task; see ``wakefile``."""
    return name.startswith(BELL) and (len(name) == len(BELL) or name[len(BELL)] == "_")


def is_task(name: str) -> bool:
    """Return whether a file of this name is a task."""
    return name.startswith(PREFIX) and not is_bell(name)


def hint(name: str) -> float:
    """Return the time at the end of a name: a lower bound of the due time, or 0 if the name has no time."""
    parts = name.rsplit("_", 2)
    try:
        return int(parts[1]) + int(parts[2]) / 1_000_000
    except (IndexError, ValueError, OverflowError):
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


def keyed(name: str, unique: Unique) -> str:
    """Return the name of a task with a key, from the name that it has without."""
    until = "" if unique.end is None else max(int(unique.end * 1e6), 0)
    return f"{PREFIX}key-{unique.key}{'s' if unique.start else 'd'}{until}-{name.removeprefix(PREFIX)}"


def unique_of(ref: str) -> Unique | None:
    """Return the key in the name of a task, or None if it has none."""
    found = _key_of(ref.rpartition("/")[2])
    if found is None:
        return None
    return Unique(found["key"], found["mode"] == "s", int(found["until"]) / 1e6 if found["until"] else math.inf)


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
