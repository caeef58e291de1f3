"""What really happened, from logs outside of the spool, compared with what was promised.

A line is a time (seconds since the machine's start, so that no clock's being set changes the order), a word and the
rest: ``ack KEY KIND`` by producers, ``start KEY PID`` and ``end KEY PID`` by tasks, ``kill PID`` by whoever kills,
``stopped KEY PID`` by a task that overran its time limit, ``cut``, ``error WHAT`` and ``retry KEY`` by the soak itself.
Each is appended with one write and synced.
"""

import bisect
import itertools
import os
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["BACK_AFTER_CUT", "Line", "Verdict", "append", "judge", "read"]

BACK_AFTER_CUT = 7.0
"""Seconds before a power cut in which an end may not have reached the disk: ext4 commits its journal every 5."""

RETRIES = {"again": 1, "limit": 1, "hopeless": 1}
"""Runs beyond the first that each kind of task brings about by itself, without a crash."""


def append(path: str, *words: object) -> None:
    """Adds a line."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, (" ".join([f"{time.clock_gettime(time.CLOCK_BOOTTIME):.6f}", *map(str, words)]) + "\n").encode())
        os.fsync(fd)
    finally:
        os.close(fd)


@dataclass(frozen=True, slots=True, order=True)
class Line:
    """One line of a log."""

    at: float
    word: str
    rest: tuple[str, ...]


def read(path: Path) -> list[Line]:
    """All lines, in the order of time."""
    lines = []
    for text in path.read_text().splitlines() if path.exists() else []:
        at, word, *rest = text.split(" ")
        lines.append(Line(float(at), word, tuple(rest)))
    return sorted(lines, key=lambda line: line.at)


@dataclass(slots=True)
class Verdict:
    """What the logs say."""

    acknowledged: int = 0
    ended: int = 0
    waiting: int = 0
    aside: int = 0
    lost: list[str] = field(default_factory=list)
    repeated: int = 0
    """Runs that were made again for a fault."""
    bound: int = 0
    """How many that may have been: runs that a fault cut short, and those that ended shortly before a power cut."""
    unexplained: list[str] = field(default_factory=list)
    """Runs made again without a fault since the one before."""
    at_once: list[str] = field(default_factory=list)
    """Tasks that two processes ran at once."""
    recoveries: list[float] = field(default_factory=list)
    """Seconds from a worker's being killed to the next run of its task."""


class _Faults:
    """The faults of a soak, by what they concern."""

    def __init__(self, lines: list[Line]) -> None:
        self.cuts = [line.at for line in lines if line.word == "cut"]
        self.general = sorted(line.at for line in lines if line.word in ("cut", "error"))
        self.kills: dict[str, list[float]] = defaultdict(list)
        self.retries: dict[str, list[float]] = defaultdict(list)
        self.stops: dict[str, list[float]] = defaultdict(list)
        for line in lines:
            if line.word == "kill":
                self.kills[line.rest[0]].append(line.at)
            elif line.word == "retry":
                self.retries[line.rest[0]].append(line.at)
            elif line.word == "stopped":
                self.stops[line.rest[0]].append(line.at)

    def explain(self, run: Line, after: Line) -> bool:
        """Whether the run after this one may have been made for a fault."""
        return (
            bisect.bisect_left(self.general, run.at) < bisect.bisect_right(self.general, after.at)
            or self.killed(run, after) is not None
            or self.retried(run, after)
        )

    def stopped(self, run: Line, after: Line) -> bool:
        """Whether the run overran its time limit, for which it is made again."""
        return any(run.at <= at <= after.at for at in self.stops[run.rest[0]])

    def killed(self, run: Line, after: Line) -> float | None:
        """When its process was killed: it may have said so before the run, and died after its beginning."""
        return max((at for at in self.kills[run.rest[1]] if at <= after.at), default=None)

    def retried(self, run: Line, after: Line) -> bool:
        """Whether somebody asked for another run."""
        return any(run.at <= at <= after.at + 0.001 for at in self.retries[run.rest[0]])


def judge(lines: list[Line], waiting: set[str], aside: set[str]) -> Verdict:
    """Compares the lines with the keys that are still there."""
    verdict, faults = Verdict(), _Faults(lines)
    kinds = {line.rest[0]: line.rest[1] for line in lines if line.word == "ack"}
    runs: dict[str, list[Line]] = defaultdict(list)
    for line in lines:
        if line.word in ("start", "end"):
            runs[line.rest[0]].append(line)
    verdict.acknowledged = len(kinds)
    for key in kinds:
        if any(line.word == "end" for line in runs[key]):
            verdict.ended += 1
        elif key in waiting:
            verdict.waiting += 1
        elif key in aside:
            verdict.aside += 1
        else:
            verdict.lost.append(key)
    for key, run in runs.items():
        _judge_runs(verdict, key, run, faults)
    return verdict


def _judge_runs(verdict: Verdict, key: str, lines: list[Line], faults: _Faults) -> None:
    """The runs of one task."""
    own = RETRIES.get(key.rpartition(":")[2], 0)
    ends = [line.at for line in lines if line.word == "end"]
    verdict.bound += sum(any(cut - BACK_AFTER_CUT < end <= cut + 1 for end in ends) for cut in faults.cuts)
    starts = [line for line in lines if line.word == "start"]
    for run, after in itertools.pairwise(starts):
        cut_short = not any(run.at <= end <= after.at for end in ends)
        verdict.bound += cut_short
        if faults.retried(run, after):
            own = RETRIES.get(key.rpartition(":")[2], 0)
        elif faults.explain(run, after):
            verdict.repeated += 1
            killed = faults.killed(run, after)
            if cut_short and key.rpartition(":")[2] not in RETRIES and killed is not None and killed >= run.at:
                verdict.recoveries.append(after.at - killed)
        elif faults.stopped(run, after):
            continue
        elif own:
            own -= 1
        else:
            verdict.unexplained.append(key)
    for line in lines:
        if line.word == "end" and max(start for start in starts if start.at <= line.at).rest[1] != line.rest[1]:
            verdict.at_once.append(key)
