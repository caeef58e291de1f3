"""The switches of a queue and its live processes, seen alike on every machine."""

import contextlib
import mmap
import os
import struct
import weakref

from ...errors import SpoolerUnusable
from ..base import WorkerInfo, check_period
from .claims import Claims
from .connection import Connector
from .machine import HOST, host_of
from .names import Names
from .session import PROCESSES, Session
from .sql import statement

__all__ = ["PostgresControl"]

_SIZE = 4096
_slot = struct.Struct("<qdH")  # pid, since, length of the ref behind it


class PostgresControl:
    """Implements ``base.Control`` with a row for the queue, and one for each process."""

    def __init__(self, connector: Connector, session: Session, names: Names, period: float) -> None:
        self._connector = connector
        self._session = session
        self._names = names
        self.default_period = period
        self._registrations: weakref.WeakSet[PostgresRegistration] = weakref.WeakSet()
        self.ran: set[str] = set()
        """What children of this process were running when they ended."""
        self.claims: Claims | set[int] = set()
        """The tasks that this process has begun and not settled. A worker shares them with its supervisor."""

    @property
    def paused(self) -> bool:
        return self._switches()[0]

    def pause(self) -> None:
        self._switch(paused=True)

    def resume(self) -> None:
        self._switch(paused=False)

    @property
    def period(self) -> float:
        return self._switches()[1]

    def set_period(self, seconds: float) -> None:
        self._switch(period=check_period(seconds))

    def register(self, role: str) -> "PostgresRegistration":
        registration = PostgresRegistration(self, self._session, role)
        self._registrations.add(registration)
        return registration

    def live(self) -> list[WorkerInfo]:
        values = self._names.values() | {"processes": PROCESSES}
        with self._connector.lend() as connection:
            rows = connection.execute(statement("live"), values, binary=True).fetchall()
        return [
            WorkerInfo(role, pid, "" if number is None else str(number), begun or 0.0, "" if host == HOST else host)
            for role, process, pid, number, begun in rows
            for host in [host_of(process)]
        ]

    def running_here(self) -> set[str]:
        """Return the tasks that the children of this process run, or have ended and not settled."""
        shown = {ref for registration in self._registrations if (ref := registration.ref())}
        return shown.union(*(map(str, registration.claims.read()) for registration in self._registrations))

    def _switches(self) -> tuple[bool, float]:
        with self._connector.lend() as connection:
            row = connection.execute(statement("switches"), self._names.values(), binary=True).fetchone()
        paused, period = row or (False, None)
        return paused, period or self.default_period

    def _switch(self, paused: bool | None = None, period: float | None = None) -> None:
        values = self._names.values() | {"paused": paused, "period": period}
        with self._connector.lend() as connection:
            connection.execute(statement("switch"), values, binary=True)


class PostgresRegistration:
    """Implements ``base.Registration``. Others see the lock of the process's session and what it has claimed. What
    it notes itself is for its parent, in memory that the two share."""

    def __init__(self, control: PostgresControl, session: Session, role: str) -> None:
        self._control = control
        self._session = session
        self._role = role
        self.claims = Claims()
        self._map = mmap.mmap(-1, _SIZE)
        self._shown = 0  # the process that shows it
        _slot.pack_into(self._map, 0, os.getpid(), 0.0, 0)
        if role != "worker":  # which is about to be forked
            self._show()

    def running(self, ref: str, since: float) -> None:
        if self._shown != os.getpid():
            self._show()
        name = ref.encode()
        self._map[_slot.size : _slot.size + len(name)] = name
        _slot.pack_into(self._map, 0, os.getpid(), since, len(name))

    def ref(self) -> str:
        _, _, length = _slot.unpack_from(self._map)
        return self._map[_slot.size : _slot.size + length].decode()

    def since(self) -> float:
        return float(_slot.unpack_from(self._map)[1])

    def detach(self) -> None:
        """Nothing: the child shows its own."""

    def close(self) -> None:
        if self._shown == os.getpid():
            self._session.drop(self._role)
            self._shown = 0
        elif ref := self.ref():
            self._control.ran.add(ref)
        self.claims.clear()
        _slot.pack_into(self._map, 0, 0, 0.0, 0)

    def _show(self) -> None:
        self._shown = os.getpid()
        if self._role == "worker":
            self._control.claims = self.claims
            with contextlib.suppress(SpoolerUnusable):  # a claim raises it too
                self._session.show(self._role)
        else:
            self._session.show(self._role)
