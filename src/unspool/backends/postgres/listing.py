"""Listings of a queue, and changes of single tasks: the basis of ``ls``, ``show``, ``retry`` and ``rm``.

Whether a task runs is read from the server's table of locks. A change locks the task's row, so a worker that would
claim the task waits.
"""

from array import array
from collections.abc import Callable, Iterator
from typing import Any

from ... import wire
from ...codec import task_label
from ...errors import Damaged, TaskBusy
from ...message import Entry, Envelope, State
from ..base import UNNUMBERED, Summary
from ..depot import MOVING
from .absence import GRACE, judge
from .connection import Connector
from .names import Names
from .session import CLAIMS, PROCESSES
from .sql import statement

__all__ = ["Listing"]

_STATES = {-1: State.RUNNING, 0: State.READY, 1: State.DEFERRED, 2: State.DEAD, 3: State.CORRUPT}
_NUMBERS = {state: number for number, state in _STATES.items()}
_STEP = 1000  # rows fetched at a time


class Listing:
    """The tasks of a queue as entries."""

    def __init__(self, connector: Connector, names: Names, now: Callable[[], float | None]) -> None:
        self._connector = connector
        self._names = names
        self._now = now

    def entries(self, states: frozenset[State], limit: int | None) -> Iterator[Entry]:
        """Yield running tasks, then ready ones in order of execution, then deferred ones by due time, then dead
        letters.

        No transaction is open while the caller handles an entry. Its lock on the table would block a session that locks
        the table, and that session would block all others, including the caller's own statements. The numbers of the
        tasks are therefore read first. Tasks that have left these states since then are skipped.
        """
        values = self._values(states=[_NUMBERS[state] for state in states], limit=limit)
        if limit is not None and limit <= _STEP:
            yield from self._some(values)
            return
        numbers = self._numbers(values)
        for start in range(0, len(numbers), _STEP):
            yield from self._some(values | {"ids": numbers[start : start + _STEP].tolist(), "limit": None})

    def _some(self, values: dict[str, Any]) -> list[Entry]:
        with self._connector.lend() as connection:
            # A prepared statement could get a plan that is not for the given tasks alone.
            rows = connection.execute(statement("entries"), values, prepare=False, binary=True).fetchall()
        return [self._entry(row)[0] for row in rows]

    def _numbers(self, values: dict[str, Any]) -> "array[int]":
        """Return the numbers of tasks in the order of the listing. A million of them takes 8 MB."""
        numbers = array("q")
        with (
            self._connector.lend() as connection,
            connection.transaction(),
            connection.cursor("unspool_entries", binary=True) as cursor,
        ):
            cursor.itersize = _STEP
            numbers.extend(row[0] for row in cursor.execute(statement("entries"), values | {"bare": True}))
        return numbers

    def summary(self) -> Summary:
        """Return the number of tasks in each state, and the earliest due time of the ready ones."""
        counts, oldest = dict.fromkeys(State, 0), None
        with self._connector.lend() as connection:
            for number, count, due in connection.execute(statement("counts"), self._values(), binary=True):
                counts[_STATES[number]] = count
                oldest = due if _STATES[number] is State.READY else oldest
        return Summary(counts, oldest)

    def find(self, id: str) -> Entry | None:
        """Return the task with this id, or None."""
        found = self._one(id, whole=False)
        return found and found[0]

    def read(self, id: str) -> tuple[Entry, Envelope | None] | None:
        """Return a task with its envelope, or with None if the envelope is damaged."""
        return self._one(id, whole=True)

    def retry(self, id: str) -> str:
        """Make a task ready now and reset its attempts.

        :raises LookupError, TaskBusy: as ``base.Backend.retry``.
        """
        return self._names.id(self._change(id, "retry"))

    def remove(self, id: str) -> None:
        """Delete the task.

        :raises LookupError, TaskBusy: as ``base.Backend.remove``.
        """
        self._change(id, "remove")

    def _change(self, id: str, verb: str) -> int:
        try:
            return self._changed(id, verb, {"dead": [], "living": []})
        except TaskBusy:  # the process that started it may have ended, which is expensive to check
            with self._connector.lend() as connection:
                values = self._values(ids=[self._names.number(id)], grace=GRACE)
                absent = judge(connection.execute(statement("miss"), values).fetchall())
            if not absent["dead"]:
                raise
        return self._changed(id, verb, absent)

    def _changed(self, id: str, verb: str, absent: dict[str, list[int]]) -> int:
        """Change the task, and return its number.

        :param absent: the supervisors that cannot return, and the workers that are alive without theirs.
        """
        number = self._names.number(id)
        values = self._values(id=number, **absent)
        with self._connector.lend() as connection, connection.transaction():
            if number is not None:
                connection.execute(statement("grasp"), values)
            row = connection.execute(statement("hold"), values).fetchone() if number is not None else None
            if row is not None and not row[0]:
                raise TaskBusy(
                    f"task {id} is running, or {MOVING}; ask again when that has ended. If its supervisor has lost its "
                    f"connection and does not come back within {GRACE:g} s, the task is free"
                )
            if number is None or row is None or connection.execute(statement(verb), values).fetchone() is None:
                raise LookupError(f"no task {id} in spooler {self._names.name}")
        return number

    def _one(self, id: str, *, whole: bool) -> tuple[Entry, Envelope | None] | None:
        number = self._names.number(id)
        if number is None:
            return None
        values = self._values(ids=[number], states=list(_STATES), whole=whole)
        with self._connector.lend() as connection:
            row = connection.execute(statement("entries"), values, binary=True).fetchone()
        return row and self._entry(row, whole=whole)

    def _values(self, **more: Any) -> dict[str, Any]:
        values = {"clock": self._now(), "claims": CLAIMS, "processes": PROCESSES, "ids": None, "limit": None}
        return values | {"whole": False, "bare": False, "states": [], "moving": MOVING} | self._names.values() | more

    def _entry(self, row: Any, *, whole: bool = False) -> tuple[Entry, Envelope | None]:
        number, rank, due, attempts, reason, shown, size, data = row
        label, envelope = "?", None
        try:
            envelope = wire.load(data, None) if whole else wire.load_vars(data)
            label = task_label(envelope.vars)
        except Damaged as error:
            reason = reason or str(error)
            label = _label(data)
        priority = None if rank == UNNUMBERED else rank
        entry = Entry(
            self._names.id(number), _STATES[shown], self._names.name, label, priority, due, attempts, size, reason
        )
        return entry, envelope if whole else None


def _label(data: bytes) -> str:
    try:
        return task_label(wire.load_vars(data).vars)
    except Damaged:
        return "?"
