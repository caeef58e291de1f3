"""The history of runs."""

from ... import inspection
from ...backends.base import Backend
from ...message import Record, Verdict
from ..clock import FakeClock
from .harness import BackendTests

__all__ = ["HistoryTests"]


def _records(clock: FakeClock, *ids: str) -> list[Record]:
    return [
        Record(id, "task", Verdict.PROCESSED, number, clock.advance(1), 0.5, 1234, "traceback ü")
        for number, id in enumerate(ids, 1)
    ]


class HistoryTests(BackendTests):
    """``Backend.record`` and ``Backend.history``."""

    def test_no_history(self, backend: Backend) -> None:
        """A new queue has no history."""
        assert inspection.runs(backend) == []
        backend.record([])
        assert inspection.runs(backend, id="any") == []

    def test_newest_first(self, backend: Backend, clock: FakeClock) -> None:
        """Records are returned unchanged, newest first, across all batches."""
        first, second = _records(clock, "a", "b"), _records(clock, "c")
        backend.record(first)
        backend.record(second)
        assert inspection.runs(backend) == [*second, *reversed(first)]

    def test_limited_history(self, backend: Backend, clock: FakeClock) -> None:
        """No more than ``limit`` records are returned, and they are the newest."""
        records = _records(clock, *"abcdef")
        backend.record(records)
        assert inspection.runs(backend, limit=2) == [records[5], records[4]]

    def test_of_one_task(self, backend: Backend, clock: FakeClock) -> None:
        """All runs of one task are returned by its id."""
        records = _records(clock, "a", "b", "a")
        backend.record(records)
        assert inspection.runs(backend, id="a") == [records[2], records[0]]
        assert inspection.runs(backend, id="a", limit=1) == [records[2]]
        assert inspection.runs(backend, id="nobody") == []
