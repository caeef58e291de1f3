"""The content of claimed tasks, read and verified."""

import struct
from collections.abc import Sequence
from typing import NamedTuple

from ... import wire
from ...errors import Damaged
from ...message import Claim, Envelope
from ...retry import MAX_CRASHES
from ..base import UNNUMBERED
from .names import Names
from .session import Session
from .sqlstate import Transient

__all__ = ["Content", "Row"]

_double = struct.Struct("!d").unpack


class Row(NamedTuple):
    """A row of ``claim.sql``."""

    number: int
    data: bytes | None
    """None if the task is large, and has to be read by itself."""
    attempts: int
    crashes: int
    fence: int
    rank: int
    unhandled: int
    due: float
    locked: bool
    """Whether the session has the lock of the claim."""

    @classmethod
    def of(cls, row: Sequence[bytes | None]) -> "Row":
        """Return a row from the server's binary form."""
        number, data, attempts, crashes, fence, rank, unhandled, due, locked = row
        integer = int.from_bytes
        return cls(
            integer(number or b""), data, integer(attempts or b""), integer(crashes or b""), integer(fence or b""),
            integer(rank or b""), integer(unhandled or b""), _double(due or b"")[0], locked == b"\1",
        )  # fmt: skip


class Content:
    """Reads claims from rows.

    :param max_size: the maximum size of a task's body in bytes.
    """

    def __init__(self, session: Session, names: Names, max_size: int) -> None:
        self._session = session
        self._names = names
        self._max_size = max_size

    def claim(self, ref: str, row: Row) -> Claim:
        """Return the claim of a row. A task with ``MAX_CRASHES`` crashes has only its variables.

        :raises Damaged: if its content must not be used.
        :raises Transient: if the server cannot return it now.
        :raises MemoryError: if it does not fit into this process.
        """
        number, data, attempts, crashes, fence, rank, unhandled, due, _ = row
        if data is None:
            data = self._read(number, fence, whole=crashes < MAX_CRASHES)
        envelope = Envelope(data, _priority(rank), due)
        return Claim(self._names.id(number), ref, envelope, attempts, crashes, fence, unhandled, fence)

    def _read(self, number: int, fence: int, *, whole: bool) -> bytes:
        """Return the content of a large task, or only its variables without ``whole``."""
        most = self._max_size + wire.HEADER_SIZE + wire.MAX_VARS
        values = {"id": number, "fence": fence, "most": most, "whole": whole, "head": wire.HEADER_SIZE + wire.MAX_VARS}
        row = self._session.execute("read", values)
        if row is None:
            raise Transient(f"task {self._names.id(number)} was given to another worker while it was read")
        size, data = row
        if data is None:
            raise Damaged(
                f"{size} bytes, and max_task_size allows {self._max_size}; raise UNSPOOL_MAX_TASK_SIZE, then retry the "
                "task"
            )
        return bytes(data)


def _priority(rank: int) -> int | None:
    return None if rank == UNNUMBERED else rank
