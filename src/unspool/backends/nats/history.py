"""The history of runs: a stream of records, bounded by its limits."""

import json
from collections.abc import Sequence

from ...message import Record
from .cluster import Cluster
from .jetstream import JetStream
from .names import is_piece
from .requests import Request, new_id
from .stored import Stored

__all__ = ["History"]

_ALL = 1 << 40
_MATCHES = 10


class History:
    """The runs of a spooler."""

    def __init__(self, place: Cluster) -> None:
        self._place = place

    def add(self, records: Sequence[Record]) -> None:
        """Store these records."""
        names = self._place.names
        if self._place.keeps_history:
            self._place.publish_all(
                [Request(names.record(one.id), json.dumps(one).encode(), new_id()) for one in records]
            )

    def matching(self, piece: str) -> list[str]:
        """Return the ids of a few tasks whose tokens begin or end with this piece."""
        if self.latest(whole := f"{self._place.name}/{piece}", 1):  # without reading all runs
            return [whole]
        ids = dict.fromkeys(record.id for record in self.latest(None, _ALL))
        return [id for id in ids if is_piece(piece, id.rpartition("/")[2])][:_MATCHES]

    def latest(self, id: str | None, limit: int) -> list[Record]:
        """Return the newest runs, newest first; of one task if ``id`` is given."""
        return self._place.call(lambda stream: self._latest(stream, id, limit))

    def _latest(self, stream: JetStream, id: str | None, limit: int) -> list[Record]:
        names = self._place.names
        if id is not None:
            found = list(stream.read(names.history, names.record(id)))
            records = [record for record in map(_record, found) if record is not None and record.id == id]
        else:
            info = stream.info(names.history)
            if info is None:
                return []
            start = max(info["state"]["last_seq"] - limit + 1, 1)
            subject = f"{names.root}.history.*"
            found = list(stream.read(names.history, subject, start=start))
            records = [record for record in map(_record, found) if record is not None]
        return records[: -limit - 1 : -1] if limit else []


def _record(stored: Stored) -> Record | None:
    try:
        return Record.of(json.loads(stored.data))
    except (ValueError, RecursionError):
        return None  # not a record of unspool
