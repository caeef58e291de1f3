"""Carries tasks from one queue to another, each exactly once, in batches: five steps that ``backends.depot`` argues.

Whoever carries them may be killed anywhere. The first thing that a carrier does is to finish what another has begun.
"""

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

from .. import address, points, registry, wire
from ..backends.base import Backend
from ..backends.depot import Depot, Movable, Parcel
from ..errors import Damaged, OptionRefused, Refused, SpoolerUnusable
from ..message import State

__all__ = ["Batch", "Carrier", "Stayed", "carrier_between"]


class Stayed(NamedTuple):
    """A task that was not carried: which, and why."""

    id: str
    reason: str


class Batch(NamedTuple):
    """What came of one batch."""

    moved: Sequence[Parcel] = ()
    stayed: Sequence[Stayed] = ()


_identity = re.compile(r"#[0-9a-f]{16}\Z")


def _named(parcel: Parcel) -> str:
    """Return the name of the destination that has staged a task, without its identity."""
    return _identity.sub("", parcel.destination)


class Carrier:
    """Carries tasks from one depot to another.

    :param name: the destination's, which the source notes.
    :param readdress: makes the bytes of a task those of the destination's; raises ``Damaged`` if it must not go there.
    :param refuse: True to set what must not go there aside as corrupt, False to leave it as it was.
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
        """Finish what others have begun, and did not live to finish.

        :raises SpoolerUnusable: if one of the places is away. Nothing is lost or doubled; try again.
        """
        with self._letting_go():
            parcels = self._source.departures()
            staged_here = (self._here(), self._name)  # an older version has recorded the name alone
            known = [parcel for parcel in parcels if parcel.destination in staged_here]
            self._finish(known)
            fresh = [parcel for parcel in parcels if self._is_for(parcel) and parcel.destination not in staged_here]
            batch = self._go(fresh)
            stayed = [
                Stayed(one.id, f"is on its way to {_named(one)}, which has accepted it; carry on to there first")
                for one in parcels
                if not self._is_for(one)
            ]
            return Batch([*known, *batch.moved], [*stayed, *batch.stayed])

    def carry(self, ids: Iterable[str]) -> Batch:
        """Carry tasks by their ids; in neither list of the batch are those that were running, not there any more, or
        too many for one batch.

        :raises SpoolerUnusable: if one of the places is away. What had not arrived is where it was.
        """
        with self._letting_go():
            return self._go(self._source.leave(ids))

    def _here(self) -> str:
        """Return the destination as the source records it: its name, and its identity if it has one."""
        identity = self._destination.identity
        return f"{self._name}#{identity}" if identity else self._name

    def _is_for(self, parcel: Parcel) -> bool:
        """Return whether a task is to be staged here: no place has staged it, or only a former one of this name."""
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
            except Damaged as error:
                bad.append((parcel, str(error)))
        here = self._here()  # before: if the place is replaced meanwhile, the tasks are staged again
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
        """Return what the destination accepts. If it refuses something it is offered the tasks one by one, and ``bad``
        gets those that it does not take."""
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
        """What fails in the middle is let go of, for ``resume`` to find."""
        try:
            yield
        except BaseException:
            self._source.release()
            raise


def carrier_between(source: Backend, destination: Backend, *, vouch: bool = False, refuse: bool = False) -> Carrier:
    """Return a carrier of tasks from one spooler to another.

    :param vouch: True to sign, where a secret key is set, what carries no signature at all.
    :param refuse: True to set what cannot go there aside as corrupt.
    :raises OptionRefused: if they are the same spooler, or of a kind that tasks cannot be carried from or to.
    """
    if address.real(source.name) == address.real(destination.name):
        raise OptionRefused(f"spooler {source.name} and {destination.name} are the same; name two")
    readdress = partial(
        wire.readdress,
        queue=address.queue_of(destination.name),
        old=registry.signer(source.name),
        new=registry.signer(destination.name),
        vouch=vouch,
    )
    return Carrier(_depot(source), _depot(destination), destination.name, readdress, refuse=refuse)


def _depot(one: Backend) -> Depot:
    if not isinstance(one, Movable):
        raise OptionRefused(f"spooler {one.name} is of a kind that tasks cannot be carried from or to")
    return one.depot
