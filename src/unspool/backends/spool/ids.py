"""The tasks that an id may stand for: a path, absolute or relative to the working or the spool directory."""

import os
from collections.abc import Iterator

from .dead_letters import REASON_SUFFIX
from .layout import ASIDE, is_priority
from .names import is_task

__all__ = ["inside", "is_at", "origin", "places"]


def places(root: str, id: str) -> Iterator[tuple[str, str]]:
    """Yield the possible locations of the task with this id: as a waiting task, then as a dead letter.

    A location is the state of a dead letter, or an empty text for a waiting task, and the task's ref.
    """
    ref = _ref(root, id)
    if ref is None:
        return
    aside = {} if ref.endswith(REASON_SUFFIX) else ASIDE  # a dead letter's note has this name
    for place, prefix in ASIDE.items():
        if ref.startswith(f"{prefix}/"):
            within = ref[len(prefix) + 1 :]
            if place in aside and _is_ref(within):
                yield place, within
            return
    if not _is_ref(ref):
        return
    yield "", ref
    for place in aside:
        yield place, ref


def inside(place: str, ref: str) -> str:
    """Return the path of a waiting task or a dead letter within the directory."""
    return f"{ASIDE[place]}/{ref}" if place else ref


def is_at(root: str, place: str, ref: str) -> bool:
    """Return whether there is a file at a location."""
    return os.path.lexists(f"{root}/{inside(place, ref)}")


def origin(root: str, id: str) -> str:
    """Return the id that a task has, or had, as a waiting task."""
    known = list(places(root, id))
    _, ref = next((one for one in known if is_at(root, *one)), known[0] if known else ("", ""))
    return f"{root}/{ref}" if ref else id


def _ref(root: str, id: str) -> str | None:
    """Return the path of an id within the directory. Return None if it leads elsewhere or cannot be a path."""
    if not _is_path(id):
        return None
    candidates = [id] if os.path.isabs(id) else [os.path.abspath(id), os.path.normpath(f"{root}/{id}")]
    for candidate in map(os.path.normpath, candidates):
        for base in {root, os.path.realpath(root)}:
            if candidate.startswith(f"{base}/"):
                return candidate[len(base) + 1 :]
    return None


def _is_ref(ref: str) -> bool:
    """Return whether this is a task's name, alone or below a priority."""
    lead, slash, name = ref.rpartition("/")
    return is_task(name) and (not slash or is_priority(lead) is not None)


def _is_path(text: str) -> bool:
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False
