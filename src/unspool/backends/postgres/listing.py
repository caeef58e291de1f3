"""Listings of a queue, and changes of single tasks.

Whether a task runs is read from the server's table of locks. A change locks the task's row, so a worker that would
claim the task waits.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import psycopg

from ... import wire
from ...codec import task_label
from ...errors import Damaged, SpoolerUnusable, TaskBusy
from ...message import Entry, Envelope, State
from ..base import UNNUMBERED
from ..change import Change, Remove, Reprioritise, RunNow, kept_out
from ..depot import MOVING
from ..page import ORDER, Counts, Page, TaskPosition, TaskQuery, page_of_task, page_of_tasks
from .absence import GRACE, judge
from .connection import Connector
from .names import Names
from .session import CLAIMS, PROCESSES
from .sql import statement

__all__ = ["Listing"]

_STATES = {-1: State.RUNNING, 0: State.READY, 1: State.DEFERRED, 2: State.DEAD, 3: State.CORRUPT}
_NUMBERS = {state: number for number, state in _STATES.items()}
_STEP = 1_000  # rows fetched at a time


class Listing:
    """The tasks of a queue as entries."""

    def __init__(self, connector: Connector, names: Names, now: Callable[[], float | None]) -> None:
        self._connector = connector
        self._names = names
        self._now = now

    def page(self, query: TaskQuery, after: str, limit: int) -> Page:
        """Return tasks, as ``base.Backend.page``. No lock on the table is held between two pages."""
        start = TaskPosition.load(after)
        if query.piece:  # a part of a number is another task's number
            return Page()
        if query.id:
            return page_of_task(query, self._one(query.id, whole=query.body))
        return page_of_tasks(query, self._tasks(query.states, start, limit), limit)

    def _tasks(
        self, states: frozenset[State], start: TaskPosition | None, limit: int
    ) -> Iterator[tuple[Entry, TaskPosition]]:
        """Yield the tasks after a position, state by state."""
        now = start.now if start else self._time()
        for section, state in enumerate(ORDER):
            if state in states and (start is None or section >= start.section):
                position = start if start and section == start.section else None
                position = position or TaskPosition(now, section, -1, -math.inf, "0")
                while rows := self._rows(state, position, min(limit, _STEP)):
                    for row in rows:
                        position = TaskPosition(now, section, row[1], row[2], str(row[0]))
                        yield self._entry(row)[0], position

    def _rows(self, state: State, after: TaskPosition, limit: int) -> list[Any]:
        values = self._values(clock=after.now, shown=_NUMBERS[state], limit=limit)
        values |= {"rank": after.rank, "due": after.due, "id": self._names.number(after.id) or 0}
        with self._connector.lend() as connection, connection.transaction():
            # The server's statistics are of all states together, so it would misjudge an index of one state.
            connection.execute("SET LOCAL enable_seqscan = off")
            # A prepared statement could get a plan that is not for this state alone.
            return connection.execute(statement("page"), values, prepare=False, binary=True).fetchall()

    def _time(self) -> float:
        """Return the current time of the clock, or of the server if it has none."""
        if (now := self._now()) is not None:
            return now
        with self._connector.lend() as connection:
            row = connection.execute("SELECT extract(epoch FROM statement_timestamp())::float8", binary=True).fetchone()
        return float(row[0]) if row else 0.0

    def counts(self, by: Literal["state", "label"]) -> Counts:
        """Return the number of tasks in each state or of each label."""
        if by == "label":
            return self._labels()
        counts, oldest = dict[str, int](dict.fromkeys(State, 0)), None
        with self._connector.lend() as connection:
            for number, count, due in connection.execute(statement("counts"), self._values(), binary=True):
                counts[_STATES[number]] = count
                oldest = due if _STATES[number] is State.READY else oldest
        return Counts(counts, oldest)

    def _labels(self) -> Counts:
        found = Counter[str]()
        with (
            self._connector.lend() as connection,
            connection.transaction(),
            connection.cursor("unspool_labels", binary=True) as cursor,
        ):
            cursor.itersize = _STEP
            for row in cursor.execute(statement("labels"), self._values()):
                found[_label(row[0])] += 1
        return Counts(dict(found))

    def change(self, id: str, change: Change) -> str:
        """Change a task, and return its id.

        :raises LookupError, TaskBusy: as ``base.Backend.change``.
        """
        match change:
            case RunNow():
                number = self._run_now(id)
            case Remove():
                number = self._change(id, "remove")
            case Reprioritise(priority):
                number = self._change(id, "reprioritise", rank=UNNUMBERED if priority is None else priority)
        return self._names.id(number)

    def _run_now(self, id: str) -> int:
        try:
            return self._change(id, "run_now")
        except SpoolerUnusable as error:
            if not isinstance(error.__cause__, psycopg.errors.UniqueViolation):
                raise
        with self._connector.lend() as connection:
            values = self._values(id=self._names.number(id))
            row = connection.execute(statement("holder"), values).fetchone()
        if row is None:
            raise TaskBusy(f"task {id} has just changed; look again")
        raise kept_out(id, self._names.id(row[0]))

    def _change(self, id: str, name: str, **values: int) -> int:
        try:
            return self._changed(id, name, {"dead": [], "living": []} | values)
        except TaskBusy:  # the process that started it may have ended, which is expensive to check
            with self._connector.lend() as connection:
                values = self._values(ids=[self._names.number(id)], grace=GRACE)
                absent = judge(connection.execute(statement("miss"), values).fetchall())
            if not absent["dead"]:
                raise
        return self._changed(id, name, absent | values)

    def _changed(self, id: str, name: str, more: Mapping[str, Any]) -> int:
        """Carry out the statement of a change, and return the task's number.

        :param more: the supervisors that cannot return, the workers that are alive without theirs, and the new values.
        """
        number = self._names.number(id)
        values = self._values(id=number, **more)
        with self._connector.lend() as connection, connection.transaction():
            if number is not None:
                connection.execute(statement("grasp"), values)
            row = connection.execute(statement("hold"), values).fetchone() if number is not None else None
            if row is not None and not row[0]:
                raise TaskBusy(
                    f"task {id} is running, or {MOVING}; ask again when that has ended. If its supervisor has lost its "
                    f"connection and does not come back within {GRACE:g} s, the task is free"
                )
            if number is None or row is None or connection.execute(statement(name), values).fetchone() is None:
                raise LookupError(f"no task {id} in spooler {self._names.name}")
        return number

    def _one(self, id: str, *, whole: bool) -> tuple[Entry, Envelope | None] | None:
        number = self._names.number(id)
        if number is None:
            return None
        values = self._values(id=number, whole=whole)
        with self._connector.lend() as connection:
            row = connection.execute(statement("task"), values, binary=True).fetchone()
        return row and self._entry(row, whole=whole)

    def _values(self, **more: Any) -> dict[str, Any]:
        values = {"clock": self._now(), "claims": CLAIMS, "processes": PROCESSES, "moving": MOVING}
        return values | self._names.values() | more

    def _entry(self, row: Any, *, whole: bool = False) -> tuple[Entry, Envelope | None]:
        number, rank, due, attempts, reason, shown, size, data = row
        label = "?"
        try:
            label = task_label(wire.load_vars(data).vars)
        except Damaged as error:
            reason = reason or str(error)
        priority = None if rank == UNNUMBERED else rank
        entry = Entry(
            self._names.id(number), _STATES[shown], self._names.name, label, priority, due, attempts, size, reason
        )
        return entry, Envelope(data, priority, due, label) if whole else None


def _label(data: bytes) -> str:
    try:
        return task_label(wire.load_vars(data).vars)
    except Damaged:
        return "?"
