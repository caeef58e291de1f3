"""A reserve of storage for workers when the storage of the servers is full.

Before a task can end and free its space, a worker writes a registration and the record of its run. To make room for
these, the stream of dead letters contains one large message that is not a task. A worker that finds no room deletes
this message and writes again. A supervisor restores it at its next full scan.
"""

import logging
from collections.abc import Mapping

from .jetstream import ApiError, Conflict, JetStream
from .names import Names
from .stored import ROOM

__all__ = ["Reserve"]

_log = logging.getLogger("unspool")
_SIZE = 1 << 20  # bytes: the default maximum of a message, by which the last one may exceed the limit


class Reserve:
    """The reserve of a spooler. The methods run in the event loop."""

    def __init__(self, names: Names, patience: float) -> None:
        self._names = names
        self._patience = patience
        self._complained = False

    async def keep(self, stream: JetStream) -> bool:
        """Write the reserve if it is missing and there is room for it.

        :returns: True if it was written: the storage was full before, and has room now.
        """
        names, patience = self._names, self._patience
        info = await stream.info(names.aside, count=names.reserve, patience=patience)
        if info is None or info.get("total"):
            return False
        data = bytes(max(min(_SIZE, stream.link.client.max_payload - ROOM), 0))
        try:
            await stream.publish(names.aside, names.reserve, data, replaces=(names.reserve, 0), patience=patience)
        except Conflict:
            return False  # another process has just written it
        except ApiError as error:
            if not error.is_full:
                raise
            return False
        return True

    async def publish(
        self,
        stream: JetStream,
        name: str,
        subject: str,
        data: bytes,
        headers: Mapping[str, str] | None = None,
        *,
        replaces: tuple[str, int] | None = None,
    ) -> int:
        """Store a message that a worker needs before it can begin a task, as ``store`` does.

        :raises ApiError: if there is no room. The first time, a line is logged.
        """
        try:
            seq = await self.store(stream, name, subject, data, headers, replaces=replaces)
        except ApiError as error:
            if error.is_full and not self._complained:
                _log.warning("no task is begun until there is room: %s", error)
                self._complained = True
            raise
        self._complained = False
        return seq

    async def store(
        self,
        stream: JetStream,
        name: str,
        subject: str,
        data: bytes,
        headers: Mapping[str, str] | None = None,
        *,
        replaces: tuple[str, int] | None = None,
    ) -> int:
        """Store a message as ``JetStream.publish`` does. If the storage is full, the reserve makes room for it.

        :raises ApiError: if there is no reserve either.
        """
        message, patience = (name, subject, data, headers), self._patience
        try:
            return await stream.publish(*message, replaces=replaces, patience=patience)
        except ApiError as error:
            if not error.is_full or not await self._spend(stream):
                raise
        return await stream.publish(*message, replaces=replaces, patience=patience)

    async def _spend(self, stream: JetStream) -> bool:
        """Delete the reserve, and return whether it existed."""
        names, patience = self._names, self._patience
        found = await stream.last(names.aside, names.reserve, patience=patience)
        return found is not None and await stream.delete(names.aside, found.seq, patience=patience)
