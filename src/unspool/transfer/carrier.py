"""The transfer of tasks from one queue to another, each exactly once, in the five steps that ``backends.depot`` argues.

The process may be killed at any point. So a carrier first completes the transfers that another one has begun.
"""

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from .. import address, points, registry, wire
from ..backends.base import Backend
from ..backends.depot import Depot, Movable, Parcel
from ..errors import Damaged, OptionRefused, PayloadRefused, Refused, SpoolerUnusable
from ..message import State

__all__ = ["Batch", "Carrier", "Stayed", "carrier_between"]


class Stayed(NamedTuple):
    """A task that was not transferred, and why."""

    id: str
    reason: str


class Batch(NamedTuple):
    """The result of one batch."""

    moved: Sequence[Parcel] = ()
    stayed: Sequence[Stayed] = ()


_identity = re.compile(r"#[0-9a-f]{16}\Z")


def _named(parcel: Parcel) -> str:
    """Return the name of the destination that has staged a task, without its identity."""
    return _identity.sub("", parcel.destination)


class Carrier:
    """Transfers tasks from one depot to another.

    :param name: the name of the destination, which the source records.
    :param readdress: returns the bytes of a task for the destination. It raises ``Damaged`` if the task must not be
        transferred.
    :param refuse: True to set tasks aside as corrupt that cannot be transferred, False to leave them unchanged.
    """

    def __init__(
        self,
        source: Depot,
        destination: Depot,
        name: str,
        readdress: Callable[[bytes], bytes] = bytes,
        *,
        refuse: bool = False,
    ) -> None:
        self._source = source
        self._destination = destination
        self._name = name
        self._readdress = readdress
        self._refuse = refuse

    def resume(self) -> Batch:
        """Complete the transfers of processes that have died.

        :raises SpoolerUnusable: if the source or destination is away. No task is lost or duplicated; try again.
        """
        with self._letting_go():
            parcels = self._source.departures()
            staged_here = (self._here(), self._name)  # older versions record only the name
            known = [parcel for parcel in parcels if parcel.destination in staged_here]
            self._finish(known)
            fresh = [parcel for parcel in parcels if self._is_for(parcel) and parcel.destination not in staged_here]
            batch = self._go(fresh)
            stayed = [
                Stayed(one.id, f"is being moved to {_named(one)}, which has accepted it; complete that move first")
                for one in parcels
                if not self._is_for(one)
            ]
            return Batch([*known, *batch.moved], [*stayed, *batch.stayed])

    def carry(self, ids: Iterable[str]) -> Batch:
        """Transfer tasks by their ids. The result does not contain tasks that are running, do not exist, or exceed the
        size of a batch.

        :raises SpoolerUnusable: if the source or destination is away. Tasks that have not arrived stay at the source.
        """
        with self._letting_go():
            return self._go(self._source.leave(ids))

    def _here(self) -> str:
        """Return the destination as the source records it: its name, and its identity if it has one."""
        identity = self._destination.identity
        return f"{self._name}#{identity}" if identity else self._name

    def _is_for(self, parcel: Parcel) -> bool:
        """Return whether a task must be staged here: it was staged nowhere, or at a former destination of this name."""
        return parcel.destination == "" or _named(parcel) == self._name

    def _go(self, parcels: Sequence[Parcel]) -> Batch:
        if not parcels:
            return Batch()
        points.reach("carry.begun")
        good: list[Parcel] = []
        bad: list[tuple[Parcel, str]] = []
        for parcel in parcels:
            try:
                good.append(parcel if parcel.state is State.CORRUPT else self._addressed(parcel))
            except (Damaged, PayloadRefused) as error:
                bad.append((parcel, str(error)))
        here = self._here()  # before staging: if the destination is replaced meanwhile, the tasks are staged again
        try:
            accepted = self._offer(good, bad)
        except SpoolerUnusable:
            self._source.stay(parcels)
            raise
        points.reach("carry.accepted")
        for parcel, reason in bad:
            self._source.stay([parcel], reason if self._refuse else "")
        moved = self._source.left(accepted, here) if accepted else []
        points.reach("carry.noted")
        self._finish(moved)
        return Batch(moved, [Stayed(parcel.id, reason) for parcel, reason in bad])

    def _addressed(self, parcel: Parcel) -> Parcel:
        return parcel._replace(data=self._readdress(parcel.data))

    def _offer(self, parcels: Sequence[Parcel], bad: list[tuple[Parcel, str]]) -> Sequence[Parcel]:
        """Return the tasks that the destination accepts. After a refusal, offer them one by one, and add refused ones
        to ``bad``.
        """
        try:
            if parcels:
                self._destination.accept(parcels)
            return parcels
        except Refused as error:
            if len(parcels) == 1:
                bad.append((parcels[0], str(error)))
                return []
        return [taken for parcel in parcels for taken in self._offer([parcel], bad)]

    def _finish(self, parcels: Sequence[Parcel]) -> None:
        if parcels:
            self._destination.confirm(parcels)
            points.reach("carry.confirmed")
            self._source.gone(parcels)
            points.reach("carry.done")

    @contextlib.contextmanager
    def _letting_go(self) -> Iterator[None]:
        """After an error, release the tasks in transfer, so that ``resume`` finds them."""
        try:
            yield
        except BaseException:
            self._source.release()
            raise


def carrier_between(source: Backend, destination: Backend, *, vouch: bool = False, refuse: bool = False) -> Carrier:
    """Return a carrier between two spoolers.

    :param vouch: True to sign unsigned tasks, if a secret key is set.
    :param refuse: True to set tasks aside as corrupt that cannot be transferred.
    :raises OptionRefused: if they are the same spooler, or if one of them does not support transfers.
    """
    if address.real(source.name) == address.real(destination.name):
        raise OptionRefused(f"spoolers {source.name} and {destination.name} are the same; name two different ones")
    old, new = registry.seal(source).signer, registry.seal(destination)

    def readdress(data: bytes) -> bytes:
        data = wire.readdress(data, address.queue_of(destination.name), old, new.signer, vouch=vouch)
        new.check(wire.load(data, None))
        return data

    return Carrier(_depot(source), _depot(destination), destination.name, readdress, refuse=refuse)


def _depot(one: Backend) -> Depot:
    if not isinstance(one, Movable):
        raise OptionRefused(f"spooler {one.name} does not support moving tasks")
    return one.depot
