"""A reserve of storage for workers when the storage of the servers is full.

Before a task can end and free its space, a worker writes a registration and the record of its run. To make room for
these, the stream of dead letters contains one large message that is not a task. A worker that finds no room deletes
this message and writes again. A supervisor restores it at its next full scan.
"""

import logging
from collections.abc import Mapping

from .jetstream import JetStream
from .names import Names
from .requests import ApiError, Conflict
from .stored import ROOM

__all__ = ["Reserve"]

_log = logging.getLogger("unspool")
_SIZE = 1 << 20  # bytes: the default maximum of a message, by which the last one may exceed the limit


class Reserve:
    """The reserve of a spooler."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._complained = False

    def keep(self, stream: JetStream) -> bool:
        """Write the reserve if it is missing and there is room for it.

        :returns: True if it was written: the storage was full before, and has room now.
        """
        names = self._names
        info = stream.info(names.aside, count=names.reserve)
        if info is None or info.get("total"):
            return False
        data = bytes(max(min(_SIZE, stream.open().max_payload - ROOM), 0))
        try:
            stream.publish(names.aside, names.reserve, data, replaces=(names.reserve, 0))
        except Conflict:
            return False  # another process has just written it
        except ApiError as error:
            if not error.is_full:
                raise
            return False
        return True

    def publish(
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
            seq = self.store(stream, name, subject, data, headers, replaces=replaces)
        except ApiError as error:
            if error.is_full and not self._complained:
                _log.warning("no task is begun until there is room: %s", error)
                self._complained = True
            raise
        self._complained = False
        return seq

    def store(
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
        message = name, subject, data, headers
        try:
            return stream.publish(*message, replaces=replaces)
        except ApiError as error:
            if not error.is_full or not self._spend(stream):
                raise
        return stream.publish(*message, replaces=replaces)

    def _spend(self, stream: JetStream) -> bool:
        """Delete the reserve, and return whether it existed."""
        names = self._names
        found = stream.last(names.aside, names.reserve)
        return found is not None and stream.delete(names.aside, found.seq)
