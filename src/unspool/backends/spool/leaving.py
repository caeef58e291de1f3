"""Tasks in transfer from or to a spool directory, in files that no worker runs.

::

    .unspool/leaving/<label>          no worker runs it any more
    .unspool/left/<where>/<label>     the destination <where> has staged it
    .unspool/arriving/<label>         staged here, and not committed yet

A label is ``<place>+<priority>+<name>``, where the place is ``waiting``, ``dead`` or ``corrupt``.
"""

import contextlib
import os
from collections.abc import Iterator
from typing import NamedTuple

from .directory import Directory
from .layout import ASIDE, PRIVATE, is_priority
from .names import is_task

__all__ = ["ARRIVING", "LEAVING", "LEFT", "Leaving", "carries", "label", "left_part", "under_way"]

LEAVING, LEFT, ARRIVING = f"{PRIVATE}/leaving", f"{PRIVATE}/left", f"{PRIVATE}/arriving"
_WAITING = "waiting"


class Leaving(NamedTuple):
    """A task in transfer.

    :param part: the directory of its file.
    :param name: the name of its file.
    :param place: its former state: ``dead``, ``corrupt``, or empty if it waited.
    :param ref: its former ref.
    :param destination: the destination that has staged it; empty if not known yet.
    """

    part: str
    name: str
    place: str
    ref: str
    destination: str = ""

    @property
    def inside(self) -> str:
        """Return its path within the directory."""
        return f"{self.part}/{self.name}"


def label(place: str, ref: str) -> str:
    """Return the file name of a task in transfer."""
    priority, _, name = ref.rpartition("/")
    return f"{place or _WAITING}+{priority}+{name}"


def left_part(destination: str) -> str:
    """Return the directory of the tasks that a destination has staged."""
    return f"{LEFT}/{destination.replace('%', '%25').replace('/', '%2F')}"


def under_way(directory: Directory) -> Iterator[Leaving]:
    """Yield all tasks that are leaving a directory."""
    yield from _in(directory, LEAVING, "")
    with contextlib.suppress(OSError), os.scandir(directory.path(LEFT)) as found:
        for one in sorted(found, key=lambda one: one.name):
            destination = one.name.replace("%2F", "/").replace("%25", "%")
            yield from _in(directory, f"{LEFT}/{one.name}", destination)


def carries(directory: Directory) -> bool:
    """Return whether any task is in transfer, so that a reason or count may exist without its task."""
    if next(under_way(directory), None) is not None:
        return True
    try:
        return bool(os.listdir(directory.path(ARRIVING)))
    except OSError:
        return False


def _in(directory: Directory, part: str, destination: str) -> Iterator[Leaving]:
    try:
        names = sorted(os.listdir(directory.path(part)))
    except OSError:
        return
    for name in names:
        place, _, rest = name.partition("+")
        priority, plus, task = rest.partition("+")
        if plus and place in (_WAITING, *ASIDE) and is_task(task) and (not priority or is_priority(priority)):
            ref = f"{priority}/{task}" if priority else task
            yield Leaving(part, name, "" if place == _WAITING else place, ref, destination)
