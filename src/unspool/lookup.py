"""Find the task for an id, or for a part of an id that identifies one task."""

from collections.abc import Iterable, Sequence

from .backends.base import Backend
from .errors import AmbiguousId
from .message import Entry

__all__ = ["find_ended", "find_task"]

_NAMED = 5  # tasks that an error lists


def find_task(id: str, backends: Iterable[Backend]) -> tuple[Backend, Entry] | None:
    """Return the task that is waiting, running or set aside under this id, and its backend.

    :param id: an id as for ``Backend.find``, or a part of one as for ``Backend.matching``.
    :raises AmbiguousId: if several tasks have this part.
    """
    searched, found = list(backends), list[tuple[Backend, Entry]]()
    for backend in searched:
        if (entry := backend.find(id)) is not None:
            found.append((backend, entry))
            if "/" in id:
                return found[0]
    if not found:
        matching = ((backend, backend.find(one)) for backend in searched for one in _matching(backend, id))
        found = [(backend, entry) for backend, entry in matching if entry is not None]
    if len(found) > 1:
        raise _ambiguous(id, [entry.id for _, entry in found])
    return found[0] if found else None


def find_ended(id: str, backends: Iterable[Backend]) -> tuple[Backend, Sequence[str]] | None:
    """Return the ids under which the history has this task, and the backend of the history.

    There is more than one id if ``retry`` has renamed the task.

    :param id: as for ``find_task``.
    :raises AmbiguousId: if several tasks have this part.
    """
    searched = list(backends)
    found = [(backend, run.id) for backend in searched for run in backend.history(id=id, limit=1)]
    if not found:
        found = [(backend, one) for backend in searched for one in _matching(backend, id, ended=True)]
    if len({(backend.name, backend.short(one)) for backend, one in found}) > 1:
        raise _ambiguous(id, [one for _, one in found])
    return (found[0][0], [one for _, one in found]) if found else None


def _matching(backend: Backend, id: str, *, ended: bool = False) -> list[str]:
    return [] if "/" in id else backend.matching(id, ended=ended)


def _ambiguous(piece: str, ids: Sequence[str]) -> AmbiguousId:
    more = ", and others" if len(ids) > _NAMED else ""
    return AmbiguousId(f"several tasks have {piece} in their ids: {', '.join(ids[:_NAMED])}{more}; give more of the id")
