"""The listeners of the end of a run."""

import logging
from collections.abc import Sequence
from typing import Any, cast

import pytest

from unspool.message import Record
from unspool.runtime.events import Ended
from unspool.runtime.listeners import History, Log, Statistics


class Spooler:
    """A spooler, and whether its backend records the ends."""

    def __init__(self, name: str, *, records: bool = False) -> None:
        self.name = name
        self.records = records


class Pool:
    """Workers that define no task."""

    def processes(self) -> Sequence[Any]:
        return [type("Process", (), {"tasks": False})]


class Recorder:
    """A recorder that keeps its input."""

    def __init__(self) -> None:
        self.given: list[tuple[int, object]] = []

    def put(self, index: int, record: Record) -> None:
        self.given.append((index, record))

    put_line = put


def end(verdict: str, index: int = 0, line: bytes = b"line") -> Ended:
    """Return the end of a run."""
    return Ended(index, "ref", None, Record("/mail/ref", "app:job", verdict, 1, 5.0, 0.25, 7, ""), line)


def test_statistics() -> None:
    """A corrupt task is never run, and a postponed one has failed."""
    stats = Statistics()
    for verdict in ("processed", "skipped", "rescheduled", "timeout", "dead", "corrupt"):
        stats.ended(end(verdict))
    assert (stats.done, stats.failed, stats.dead) == (5, 4, 2)


def test_log(caplog: pytest.LogCaptureFixture) -> None:
    """The first end is logged after the start, which is logged once, with the spooler of the event."""
    caplog.set_level(logging.INFO, "unspool")
    log = Log("app", 2, cast(Any, [Spooler("/a"), Spooler("/b")]), cast(Any, Pool()))
    log.ended(end("processed", 1))
    log.started()
    messages = [record.getMessage() for record in caplog.records]
    assert messages[0] == "started: app app, workers: 2, spoolers: /a, /b"
    assert "defines no task" in messages[1]
    assert messages[2:] == ["app:job processed 250.0 ms"]
    assert caplog.records[2].unspool["spooler"] == "/b"  # type: ignore[attr-defined]


def test_history() -> None:
    """A backend that records ends gets only those that the supervisor has noted itself."""
    recorder = Recorder()
    history = History(cast(Any, [Spooler("/a"), Spooler("/b", records=True)]), cast(Any, recorder))
    own = end("crashed", 1, b"")
    for event in (end("processed", 0), end("processed", 1), own):
        history.ended(event)
    assert recorder.given == [(0, b"line"), (1, own.record)]
