"""Transfer of tasks from and to a queue in PostgreSQL.

A task in transfer is a row with a state that no other part of the system reads. While it leaves, its carrier holds its
lock. A carrier that takes over a transfer raises the fence, so a carrier that was cut off and returns late changes
nothing.
"""

import contextlib
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ...message import State, Unique
from ..base import UNNUMBERED
from ..depot import Parcel
from .absence import GRACE, judge
from .connection import Connector
from .history import storable
from .names import Names
from .session import CLAIMS, PROCESSES, TASKS, Session
from .sql import statement
from .sqlstate import Away
from .timelimit import PATIENCE

__all__ = ["PostgresDepot"]

_STATES = {0: State.READY, 1: State.READY, 2: State.DEAD, 3: State.CORRUPT}
_NUMBERS = {State.READY: 0, State.DEAD: 2, State.CORRUPT: 3}
_MOST = 1000  # maximum number of tasks taken by one statement
_SAME = 1.0  # seconds; clocks that differ by less count as equal


class PostgresDepot:
    """Implement ``depot.Depot`` for PostgreSQL.

    :param check: raises ``PayloadRefused`` for envelopes that this queue does not accept.
    :param now: returns the current time for statements; None to use the server's clock.
    :param local: returns the current time of this program.
    :param changed: called after tasks were added to the queue.
    """

    def __init__(
        self,
        connector: Connector,
        session: Session,
        names: Names,
        now: Callable[[], float | None],
        local: Callable[[], float],
        changed: Callable[[], None],
    ) -> None:
        self._connector = connector
        self._session = session
        self._names = names
        self._now = now
        self._local = local
        self._changed = changed
        self._carried: set[int] = set()

    # --- the source

    def leave(self, ids: Iterable[str]) -> list[Parcel]:
        numbers = [number for id in itertools.islice(ids, _MOST) if (number := self._names.number(id)) is not None]
        if not numbers:
            return []
        absent = judge(self._session.rows("miss", self._values(ids=numbers, grace=GRACE)))
        return self._taken(self._session.rows("leave", self._values(ids=numbers, **absent)))

    def departures(self) -> list[Parcel]:
        self._session.patience = PATIENCE  # the first statement of a command, before any claim
        return self._taken(self._session.rows("departures", self._values()))

    def release(self) -> None:
        numbers, self._carried = list(self._carried), set()
        self._drop(numbers)
        with contextlib.suppress(Away):  # otherwise they are free already
            self._session.execute("let_go", self._values(ids=numbers))

    def stay(self, parcels: Sequence[Parcel], corrupt: str = "") -> None:
        self._session.execute("stay", self._fenced(parcels, corrupt=storable(corrupt)))
        self._let_go(parcels)
        self._changed()

    def left(self, parcels: Sequence[Parcel], destination: str) -> list[Parcel]:
        rows = self._session.rows("left", self._fenced(parcels, destination=destination))
        noted = {number for (number,) in rows}
        return [parcel._replace(destination=destination) for parcel in parcels if parcel.token[0] in noted]

    def gone(self, parcels: Sequence[Parcel]) -> None:
        self._session.execute("gone", self._fenced(parcels))
        self._let_go(parcels)

    def _taken(self, rows: Sequence[Any]) -> list[Parcel]:
        parcels = []
        for row in rows:
            number, fence, key, state, data, rank, due, attempts, crashes, reason, destination, *unique, _, now = row
            self._carried.add(number)
            self._session.tasks[number] = TASKS + number  # the session takes these locks again after it is reopened
            ahead = self._local() - now
            parcels.append(
                Parcel(
                    key,
                    self._names.id(number),
                    _STATES[state],
                    data,
                    None if rank == UNNUMBERED else rank,
                    due if abs(ahead) < _SAME else due + ahead,
                    attempts,
                    crashes,
                    reason,
                    destination or "",
                    (number, fence),
                    _unique(unique, ahead),
                )
            )
        return parcels

    def _let_go(self, parcels: Sequence[Parcel]) -> None:
        numbers = {parcel.token[0] for parcel in parcels}
        self._drop(numbers)
        self._carried -= numbers

    def _drop(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            self._session.tasks.pop(number, None)

    def _fenced(self, parcels: Sequence[Parcel], **more: Any) -> dict[str, Any]:
        ids, fences = [parcel.token[0] for parcel in parcels], [parcel.token[1] for parcel in parcels]
        return self._values(ids=ids, fences=fences, **more)

    # --- the destination

    @property
    def identity(self) -> str:
        return ""

    def accept(self, parcels: Sequence[Parcel]) -> None:
        values = self._values(
            local=self._local(),
            keys=[parcel.key for parcel in parcels],
            ranks=[UNNUMBERED if parcel.priority is None else parcel.priority for parcel in parcels],
            dues=[parcel.due for parcel in parcels],
            states=[_NUMBERS[parcel.state] for parcel in parcels],
            attempts=[parcel.attempts for parcel in parcels],
            crashes=[parcel.crashes for parcel in parcels],
            reasons=[storable(parcel.reason) for parcel in parcels],
            data=[parcel.data for parcel in parcels],
            twins=[parcel.unique and parcel.unique.key for parcel in parcels],
            starts=[parcel.unique and parcel.unique.start for parcel in parcels],
            untils=[parcel.unique and parcel.unique.end for parcel in parcels],
        )
        with self._connector.lend() as connection:
            connection.execute(statement("accept"), values, binary=True)

    def confirm(self, parcels: Sequence[Parcel]) -> None:
        values = self._values(keys=[parcel.key for parcel in parcels])
        with self._connector.lend() as connection:
            connection.execute(statement("confirm"), values, binary=True)
        self._changed()

    def _values(self, **more: Any) -> dict[str, Any]:
        values = {"clock": self._now(), "locks": TASKS, "claims": CLAIMS, "processes": PROCESSES}
        return values | self._names.values() | more


def _unique(columns: Sequence[Any], ahead: float) -> Unique | None:
    """Return the key in the columns ``key``, ``key_start`` and ``key_until`` of a row.

    :param ahead: seconds by which the clock of this program is ahead of the server's.
    """
    key, start, until = columns
    if key is None:
        return None
    return Unique(key, bool(start), math.inf if until is None else until if abs(ahead) < _SAME else until + ahead)
