"""The forwarded spoolers and their destinations."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from .. import config
from ..backends.base import Backend

if TYPE_CHECKING:
    from ..runtime.forwarder import Forwarder

__all__ = ["Pair", "forwarded", "forwarder"]

Pair = tuple[Backend, Backend]
"""A directory, and the destination of its tasks."""


def forwarded(chosen: Iterable[Backend]) -> list[Pair]:
    """Return the forwarded spoolers among these, each with its destination."""
    found = ((backend, config.destination(backend.name)) for backend in chosen)
    return [(backend, config.backend(name)) for backend, name in found if name is not None]


def forwarder(pairs: Sequence[Pair], *, burst: bool = False, lifeline: int | None = None) -> "Forwarder":
    """Return the forwarder of these routes."""
    from ..runtime.forwarder import Forwarder, Route

    routes = [
        Route(source, destination, config.carrier(source, destination, refuse=True)) for source, destination in pairs
    ]
    return Forwarder(routes, burst=burst, lifeline=lifeline)
