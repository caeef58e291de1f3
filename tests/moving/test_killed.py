"""``unspool move`` is killed at each failpoint while workers run at both ends: each task runs exactly once."""

import os
import signal
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from unspool import inspection, points
from unspool.backends.change import Remove
from unspool.backends.nats.jetstream import JetStream
from unspool.backends.nats.requests import Request
from unspool.message import State

from .conftest import Ends, fail, ran, work

COMMON = [name for name in points.NAMES if name.startswith("carry.")]
LEAVING = [name for name in points.NAMES if name.startswith(("leave.", "left.", "gone."))]
ARRIVING = [name for name in points.NAMES if name.startswith(("accept.", "confirm."))]
CASES = [
    *(("spool", "pg", point) for point in COMMON + LEAVING),
    *(("pg", "spool", point) for point in COMMON + ARRIVING),
    *(("spool", "other", point) for point in LEAVING + ARRIVING),
    *(("pg", "other", point) for point in ARRIVING),
    *(("spool", "nats", point) for point in COMMON + LEAVING),
    *(("nats", "spool", point) for point in COMMON + ARRIVING),
    *(("pg", "nats", point) for point in COMMON),
    *(("nats", "pg", point) for point in COMMON),
]


@pytest.mark.parametrize(("source", "destination", "point"), CASES)
def test_killed(ends: Ends, source: str, destination: str, point: str) -> None:
    """Workers at both ends run the tasks that they find after the kill and after the next move: nothing is lost,
    nothing runs twice, dead tasks keep their reasons, and postponed ones their due times.
    """
    there = ends.backend(source).name
    fail.using(spooler=there)("dead")
    fail.using(spooler=there, priority=2)("urgently dead")
    assert ends.burst(source) == ["dead", "dead"]
    names = [f"plain {number}" for number in range(5)]
    for name in names:
        work.using(spooler=there)(name)
    work.using(spooler=there, priority=3)("urgent")
    work.using(spooler=there, postpone=timedelta(days=1))("late")
    ends.kill(point, "move", source, destination, time=1 if point.startswith("carry.") else 3)
    for end in (source, destination):
        ends.burst(end)
    ends.move(source, destination)
    for end in (source, destination):
        ends.burst(end)
    assert ran == dict.fromkeys(["dead", "urgently dead", "urgent", *names], 1)
    assert ends.counts(source) == {}
    assert ends.counts(destination) == {State.DEAD: 2, State.DEFERRED: 1}
    dead = inspection.tasks(ends.backend(destination), frozenset({State.DEAD}))
    found = sorted((entry.reason, entry.priority, entry.attempts) for entry in dead)
    assert found == [("ValueError: no luck with dead", None, 1), ("ValueError: no luck with urgently dead", 2, 1)]


STAGED = ("accept.renamed", "carry.accepted", "carry.noted", "confirm.renamed")


@pytest.mark.parametrize("how", ["renamed", "private part moved away"])
@pytest.mark.parametrize(
    ("source", "point"),
    [("spool", "left.renamed"), *((end, name) for end in ("spool", "pg", "nats") for name in STAGED)],
)
def test_a_destination_that_is_replaced_after_the_kill(ends: Ends, source: str, point: str, how: str) -> None:
    """Its tasks are staged again, in the directory that now has the name, so that none is lost."""
    names = [f"task {number}" for number in range(5)]
    work.using(spooler=ends.backend(source).name).enqueue_many([(name,) for name in names])
    ends.kill(point, "move", source, "other", time=1 if point.startswith("carry.") else 3)
    other = Path(ends.names["other"])
    if how == "renamed":
        other.rename(ends.root / "away")
        other.mkdir(0o700)
    else:
        (other / ".unspool").rename(ends.root / "private")
    assert ends.move(source, "other")["moved"]["ready"] == 5
    ends.burst("other")
    assert ran == dict.fromkeys(names, 1)
    assert ends.counts(source) == {}
    assert ends.counts("other") == {}


def test_each_point_is_covered() -> None:
    """All points of a transfer are among the cases."""
    assert {point for _, _, point in CASES} == {*COMMON, *LEAVING, *ARRIVING}


def test_killed_again_and_again(ends: Ends) -> None:
    """A move that is killed at each of its points in turn completes, and each task runs once."""
    names = [f"task {number}" for number in range(12)]
    work.using(spooler=ends.backend("spool").name).enqueue_many([(name,) for name in names])
    for point in (*LEAVING[:1], *COMMON[:3]):
        ends.kill(point, "move", "spool", "pg")
        ends.burst("pg")
    ends.move("spool", "pg")
    ends.burst("pg")
    assert ran == dict.fromkeys(names, 1)


def move_until(ends: Ends, number: int, source: str, destination: str) -> bool:
    """Move in another process, which is killed when the NATS server has answered this number of its changes. Return
    False if there are fewer.
    """
    pid = os.fork()
    if pid == 0:
        ask, left = JetStream._ask_some, number  # noqa: SLF001  between two requests of one call

        def asked(self: JetStream, requests: Sequence[Request], some: Sequence[int], *more: Any) -> None:
            nonlocal left
            ask(self, requests, some, *more)
            for request in (requests[index] for index in some):
                if "API" not in request.subject or "MSG.DELETE" in request.subject:
                    left -= 1
                    if not left:
                        os.kill(os.getpid(), signal.SIGKILL)

        try:
            JetStream._ask_some = asked  # type: ignore[method-assign]  # noqa: SLF001
            os._exit(ends.command("move", source, destination)[0])
        finally:
            os._exit(9)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, -signal.SIGKILL)
    return status != 0


@pytest.mark.parametrize(("source", "destination"), [("spool", "nats"), ("nats", "spool")])
def test_killed_between_any_two_changes(ends: Ends, source: str, destination: str) -> None:
    """A step needs several changes of the server. Wherever the process is killed between them, each task runs once, and
    dead and postponed tasks exist once.
    """
    for number in range(1, 100):
        ran.clear()
        there = ends.backend(source).name
        fail.using(spooler=there)("dead")
        ends.burst(source)
        work.using(spooler=there)("plain")
        work.using(spooler=there, postpone=timedelta(days=1))("late")
        killed = move_until(ends, number, source, destination)
        for end in (source, destination):
            ends.burst(end)
        ends.move(source, destination)
        for end in (source, destination):
            ends.burst(end)
        assert ran == {"dead": 1, "plain": 1}, number
        assert (ends.counts(source), ends.counts(destination)) == ({}, {State.DEAD: 1, State.DEFERRED: 1}), number
        for end in (source, destination):
            for entry in list(inspection.tasks(ends.backend(end))):
                ends.backend(end).change(entry.id, Remove())
            assert ends.counts(end) == {}, number
        if not killed:
            return
    pytest.fail("the move never ended")
