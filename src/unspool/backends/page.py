"""Queries of tasks and runs, and the pages that answer them.

Tasks come in the order of execution, runs newest first. A page has a cursor, with which any process gets the next one.
A cursor is a text that a browser may send back, so it is checked like other input.
"""

import base64
import json
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from ..errors import OptionRefused
from ..message import SUCCEEDED, Entry, Envelope, Record, State

__all__ = [
    "FEW",
    "LOOKED_AT",
    "ORDER",
    "Continuation",
    "Counts",
    "Page",
    "Query",
    "RunPosition",
    "RunQuery",
    "TaskPosition",
    "TaskQuery",
    "in_order",
    "page_of_runs",
    "page_of_task",
    "page_of_tasks",
]

ORDER = (State.RUNNING, State.READY, State.DEFERRED, State.DEAD, State.CORRUPT)
"""The states in the order of a listing."""

_DEFERRED = ORDER.index(State.DEFERRED)

FEW = 10
"""The maximum number of tasks that a page returns for a piece of an id."""

LOOKED_AT = 10_000
"""The number of tasks or runs that a page compares with a query before it ends with fewer than were asked for."""


class TaskQuery(NamedTuple):
    """Selects tasks.

    :param states: the states that are wanted.
    :param label: the task's name, as ``Entry.task`` has it; empty for all.
    :param since, until: the due times that are wanted, both inclusive.
    :param id: one task: its whole id, or the part of it after the backend's name.
    :param piece: a piece of an id that people type, such as the short form. ``FEW`` tasks are returned at most.
    :param body: whether the page has the envelope of the task ``id``.
    """

    states: frozenset[State] = frozenset(State)
    label: str = ""
    since: float = -math.inf
    until: float = math.inf
    id: str = ""
    piece: str = ""
    body: bool = False

    def wants(self, entry: Entry) -> bool:
        """Return whether a task matches all but ``id`` and ``piece``."""
        named = not self.label or entry.task == self.label
        return named and entry.state in self.states and self.since <= entry.due <= self.until


class RunQuery(NamedTuple):
    """Selects runs in the history.

    :param label: the task's name; empty for all.
    :param failed: whether only runs that have not succeeded are wanted.
    :param since, until: the times of the start that are wanted, both inclusive.
    :param id: the whole id of one task.
    :param piece: a piece of an id that people type. The last run of each task is returned, of ``FEW`` tasks at most.
    """

    label: str = ""
    failed: bool = False
    since: float = -math.inf
    until: float = math.inf
    id: str = ""
    piece: str = ""

    def wants(self, run: Record) -> bool:
        """Return whether a run matches all but ``id`` and ``piece``."""
        named = not self.label or run.task == self.label
        return named and not (self.failed and run.verdict in SUCCEEDED) and self.since <= run.started <= self.until


Query = TaskQuery | RunQuery


class Page(NamedTuple):
    """A part of the answer to a query.

    :param tasks: the tasks, if tasks were asked for.
    :param runs: the runs, if runs were asked for.
    :param after: the cursor of the next page; empty if nothing follows.
    :param envelope: the bytes of the task, if ``TaskQuery.body`` asks for them and they can be read.
    """

    tasks: tuple[Entry, ...] = ()
    runs: tuple[Record, ...] = ()
    after: str = ""
    envelope: Envelope | None = None


class Counts(NamedTuple):
    """The number of tasks by state or by label, and the earliest due time of a ready task.

    The time is None if no task is ready, or if the tasks were counted by label.
    """

    tasks: dict[str, int]
    oldest: float | None = None


class TaskPosition(NamedTuple):
    """The position of a task in a listing.

    :param now: the time of the first page. The later pages show waiting tasks in their states at this time, because a
        task that becomes due between two pages would otherwise be missed.
    :param section: the number of the part of the listing, such as a state.
    :param id: the task's id or ref.
    """

    now: float
    section: int
    rank: int
    due: float
    id: str

    @property
    def key(self) -> tuple[int, float, float, str]:
        """Return what positions sort by, if the sections are the states of ``ORDER``."""
        first, second = (self.due, self.rank) if self.section == _DEFERRED else (self.rank, self.due)
        return self.section, first, second, self.id

    def dump(self) -> str:
        """Return the cursor."""
        return _dump(self)

    @classmethod
    def load(cls, cursor: str) -> "TaskPosition | None":
        """Return the position of a cursor; None for the first page.

        :raises OptionRefused: if the text is not a cursor.
        """
        return cls._make(_load(cursor, (float, int, int, float, str))) if cursor else None


class RunPosition(NamedTuple):
    """The position of a run in the history: the time of its end, and a number that rises with each run."""

    ended: float
    number: int

    def dump(self) -> str:
        """Return the cursor."""
        return _dump(self)

    @classmethod
    def load(cls, cursor: str) -> "RunPosition | None":
        """Return the position of a cursor; None for the first page.

        :raises OptionRefused: if the text is not a cursor.
        """
        return cls._make(_load(cursor, (float, int))) if cursor else None


def page_of_tasks(query: TaskQuery, found: Iterable[tuple[Entry, TaskPosition]], limit: int) -> Page:
    """Return the page with the first matching tasks of those found.

    It may have fewer than ``limit`` tasks, even none, and a cursor: the search then continues with the next page.
    """
    tasks = []
    for number, (entry, position) in enumerate(found, 1):
        if query.wants(entry):
            tasks.append(entry)
        if len(tasks) >= limit or number >= max(limit, LOOKED_AT):
            return Page(tuple(tasks), after=position.dump())
    return Page(tuple(tasks))


class Continuation:
    """The rest of the listing whose last page was read.

    If the next page is asked for in the same process, it needs no new scan.
    """

    def __init__(self) -> None:
        self._rest: dict[tuple[frozenset[State], str], Iterator[tuple[Entry, TaskPosition]]] = {}

    def page(
        self, query: TaskQuery, after: str, limit: int, begin: Callable[[], Iterator[tuple[Entry, TaskPosition]]]
    ) -> Page:
        """Return the next page, from the rest if it begins there, otherwise from a new scan."""
        found = self._rest.pop((query.states, after), None) or begin()  # no other thread continues it too
        page = page_of_tasks(query, found, limit)
        self._rest = {(query.states, page.after): found} if page.after else {}
        return page


def in_order(
    tasks: Iterable[tuple[int, Entry]], now: float, after: TaskPosition | None
) -> Iterator[tuple[Entry, TaskPosition]]:
    """Yield the tasks after a position in the order of a listing, for a backend that reads all of them.

    :param tasks: each with its number, which decides between tasks of the same priority and due time.
    """
    positions = [
        (TaskPosition(now, ORDER.index(entry.state), _rank(entry.priority), entry.due, f"{number:020}"), entry)
        for number, entry in tasks
    ]
    for position, entry in sorted(positions, key=lambda one: one[0].key):
        if after is None or position.key > after.key:
            yield entry, position


def page_of_task(query: TaskQuery, found: tuple[Entry, Envelope | None] | None) -> Page:
    """Return the page of a query for one id."""
    if found is None or not query.wants(found[0]):
        return Page()
    return Page((found[0],), envelope=found[1] if query.body else None)


def page_of_runs(query: RunQuery, found: Iterable[tuple[Record, RunPosition]], limit: int) -> Page:
    """Return the page with the first matching runs of those found; as ``page_of_tasks``."""
    runs = []
    for number, (run, position) in enumerate(found, 1):
        if query.wants(run):
            runs.append(run)
        if len(runs) >= limit or number >= max(limit, LOOKED_AT):
            return Page(runs=tuple(runs), after=position.dump())
    return Page(runs=tuple(runs))


def _is_valid(value: object, kind: type) -> bool:
    if type(value) is not kind:
        return False
    return not isinstance(value, int) or 0 <= value < 1 << 63


def _rank(priority: int | None) -> int:
    return 1 << 31 if priority is None else priority


def _dump(position: tuple[object, ...]) -> str:
    return base64.urlsafe_b64encode(json.dumps(position, separators=(",", ":")).encode()).decode().rstrip("=")


def _load(cursor: str, types: tuple[type, ...]) -> list[Any]:
    try:
        values = json.loads(base64.b64decode(cursor + "=" * (-len(cursor) % 4), b"-_", validate=True))
        if not isinstance(values, list) or len(values) != len(types):
            values = []
        if values and all(_is_valid(value, kind) for value, kind in zip(values, types, strict=True)):
            return values
    except (ValueError, RecursionError):  # also for text that is not ASCII
        pass
    raise OptionRefused(
        f"after is {cursor!r:.200}, which is not the cursor of such a page; pass Page.after, or nothing"
    )
