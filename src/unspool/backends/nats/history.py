"""The history of runs: a stream of records, bounded by its limits."""

import itertools
import json
from collections.abc import Iterator, Sequence

from ...message import Record
from ..page import FEW, LOOKED_AT, Page, RunPosition, RunQuery, page_of_runs
from .cluster import Cluster
from .jetstream import JetStream
from .names import is_piece
from .requests import Request, new_id
from .stored import Stored

__all__ = ["History"]

_FEWEST = 500  # runs read at a time


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

    def page(self, query: RunQuery, after: str, limit: int) -> Page:
        """Return runs, as ``base.Backend.page``."""
        start = RunPosition.load(after)
        if query.piece:
            return Page(runs=tuple(self._matching(query)))
        if query.id:
            runs = self._place.call(lambda stream: self._of_task(stream, query.id))
            found = [one for one in runs if start is None or one[1].number < start.number]
            return page_of_runs(query, found, limit)
        found, rest = self._place.call(lambda stream: self._before(stream, start, max(limit, _FEWEST)))
        page = page_of_runs(query, found, limit)
        return page if page.after else page._replace(after=rest)

    def _matching(self, query: RunQuery) -> Iterator[Record]:
        """Yield the last runs of a few tasks whose tokens begin or end with this part."""
        known, after, ids = self.page(RunQuery(id=f"{self._place.name}/{query.piece}"), "", 1).runs, "", set[str]()
        if known:  # without reading all runs
            yield from filter(query.wants, known)
            return
        while len(ids) < FEW:
            page = self.page(RunQuery(), after, LOOKED_AT)
            for run in page.runs:
                if run.id not in ids and len(ids) < FEW and is_piece(query.piece, run.id.rpartition("/")[2]):
                    ids.add(run.id)
                    yield run
            if not (after := page.after):
                return

    def _of_task(self, stream: JetStream, id: str) -> list[tuple[Record, RunPosition]]:
        """Return the runs of a task, newest first."""
        names = self._place.names
        found = map(_run, reversed(list(stream.read(names.history, names.record(id)))))
        return [one for one in found if one is not None and one[0].id == id]

    def _before(
        self, stream: JetStream, position: RunPosition | None, count: int
    ) -> tuple[list[tuple[Record, RunPosition]], str]:
        """Return some runs before a position, newest first, and the cursor of the earlier ones."""
        names = self._place.names
        info = stream.info(names.history)
        if info is None:
            return [], ""
        last = min(info["state"]["last_seq"], position.number - 1 if position else info["state"]["last_seq"])
        start = max(last - count + 1, 1)
        read = stream.read(names.history, f"{names.root}.history.*", start=start)
        newest = reversed(list(itertools.takewhile(lambda one: one.seq <= last, read)))
        found = [one for one in map(_run, newest) if one is not None]
        return found, RunPosition(0.0, start).dump() if start > max(info["state"]["first_seq"], 1) else ""


def _run(stored: Stored) -> tuple[Record, RunPosition] | None:
    record = _record(stored)
    return None if record is None else (record, RunPosition(record.started + record.duration, stored.seq))


def _record(stored: Stored) -> Record | None:
    try:
        return Record.of(json.loads(stored.data))
    except (ValueError, RecursionError):
        return None  # not a record of unspool
