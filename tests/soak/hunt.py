"""One soak: start everything, cause faults for a while, let the queues drain, and check the result."""

import itertools
import json
import os
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..spool.sweep import sweep
from . import oracle
from .cast import Cast, Sample
from .kills import Kills
from .operators import Operators
from .payload import key_of
from .target import Fault, Target
from .verdict import Left

__all__ = ["Hunt"]

_DRAIN = 300.0  # maximum seconds until the queues have drained
_STILL = 90.0  # maximum seconds without progress; a task that cannot be claimed is deferred for a minute
_STOP = 15.0  # seconds within which workers of a killed supervisor end: 7 past the time limits of their runs
_TRACEBACK = "Traceback (most recent call last)"
_OVERRUN = re.compile(  # as ``unspool run`` logs it, and as uWSGI's spooler does
    r"([^\s/]+) (?:timeout|dead) in .*(?:TaskTimeout|time limit)|"
    r"(?:timeout|dead) [0-9.]+ ms, .*TaskTimeout.*/([^\s/]+)\)$",
    re.MULTILINE,
)
_OWN_FAULT = re.compile(r"[^\n]*\bSIG(?:BUS|SEGV|ABRT|FPE|ILL|SYS)\b[^\n]*")
_OURS = 30.0  # a due time further ahead than this comes from a clock that was set


class Hunt:
    """The state of one soak.

    :param quiet: held by faults that must not run at the same time as a command of an operator.
    :param lease: see :class:`tests.soak.kills.Kills`.
    """

    def __init__(
        self, scratch: Path, log: str, target: Target, seed: str, quiet: "threading.RLock", lease: float | None
    ) -> None:
        self.scratch = scratch
        self.log = log
        self.target = target
        self.cast = Cast(scratch, log, target.parts)
        self.seed = seed
        self.lease = lease
        self.samples: list[Sample] = []
        self.reasons: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.orphans: list[int] = []
        """Workers of killed supervisors that did not end."""
        self.held: list[str] = []
        """Removed tasks that idle supervisors and workers still hold open."""
        environment = self.cast.environment("supervisor-1") | dict(target.environment)
        self.operators = Operators(scratch, log, environment, target.spoolers, target.routes, seed, quiet)

    def strike(self, first: int, minutes: float, every: tuple[float, float]) -> None:
        """Cause faults and run operations for these minutes."""
        self.cast.start_all()
        kinds = {**Kills(self.cast, self.lease).faults(), **self.target.faults(self.cast)}
        operating = threading.Thread(target=self.operators.work, daemon=True)
        operating.start()
        end = time.monotonic() + minutes * 60
        for number in itertools.count(first):
            if time.monotonic() > end or self.operators.broken is not None:
                break
            time.sleep(random.Random(f"{self.seed} wait {number}").uniform(*every))
            self.samples.extend(self.cast.sample("supervisor-1"))
            self._fault(kinds, number)
            if number % 50 == 49:
                print(f"fault {number + 1}, {max(0, int(end - time.monotonic()))} s left", flush=True)
        self.operators.end()
        operating.join()
        if self.operators.broken is not None:
            raise RuntimeError("the operators' thread has ended") from self.operators.broken

    def _fault(self, kinds: dict[Fault, float], number: int) -> None:
        source = random.Random(f"{self.seed} fault {number}")
        (kind,) = source.choices(list(kinds), weights=list(kinds.values()))
        self.faults[kind.__name__] += 1
        oracle.append(self.log, "fault", number, kind.__name__)
        kind(source)
        oracle.append(self.log, "fault", number, "over")
        self.cast.start_all()

    def settle(self) -> Left:
        """Stop all faults and senders, run all tasks that can be run, and return what is left."""
        self.target.end_faults()
        self.operators.run("resume")
        for name in self.cast.names("producer"):
            self.cast.kill(name)
        self.cast.start_all(senders=False)
        self.orphans = self.cast.end_orphans(_STOP)
        self.target.bring_back(self.operators)
        if self._drain():  # otherwise the second time would take as long
            self.target.bring_back(self.operators)
            self._drain()
        self.held = self.cast.held_tasks(*self.cast.names("supervisor"))
        for name in (*self.cast.names("supervisor"), *self.cast.names("forwarder")):
            self.cast.stop(name)
        for name in self.cast.names("uwsgi"):
            self.cast.kill(name)
        return self.left()

    def _drain(self) -> bool:
        """Wait until no task waits or runs, or until nothing changes any more.

        Return whether the queues are empty.
        """
        deadline = time.monotonic() + _DRAIN
        before, since = -1, time.monotonic()
        while time.monotonic() < deadline:
            counts = self._counts()
            number = sum(counts[state] for state in ("ready", "running", "deferred")) if counts else -1
            if not number:
                return True
            if number != before:
                before, since = number, time.monotonic()
            elif time.monotonic() > since + _STILL:
                break
            self._bring_forward()
            self.cast.start_all(senders=False)
            time.sleep(1)
        return False

    def _bring_forward(self) -> None:
        """Make tasks due that a clock that was set has postponed."""
        for entry in self.operators.entries("deferred"):
            if entry["due"] > time.time() + _OURS and (key := key_of(entry["id"])):
                oracle.append(self.log, "retry", key)
                self.operators.run("retry", entry["id"])
                oracle.append(self.log, "retry", key)

    def _counts(self) -> Counter[str]:
        """Return the counts of ``unspool status`` by state; none while a spooler cannot be used."""
        done = self.operators.run("status", "--json")
        counts: Counter[str] = Counter()
        for row in json.loads(done.stdout)["spoolers"] if done is not None and not done.returncode else ():
            counts.update({name: value for name, value in row.items() if type(value) is int})
        return counts

    def left(self) -> Left:
        listing = self.operators.run("ls", "--json")
        entries = json.loads(listing.stdout) if listing is not None and not listing.returncode else None
        counts = self._counts()
        if entries is None or not counts:
            return Left(set(), set(), self.target.taken(), ["the tasks that are left cannot be listed and counted"])
        listed = Counter(entry["state"] for entry in entries)
        states = ("ready", "deferred", "running", "dead", "corrupt")
        oddities = [f"{counts[state]} {state} are counted, {listed[state]} listed" for state in states
                    if counts[state] != listed[state]]  # fmt: skip
        waiting: set[str] = set()
        aside: set[str] = set()
        for entry in entries:
            key = key_of(entry["id"])
            if entry["state"] in ("dead", "corrupt"):
                aside.add(key)
                self._count_reason(entry, key)
            else:
                waiting.add(key)
                print("left:", json.dumps(entry), flush=True)
        return Left(waiting - {""}, aside - {""}, self.target.taken(), oddities)

    def _count_reason(self, entry: dict[str, Any], key: str) -> None:
        reason = entry["reason"].replace(key, "…") if key else ""
        what = f"{key.rpartition(':')[2]}: {reason or 'no reason could be written'}" if key else "thrown in"
        self.reasons[what] += 1

    def tracebacks(self) -> list[str]:
        """Return a line for each traceback in a program's log. Tracebacks of tasks are in the history and not in these
        logs.
        """
        return [name for name, text in self._logs() for _ in range(text.count(_TRACEBACK))]

    def own_faults(self) -> list[str]:
        """Return the lines in programs' logs about processes that were killed by a signal that no one has sent."""
        return [line for _, text in self._logs() for line in _OWN_FAULT.findall(text)]

    def overruns(self) -> Counter[str]:
        """Return how many runs of each task exceeded their time limit by programs' logs, by the last part of its id."""
        return Counter(found[1] or found[2] for _, text in self._logs() for found in _OVERRUN.finditer(text))

    def _logs(self) -> Iterator[tuple[str, str]]:
        for name, part in self.target.parts.items():
            log = self.scratch / f"{name}.log"
            if not part.sends and log.exists():
                yield log.name, log.read_text(errors="replace")

    def drafts(self) -> int:
        """Return the number of unfinished drafts in the directories after a sweep."""
        number = 0
        for spooler in filter(os.path.isdir, self.target.spoolers):
            sweep(spooler)
            tmp = Path(spooler) / ".unspool" / "tmp"
            if tmp.is_dir():
                number += sum(not name.startswith(".") for name in os.listdir(tmp))
        return number
