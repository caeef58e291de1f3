"""A spooler for one test, and what it holds."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from .. import codec, config
from ..backends.base import Backend
from ..message import State
from .running import Run, run_all

__all__ = ["Spooled", "TemporarySpooler", "temporary_spooler"]

_WAITING = frozenset({State.READY, State.DEFERRED})


class Spooled(NamedTuple):
    """A task that waits. For a function call ``task`` is ``module:qualname``, and ``args`` and ``kwargs`` are set;
    for any other message ``task`` is its text, and ``payload`` is set. ``due`` in unix seconds."""

    id: str
    task: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    payload: Any
    priority: int | None
    due: float
    state: State
    attempts: int


class TemporarySpooler:
    """What a test asks a spooler.

    :param name: the path of its directory.
    """

    def __init__(self, name: str, backend: Backend) -> None:
        self.name = name
        self.backend = backend

    def tasks(self) -> list[Spooled]:
        """The tasks that wait, in the order in which they would run. This unpickles them."""
        return [spooled for entry in self.backend.entries(_WAITING) if (spooled := self._spooled(entry.id))]

    def run(self, *, limit: int = 10_000) -> list[Run]:
        """Runs what is ready, here and now; see :func:`unspool.testing.run_all`."""
        return run_all(self.backend, limit=limit)

    def _spooled(self, id: str) -> Spooled | None:
        found = self.backend.read(id)
        if found is None or found[1] is None:
            return None
        entry, message = found[0], codec.decode(found[1])
        call: Mapping[str, Any] = message.payload if message.task is not None else {}
        return Spooled(
            entry.id,
            message.task or message.message,
            call.get("arg", ()),
            call.get("kwg", {}),
            None if call else message.payload,
            entry.priority,
            entry.due,
            entry.state,
            entry.attempts,
        )


@contextlib.contextmanager
def temporary_spooler(path: str) -> Iterator[TemporarySpooler]:
    """Makes a directory the only spooler of this process, and afterwards sets everything as it was before."""
    before = dict(config._configured)
    config.configure(spoolers=[path], durability="relaxed")
    backend = config.backend(path)
    try:
        yield TemporarySpooler(path, backend)
    finally:
        backend.close()
        config.configure(**{"spoolers": None, "durability": None} | before)
