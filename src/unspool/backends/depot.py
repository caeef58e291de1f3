"""How tasks leave a queue and arrive in another one: the basis of ``move`` and ``forward`` on every backend.

A task goes in five steps, and each is kept for good before the next begins::

    leave     at the source no worker runs it any more; it is still listed there
    accept    at the destination it is there, and is not run yet
    left      the source has noted that, and which destination it is
    confirm   the destination runs it like any other
    gone      the source has forgotten it

Each may be repeated without harm, and the source alone knows how far a task has come. So whoever carries tasks may be
killed at any point: the next one asks the source for what is under way (``departures``) and goes on. The destination
need remember nothing of what it has run: before ``left`` it runs nothing, and after ``left`` nothing is accepted again.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from ..message import State
from .base import Feed

__all__ = ["MOVING", "Depot", "Movable", "Outbox", "Parcel"]

MOVING = "is being moved; 'unspool move' or 'unspool forward' again takes it on"
"""What a listing says of a task that has begun to leave."""


class Parcel(NamedTuple):
    """A task on its way, with all that goes along with it.

    :param key: what it is known by at the destination until it is confirmed: at most 64 letters, digits, ``-`` and
        ``_``. The source has chosen it, for this task alone, and does not change it any more.
    :param id: what it was called at the source.
    :param state: ``READY`` whenever it waits, ``DEAD`` or ``CORRUPT``.
    :param data: the wire form, whole or not.
    :param due: unix seconds.
    :param attempts: runs begun; ``crashes``: those that ended with their worker.
    :param reason: why it was set aside.
    :param destination: where it has been accepted, once the source has noted that.
    :param token: the source's own.
    """

    key: str
    id: str
    state: State
    data: bytes
    priority: int | None
    due: float
    attempts: int = 0
    crashes: int = 0
    reason: str = ""
    destination: str = ""
    token: Any = None


class Depot(Protocol):
    """A queue as a source and as a destination. What is synced is synced whatever the setting of durability says."""

    # --- the source

    def leave(self, ids: Iterable[str]) -> list[Parcel]:
        """Take tasks that are not running, for the life of this process. Those that are running, or not there, are left
        out; so are the last ones, where all would be too many bytes to be held at once.

        :raises SpoolerUnusable: if the place cannot be used.
        """

    def departures(self) -> list[Parcel]:
        """Take the tasks that have begun to leave and have no live carrier.

        :raises SpoolerUnusable: if the place cannot be used.
        """

    def release(self) -> None:
        """Let go of all that this process carries, so that ``departures`` finds it."""

    def stay(self, parcels: Sequence[Parcel], corrupt: str = "") -> None:
        """Put tasks that have not ``left`` back, as they were.

        :param corrupt: why they are set aside as corrupt instead.
        """

    def left(self, parcels: Sequence[Parcel], destination: str) -> list[Parcel]:
        """Note that they are accepted there; return those that are still this process's to carry."""

    def gone(self, parcels: Sequence[Parcel]) -> None:
        """Forget the tasks that have ``left`` and are confirmed."""

    # --- the destination

    def accept(self, parcels: Sequence[Parcel]) -> None:
        """Store tasks, each once however often it is offered. They are neither run nor listed yet.

        :raises PayloadRefused: if it does not take one of them; then those before it may have been kept.
        :raises SpoolerUnusable: if it cannot; then some of them may have been kept.
        """

    def confirm(self, parcels: Sequence[Parcel]) -> None:
        """Make what was accepted tasks of this queue, in order. What is so already is left as it is.

        :raises SpoolerUnusable: if it cannot; then those before it may have become so.
        """


@runtime_checkable
class Movable(Protocol):
    """A backend whose tasks can be carried to another, and another's to it."""

    @property
    def depot(self) -> Depot:
        """Its side of that."""


@runtime_checkable
class Outbox(Protocol):
    """A backend that can be asked for all that waits, to be sent on."""

    @property
    def ahead(self) -> float:
        """Seconds by which the clock of an outbox is ahead, so that all that waits is due."""

    def outbox(self) -> Feed:
        """Return the waiting tasks, due or not, in order."""
