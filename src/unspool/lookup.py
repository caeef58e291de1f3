"""Find the task for an id, or for a part of an id that identifies one task."""

from collections.abc import Iterable, Sequence

from .backends.base import Backend
from .backends.page import RunQuery
from .errors import AmbiguousId
from .inspection import find, find_pieces, runs
from .message import Entry
from .task_id import short_id

__all__ = ["find_ended", "find_task"]

_NAMED = 5  # tasks that an error lists


def find_task(id: str, backends: Iterable[Backend]) -> tuple[Backend, Entry] | None:
    """Return the task that is waiting, running or set aside under this id, and its backend.

    :param id: an id as for ``TaskQuery.id``, or a part of one as for ``TaskQuery.piece``.
    :raises AmbiguousId: if several tasks have this part.
    """
    searched, found = list(backends), list[tuple[Backend, Entry]]()
    for backend in searched:
        if (entry := find(backend, id)) is not None:
            found.append((backend, entry))
            if "/" in id:
                return found[0]
    if not found and "/" not in id:
        found = [(backend, entry) for backend in searched for entry in find_pieces(backend, id)]
    if len(found) > 1:
        raise _ambiguous(id, [entry.id for _, entry in found])
    return found[0] if found else None


def find_ended(id: str, backends: Iterable[Backend]) -> tuple[Backend, Sequence[str]] | None:
    """Return the ids under which the history has this task, and the backend of the history.

    There is more than one id if ``retry`` has renamed the task.

    :param id: as for ``find_task``.
    :raises AmbiguousId: if several tasks have this part.
    """
    searched = list(backends) if id else []
    found = [(backend, run.id) for backend in searched for run in runs(backend, id, 1)]
    if not found and "/" not in id:
        found = [(one, run.id) for one in searched for run in runs(one, query=RunQuery(piece=id))]
    if len({(backend.name, short_id(one)) for backend, one in found}) > 1:
        raise _ambiguous(id, [one for _, one in found])
    return (found[0][0], [one for _, one in found]) if found else None


def _ambiguous(piece: str, ids: Sequence[str]) -> AmbiguousId:
    more = ", and others" if len(ids) > _NAMED else ""
    return AmbiguousId(f"several tasks have {piece} in their ids: {', '.join(ids[:_NAMED])}{more}; give more of the id")
