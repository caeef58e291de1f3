"""Tasks and runs of a backend, read page by page."""

from array import array
from collections.abc import Iterator

from .backends.base import Backend
from .backends.page import RunQuery, TaskQuery
from .errors import Damaged
from .message import Content, Entry, Record, State
from .seal import Seal

__all__ = ["exists", "find", "find_pieces", "read", "runs", "tasks"]

_SIZE = 250  # tasks of a page


def exists(backend: Backend) -> bool:
    """Return whether a queue exists. If it does not, the first send creates it.

    :raises SpoolerUnusable: if it exists and cannot be used, or if only a user can create it.
    """
    return not next(backend.check()).missing


def tasks(
    backend: Backend,
    states: frozenset[State] = frozenset(State),
    limit: int | None = None,
    *,
    query: TaskQuery | None = None,
    size: int = _SIZE,
) -> Iterator[Entry]:
    """Yield tasks in the order of execution, each id at most once.

    Tasks may change during the iteration. Those that stay as they are, are all returned.

    :param states: the states that are wanted, unless a ``query`` is given.
    :param limit: the maximum number of tasks; None for all.
    :param size: the number of tasks that are read at a time.
    """
    query, shown, left = query or TaskQuery(states), _Hashes(), limit
    after = ""
    while left is None or left > 0:
        page = backend.page(query, after, size if left is None else min(left, size))
        for entry in page.tasks:
            if shown.add(entry.id):  # otherwise it has changed since it was returned
                left = None if left is None else left - 1
                yield entry
        if not page.after:
            return
        after = page.after
        del page  # otherwise it would stay in memory while the next one is read


def find(backend: Backend, id: str) -> Entry | None:
    """Return the task with this id in whatever state, or None."""
    found = backend.page(TaskQuery(id=id), limit=1).tasks if id else ()
    return found[0] if found else None


def find_pieces(backend: Backend, piece: str) -> list[Entry]:
    """Return a few tasks whose ids have this piece."""
    return list(backend.page(TaskQuery(piece=piece)).tasks) if piece else []


def read(backend: Backend, id: str) -> tuple[Entry, Content | None] | None:
    """Return a task with its content, which is None if it cannot be read. Return None if there is no such task.

    Nothing is decoded, and the signature is not verified.
    """
    page = backend.page(TaskQuery(id=id, body=True), limit=1) if id else None
    if not page or not page.tasks:
        return None
    try:
        return page.tasks[0], page.envelope and Seal().open(page.envelope)
    except Damaged:
        return page.tasks[0], None


def runs(backend: Backend, id: str = "", limit: int = 100, *, query: RunQuery | None = None) -> list[Record]:
    """Return the latest runs, newest first.

    :param id: the whole id of one task; empty for all tasks, unless a ``query`` is given.
    """
    query, found, after = query or RunQuery(id=id), list[Record](), ""
    while len(found) < limit:
        page = backend.page(query, after, limit - len(found))
        found += page.runs
        if not page.after:
            break
        after = page.after
    return found


class _Hashes:
    """A set of hashes of ids, in an array: a million take 16 MB, a fourth of what a ``set`` takes."""

    def __init__(self) -> None:
        self._slots = array("q", [0]) * 256
        self._count = 0

    def add(self, id: str) -> bool:
        """Add an id. Return False if it was added before."""
        value = hash(id) or 1
        at = self._slot(value)
        if self._slots[at]:
            return False
        self._slots[at] = value
        self._count += 1
        if self._count * 4 > len(self._slots) * 3:
            former, self._slots = self._slots, array("q", [0]) * (2 * len(self._slots))
            for one in filter(None, former):
                self._slots[self._slot(one)] = one
        return True

    def _slot(self, value: int) -> int:
        """Return the slot that has this value, or the empty one where it belongs."""
        at = value % len(self._slots)
        while self._slots[at] not in (0, value):
            at = (at + 1) % len(self._slots)
        return at
