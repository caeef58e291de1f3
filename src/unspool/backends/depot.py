"""The transfer of tasks between queues: the basis of ``move`` and ``forward`` on every backend.

A transfer has five steps. Each is stored permanently before the next begins::

    leave     prepare: at the source, no worker runs the task any more; it is still listed there
    accept    stage: the destination has stored the task, and does not run it yet
    left      the source has recorded that, and the destination
    confirm   commit: the destination runs the task like any other
    gone      the source has deleted the task

``stay`` aborts a transfer before ``left``. Each step may be repeated without harm, and only the source records the
progress. The process that carries tasks may therefore be killed at any point: the next one asks the source for tasks in
transfer (``departures``) and continues. The destination keeps no record of the tasks that it has run: before ``left``
it runs none of them, and after ``left`` none is staged again, unless another place has the name of the destination by
then (``identity``).
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from ..message import State, Unique
from .base import Feed

__all__ = ["MOVING", "Depot", "Movable", "Outbox", "Parcel"]

MOVING = "is being moved; 'unspool move' or 'unspool forward' again takes it on"
"""The reason in a listing for a task in transfer."""


class Parcel(NamedTuple):
    """A task in transfer.

    :param key: its key at the destination until it is committed: at most 64 letters, digits, ``-`` and ``_``. The
        source chooses it for this task alone and does not change it.
    :param id: its id at the source.
    :param state: ``READY`` if it waits, ``DEAD`` or ``CORRUPT``.
    :param data: the wire form, which may be damaged.
    :param due: Unix time.
    :param attempts: runs that were started.
    :param crashes: runs that ended with their worker.
    :param reason: the reason why it is a dead letter.
    :param destination: the destination that has staged it, once the source has recorded that.
    :param token: private to the source.
    :param unique: its key, if it has one. If another task has it at the destination, that task keeps it.
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
    unique: Unique | None = None


class Depot(Protocol):
    """A queue as a source and as a destination of transfers.

    All steps are synced to disk, whatever the setting of durability.
    """

    # --- the source

    def leave(self, ids: Iterable[str]) -> list[Parcel]:
        """Prepare tasks that are not running. This process carries them.

        Running and missing tasks are omitted. Further tasks are omitted if all together would be too large to hold at
        once.

        :raises SpoolerUnusable: if the queue cannot be used.
        """

    def departures(self) -> list[Parcel]:
        """Take over the tasks in transfer whose carrier has ended.

        :raises SpoolerUnusable: if the queue cannot be used.
        """

    def release(self) -> None:
        """Release all tasks that this process carries, so that ``departures`` finds them."""

    def stay(self, parcels: Sequence[Parcel], corrupt: str = "") -> None:
        """Abort the transfer of tasks that have not ``left``, and restore them.

        :param corrupt: a reason to make them corrupt instead; empty to restore them.
        """

    def left(self, parcels: Sequence[Parcel], destination: str) -> list[Parcel]:
        """Record that the destination has staged the tasks. Return those that this process still carries."""

    def gone(self, parcels: Sequence[Parcel]) -> None:
        """Delete tasks that have ``left`` and are committed at the destination."""

    # --- the destination

    @property
    def identity(self) -> str:
        """Return what distinguishes this place from a later one of the same name; empty if the name is enough.

        The source records it with the name. If a directory was replaced after it had staged a task, the task is staged
        again, in the new one.

        :raises SpoolerUnusable: if the queue cannot be used.
        """

    def accept(self, parcels: Sequence[Parcel]) -> None:
        """Stage tasks, each once however often it is offered. They are neither run nor listed yet.

        :raises PayloadRefused: if a task is not accepted. The tasks before it may be staged.
        :raises SpoolerUnusable: if it fails. Some tasks may be staged.
        """

    def confirm(self, parcels: Sequence[Parcel]) -> None:
        """Commit staged tasks to this queue, in order. Tasks that are already committed stay unchanged.

        :raises SpoolerUnusable: if it fails. Some tasks may be committed.
        """


@runtime_checkable
class Movable(Protocol):
    """A backend whose tasks can be moved to and from other backends."""

    @property
    def depot(self) -> Depot:
        """Return its end of a transfer."""


@runtime_checkable
class Outbox(Protocol):
    """A backend that can list all waiting tasks, to forward them."""

    @property
    def ahead(self) -> float:
        """Seconds by which the clock of an outbox is ahead, so that all waiting tasks are due."""

    def outbox(self) -> Feed:
        """Return a feed of the waiting tasks, due or not, in order."""
