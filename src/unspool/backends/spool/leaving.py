"""Tasks that are leaving a directory, or arriving in one: files apart from those that are run.

::

    .unspool/leaving/<label>          no worker runs it here any more
    .unspool/left/<where>/<label>     that destination has accepted it
    .unspool/arriving/<label>         accepted here, and not yet confirmed; its name is made when it is

A label is ``<place>+<priority>+<name>``, where the place is ``waiting``, ``dead`` or ``corrupt``.
"""

import contextlib
import os
from collections.abc import Iterator
from typing import NamedTuple

from .layout import ASIDE, PRIVATE, Directory, is_priority, is_task

__all__ = ["ARRIVING", "LEAVING", "LEFT", "Leaving", "carries", "label", "left_part", "under_way"]

LEAVING, LEFT, ARRIVING = f"{PRIVATE}/leaving", f"{PRIVATE}/left", f"{PRIVATE}/arriving"
_WAITING = "waiting"


class Leaving(NamedTuple):
    """A task under way.

    :param part: the directory that its file is in, and ``name``: what it is called there.
    :param place: where it was: ``dead``, ``corrupt``, or empty where it waited.
    :param ref: what it was called there.
    :param destination: where it was accepted; empty if that is not known yet.
    """

    part: str
    name: str
    place: str
    ref: str
    destination: str = ""

    @property
    def inside(self) -> str:
        """Its path within the directory."""
        return f"{self.part}/{self.name}"


def label(place: str, ref: str) -> str:
    """Return the name of a task's file under way."""
    priority, _, name = ref.rpartition("/")
    return f"{place or _WAITING}+{priority}+{name}"


def left_part(destination: str) -> str:
    """Return the directory of what that destination has accepted."""
    return f"{LEFT}/{destination.replace('%', '%25').replace('/', '%2F')}"


def under_way(directory: Directory) -> Iterator[Leaving]:
    """All that is leaving a directory."""
    yield from _in(directory, LEAVING, "")
    with contextlib.suppress(OSError), os.scandir(directory.path(LEFT)) as found:
        for one in sorted(found, key=lambda one: one.name):
            destination = one.name.replace("%2F", "/").replace("%25", "%")
            yield from _in(directory, f"{LEFT}/{one.name}", destination)


def carries(directory: Directory) -> bool:
    """Return whether anything is under way, whose reason or count may lie where no task is just now."""
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
