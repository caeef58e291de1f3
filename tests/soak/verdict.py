"""Compare the events in a soak's log with the promises. Pure: lines in, a verdict out.

A second run of a task must be explained by one of the causes below. Each cause has a window of time, so that a fault
explains only the runs that it can have affected.
"""

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from .kinds import ATTEMPTS, DESIGNED, LIMITS
from .oracle import Line

__all__ = ["AT_ONCE", "BACK_AFTER_CUT", "SHORTLY", "Left", "Verdict", "judge"]

SHORTLY = 1.0
"""The seconds after a run's end in which the death of its process, or of the server, may keep the end from being
stored. Also the seconds before its beginning in which it may have been claimed.
"""
AT_ONCE = 0.25
"""The same for the end of a process and a directory, from which the run's end removes the task at once."""
BACK_AFTER_CUT = 7.0
"""The seconds before a power cut in which a removal may not have reached the disk. ext4 commits its journal every 5
seconds.
"""


_ARRIVED = 2.0
"""The seconds after a move in which the tasks that it has moved are begun."""


class Left(NamedTuple):
    """The keys of the tasks that remain after all queues have drained, and inconsistent counts and listings."""

    waiting: set[str]
    aside: set[str]
    taken: set[str]
    """Tasks in directories that the soak itself took away."""
    oddities: list[str]
    """Differences between counts and listings."""


@dataclass(slots=True)
class Verdict:
    """The result of a soak. The lists must be empty, except those that are documented."""

    acknowledged: int = 0
    ended: int = 0
    aside: int = 0
    removed: int = 0
    refused: int = 0
    lost: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    """Tasks that neither ended nor were set aside, although workers were idle."""
    ghosts: list[str] = field(default_factory=list)
    """Tasks that are listed or counted although they have ended."""
    at_once: list[str] = field(default_factory=list)
    """Tasks that two processes ran at once."""
    at_once_cut_off: int = 0
    """Tasks that two processes ran at once after the server lost the first claim, as documented."""
    unexplained: list[str] = field(default_factory=list)
    """Repeated runs without a cause."""
    beyond: list[str] = field(default_factory=list)
    """Tasks that have failed more often than they may, without a cause."""
    refused_run: list[str] = field(default_factory=list)
    """Tasks that ran or are listed although the call that sent them had raised."""
    causes: Counter[str] = field(default_factory=Counter)
    """Repeated runs, by cause."""
    recoveries: list[float] = field(default_factory=list)
    """The seconds from the kill of a process to the next run of its task, unless an operator retried the task."""


@dataclass(slots=True)
class _Run:
    key: str
    pid: str
    start: float
    end: float | None = None
    failed: float | None = None
    error: str = ""

    @property
    def over(self) -> float | None:
        return self.end if self.end is not None else self.failed


class _Faults:
    """The faults that may explain a run, by their subject. Faults are logged before and after, so each is a span.

    :param stored: the seconds around a run in which the kill of its process may affect it.
    """

    def __init__(self, lines: Iterable[Line], stored: float) -> None:
        self._stored = stored
        at: dict[tuple[str, str], list[float]] = defaultdict(list)
        for line in lines:
            at[line.word, line.rest[0] if line.rest else ""].append(line.at)
        self._at = at
        self.cuts = at["cut", ""]
        self.crashes = _pairs(at["crash", ""])
        self._full = _no_room(lines)
        self._overruns: dict[str, list[float]] = defaultdict(list)
        self._late: Counter[str] = Counter()

    def add_runs(self, runs: Iterable[_Run]) -> None:
        """Add the runs that exceeded their time limit and were killed with their process."""
        for run in runs:
            if run.over is None and (limit := LIMITS.get(_kind(run.key))) is not None:
                self._overruns[run.pid].append(run.start + limit)

    def add_overruns(self, runs: Mapping[str, Sequence[_Run]], logged: Mapping[str, int]) -> None:
        """Add the runs that overran their time limit by the log of their worker, and not by the task itself.

        :param logged: the number of runs that the workers' logs say have overrun, by key.
        """
        for key, number in logged.items():
            own = sum(run.error == "TaskTimeout" or run.over is None for run in runs.get(key, ()))
            self._late[key] = max(number - own, 0)

    def moments(self, word: str, about: str) -> list[float]:
        """Return the times of these events."""
        return self._at.get((word, about), [])

    def cause(self, run: _Run, after: float) -> str:
        """Return why another run that begins at ``after`` may follow this one; an empty string if it must not."""
        over = run.over if run.over is not None else after
        last = min(after, over + SHORTLY)
        if run.error in DESIGNED.get(_kind(run.key), ()):
            return "failed as designed"
        if _within(self.moments("kill", run.pid), run.start - self._stored, min(after, over + self._stored)):
            return "its process was killed"
        if any(at <= last for at in self._overruns[run.pid]):
            return "its process was killed for a time limit"
        if run.end is not None and self._late[run.key]:
            self._late[run.key] -= 1
            return "it overran its time limit after it had noted its end"
        if run.end is None and _meets(_pairs(self.moments("retry", run.key)), run.start, after):
            return "an operator's retry"
        if any(
            run.start <= cut <= after and (run.over is None or run.over >= cut - BACK_AFTER_CUT) for cut in self.cuts
        ):
            return "a power cut"
        if _meets(_pairs(self.moments("error", run.pid)), run.start, last):
            return "disk errors in its process"
        if self.cut_off(run, last):
            return "the server lost its claim"
        if self._carried_again(run, after):
            return "a killed move was repeated, because its destination had been replaced"
        return ""

    def _carried_again(self, run: _Run, after: float) -> bool:
        """Return whether the task had just arrived by a move, whose destination was replaced before the next one."""
        moves = _pairs(self.moments("carry", ""))
        return (
            _meets(moves, run.start - _ARRIVED, run.start)
            and _within(self.moments("forgot", ""), run.start, after)
            and _meets(moves, after - _ARRIVED, after)
        )

    def retried(self, key: str, first: float, last: float) -> bool:
        """Return whether an operator may have retried the task, or all dead tasks, in this time."""
        spans = _pairs(self.moments("retry", key)) + _pairs(self.moments("retry", "*"))
        return _meets(spans, first, last)

    def uncounted(self, run: _Run, last: float) -> bool:
        """Return whether the attempt of a run may not have been stored, or not counted."""
        errors = _pairs(self.moments("error", run.pid))
        return (
            _within(self.cuts, run.start, last)
            or _meets([*self._full, *errors], run.start, last)
            or self.cut_off(run, last)
        )

    def cut_off(self, run: _Run, last: float) -> bool:
        """Return whether the server has lost the claim or the end of a run, as documented."""
        first = run.start - SHORTLY  # a worker claims tasks that it begins a moment later
        return _meets(_pairs(self.moments("cutoff", run.pid)), first, last) or _meets(self.crashes, first, last)


def judge(
    lines: Sequence[Line], left: Left, stored: float = SHORTLY, overruns: Mapping[str, int] | None = None
) -> Verdict:
    """Compare the tasks that were sent and run with those that are left.

    :param stored: ``SHORTLY``, or ``AT_ONCE`` for a directory.
    :param overruns: the number of runs that the workers' logs say have overrun, by the last part of the task's id.
    """
    verdict, faults = Verdict(), _Faults(lines, stored)
    runs = _runs(lines)
    faults.add_runs(run for several in runs.values() for run in several)
    acknowledged = {line.rest[0]: line.rest[1] for line in lines if line.word == "ack"}
    logged = {key: (overruns or {}).get(id.rpartition("/")[2], 0) for key, id in acknowledged.items()}
    faults.add_overruns(runs, logged)
    removed, nameless = _removed(lines, acknowledged)
    removed |= left.taken
    ended = {key for key, several in runs.items() if any(run.end is not None for run in several)}
    verdict.acknowledged = len(acknowledged)
    for key in acknowledged:
        if key in ended:
            verdict.ended += 1
        elif key in left.waiting:
            verdict.waiting.append(key)
        elif key in left.aside:
            verdict.aside += 1
        elif key in removed:
            verdict.removed += 1
        elif nameless and key in runs:
            nameless -= 1
            verdict.removed += 1
        else:
            verdict.lost.append(key)
    verdict.waiting += sorted(left.waiting - ended - acknowledged.keys())  # its sender was killed before it knew
    verdict.ghosts += sorted(left.waiting & ended) + left.oddities
    verdict.ghosts += [key for key in sorted(left.aside & ended) if not faults.cause(runs[key][-1], lines[-1].at)]
    refused = {key for line in lines if line.word == "refused" for key in line.rest[1:]}
    verdict.refused = len(refused) + sum(len(line.rest) - 1 for line in lines if line.word == "unsure")
    verdict.refused_run = sorted(refused & (runs.keys() | left.waiting | left.aside) - acknowledged.keys())
    twice = {(line.rest[0], line.rest[1]) for line in lines if line.word == "twice"}
    for several in runs.values():
        for run, after in itertools.pairwise(several):
            _judge_pair(verdict, faults, run, after, met=(after.key, after.pid) in twice)
        _judge_attempts(verdict, faults, several)
    return verdict


def _judge_attempts(verdict: Verdict, faults: _Faults, runs: Sequence[_Run]) -> None:
    """Count the failures of a task since it was sent or retried."""
    allowed, failures = ATTEMPTS.get(_kind(runs[0].key)), 0
    for number, run in enumerate(runs) if allowed is not None else ():
        before = runs[number - 1].start if number else run.start
        if faults.retried(run.key, before, run.start):
            failures = 0
        failures += run.failed is not None and not faults.uncounted(run, run.start + SHORTLY)
        if failures > (allowed or 0):
            verdict.beyond.append(f"{run.key} {run.pid} {run.start:.3f}")
            return


def _judge_pair(verdict: Verdict, faults: _Faults, run: _Run, after: _Run, *, met: bool) -> None:
    if met or (run.over is not None and run.over > after.start):
        if faults.cut_off(run, after.start):
            verdict.at_once_cut_off += 1
        else:
            verdict.at_once.append(f"{after.key} {run.pid} {after.pid} {after.start:.3f}")
    if not (cause := faults.cause(run, after.start)):
        verdict.unexplained.append(f"{after.key} {run.pid} {after.pid} {after.start:.3f}")
        return
    verdict.causes[cause] += 1
    kills = [at for at in faults.moments("kill", run.pid) if run.start <= at <= after.start]
    if run.over is None and kills and not faults.retried(run.key, kills[-1], after.start):
        verdict.recoveries.append(after.start - kills[-1])


def _runs(lines: Iterable[Line]) -> dict[str, list[_Run]]:
    """Return all runs of each task, in the order of their beginnings."""
    runs: dict[str, list[_Run]] = defaultdict(list)
    for line in lines:
        if line.word == "start":
            runs[line.rest[0]].append(_Run(line.rest[0], line.rest[1], line.at))
        elif line.word in ("end", "fail"):
            run = next(run for run in reversed(runs[line.rest[0]]) if run.pid == line.rest[1] and run.over is None)
            if line.word == "end":
                run.end = line.at
            else:
                run.failed, run.error = line.at, line.rest[2]
    return runs


def _removed(lines: Iterable[Line], acknowledged: dict[str, str]) -> tuple[set[str], int]:
    """Return the tasks that operators have removed, or may have removed because their command was killed; and how many
    more they have removed of which only the id is known, because they were moved, and died after the last listing.
    """
    keys = {id.rpartition("/")[2]: key for key, id in acknowledged.items()}
    removed: set[str] = set()
    nameless: set[str] = set()
    for line in lines:
        if line.word == "remove":
            removed.add(line.rest[0])
        elif line.word == "kept":
            removed.discard(line.rest[0])
        elif line.word == "removed":
            name = line.rest[0].rpartition("/")[2]
            if name in keys:
                removed.add(keys[name])
            else:
                nameless.add(name)
    return removed, len(nameless)


def _no_room(lines: Iterable[Line]) -> list[tuple[float, float]]:
    """Return the times in which the disk was full."""
    spans, since = [], None
    for line in lines:
        if line.word == "fault" and line.rest[1] in ("disk_full", "no_inodes", "storage_full"):
            since = line.at
        elif line.word == "fault" and since is not None:
            spans.append((since, line.at))
            since = None
    return spans


def _kind(key: str) -> str:
    return key.rpartition(":")[2]


def _pairs(moments: Sequence[float]) -> list[tuple[float, float]]:
    return list(zip(moments[::2], moments[1::2], strict=False))


def _within(moments: Iterable[float], first: float, last: float) -> bool:
    return any(first <= at <= last for at in moments)


def _meets(spans: Iterable[tuple[float, ...]], first: float, last: float) -> bool:
    return any(begin <= last and end >= first for begin, end in spans)
