"""The live processes of a queue. Every machine sees the same."""

import contextlib
import weakref

from ... import forks
from ...errors import SpoolerUnusable
from ..base import WorkerInfo
from ..registration import Registration
from .claims import Claims
from .connection import Connector
from .machine import HOST, host_of
from .names import Names
from .session import PROCESSES, Session
from .sql import statement

__all__ = ["Registrations"]


class Registrations:
    """Implements ``base.Backend.register`` and ``live`` with a row for each process."""

    def __init__(self, connector: Connector, session: Session, names: Names) -> None:
        self._connector = connector
        self._session = session
        self._names = names
        self._registrations: weakref.WeakSet[PostgresRegistration] = weakref.WeakSet()
        self.ran: set[str] = set()
        """The tasks that children of this process were running when they ended."""
        self.claims: Claims | set[int] = set()
        """The tasks that this process has begun and not settled. A worker shares this set with its supervisor."""

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
        """Return the tasks that children of this process run, and those that they have ended but not settled."""
        shown = {ref for registration in self._registrations if (ref := registration.ref())}
        return shown.union(*(map(str, registration.claims.read()) for registration in self._registrations))

    def take_back(self, ref: str) -> None:
        """Note that a claim of a child of this process was taken back before its run."""
        for registration in self._registrations:
            registration.claims.take_back(int(ref))


class PostgresRegistration(Registration):
    """The registration of a process.

    Other processes see the lock of this process's session and its claims. A supervisor sees its worker's memory too.
    """

    def __init__(self, registrations: Registrations, session: Session, role: str) -> None:
        super().__init__(role)
        self._registrations = registrations
        self._session = session
        self.claims = Claims()
        self._is_shown = False  # whether the session of this process has the lock
        forks.register(after_in_child=self._begin_in_child)
        if role != "worker":  # a worker is registered before the fork, and has a session after it
            self._show()

    def running(self, ref: str, since: float) -> None:
        if not self._is_shown:
            self._show()
        super().running(ref, since)

    def close(self) -> None:
        """Remove the entry. A worker's supervisor keeps the ref of the task that the worker ran."""
        if self._is_shown:
            self._session.drop(self._role)
            self._is_shown = False
        elif ref := self.ref():
            self._registrations.ran.add(ref)
        self.claims.clear()
        self.clear()

    def _begin_in_child(self) -> None:
        self._is_shown = False

    def _show(self) -> None:
        self._is_shown = True
        if self._role == "worker":
            self._registrations.claims = self.claims
            with contextlib.suppress(SpoolerUnusable):  # the next claim raises it too
                self._session.show(self._role)
        else:
            self._session.show(self._role)
