"""The measurements of a system: the same figures by the same steps. Subclasses only start its processes."""

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from statistics import quantiles
from time import monotonic_ns
from typing import NamedTuple

from . import witness
from .caller import JOB, WARM_UP, Job
from .filesystem import Ground, Place
from .processes import Failed, Running, running, wait_until

__all__ = ["Latency", "Some", "System"]

_TIMEOUT = 600.0
_FIRST_CALLS = 10  # not counted: imports, first files


class Latency(NamedTuple):
    """Milliseconds from the call to the first line of the task."""

    p50: float
    p90: float
    p99: float


class Some(NamedTuple):
    """The figures of a worker that runs a part of a backlog.

    :param rate: tasks per second.
    :param first: seconds from the worker's start to its first task.
    :param memory: megabytes of all its processes; shared memory is counted once for each.
    """

    rate: float
    first: float
    memory: float


class System(ABC):
    """A system that stores tasks in a directory.

    :param settings: environment variables for all its processes.
    """

    name: str

    def __init__(self, settings: Mapping[str, str] | None = None) -> None:
        self._settings = dict(settings or {})

    @abstractmethod
    def calling(self, place: Place) -> list[str]:
        """Return the command of a caller without a worker."""

    @abstractmethod
    def working(self, place: Place, workers: int) -> list[str]:
        """Return the command of its workers."""

    @abstractmethod
    def calling_idle(self, place: Place) -> tuple[list[str], list[str] | None]:
        """Return the commands of a caller and of its one worker; None for a worker that the caller contains."""

    def enqueue(self, ground: Ground, tasks: int, batch: int = 1, threads: int = 1) -> float:
        """Return tasks per second that one caller sends, without a worker."""
        with ground.place() as place:
            return tasks / self._fill(place, tasks, batch, threads)

    def enqueue_at_once(self, ground: Ground, tasks: int, processes: int) -> float:
        """Return tasks per second that several callers send, from the start of the first to the end of the last."""
        with ground.place() as place, ExitStack() as stack:
            share = tasks // processes
            jobs = [Job("enqueue", share, f"{_answer(place)}.{number}") for number in range(processes)]
            callers = [stack.enter_context(self._run(self.calling(place), place, {JOB: job.dump()})) for job in jobs]
            for job, caller in zip(jobs, callers, strict=True):
                wait_until(Path(job.answer).exists, caller, _TIMEOUT)
            return sum(share / float(json.loads(Path(job.answer).read_text())["seconds"]) for job in jobs)

    def drain_some(self, place: Place, tasks: int) -> "Some":
        """Let one worker run a part of the tasks in a directory that is already filled, and end it."""
        for tally in place.scratch.glob("tally.*"):
            tally.unlink()
        witnessed = str(place.scratch)
        begun = monotonic_ns()
        with self._run(self.working(place, 1), place) as process:
            wait_until(lambda: witness.tally(witnessed).runs >= tasks, process, _TIMEOUT)
            memory = sum(_resident(pid) for pid in process.pids)
        found = witness.tally(witnessed)
        return Some(found.rate, (found.first - begun) / 1e9, memory)

    def template(self, place: Place) -> bytes:
        """Return the file of one task."""
        self._fill(place, 1)
        files = [path for path in place.spool.iterdir() if path.is_file()]
        content = files[0].read_bytes()
        for path in files:
            path.unlink()
        return content

    def drain(self, ground: Ground, tasks: int, workers: int) -> float:
        """Return tasks per second that workers run, of those that were waiting when they started."""
        with ground.place() as place:
            self._fill(place, tasks)
            ground.settle()
            waiting = tasks + WARM_UP
            witnessed = str(place.scratch)
            with self._run(self.working(place, workers), place) as process:
                wait_until(lambda: witness.tally(witnessed).runs >= waiting, process, _TIMEOUT)
            found = witness.tally(witnessed)
            if found.runs != waiting:
                raise Failed(f"{self.name} ran {found.runs} tasks, of {waiting} that were waiting")
            return found.rate

    def latency(self, ground: Ground, calls: int) -> Latency:
        """Return how soon an idle worker begins a task after its call."""
        with ground.place() as place:
            witness.prepare(str(place.scratch), calls + _FIRST_CALLS)
            caller, worker = self.calling_idle(place)
            if worker is None:
                self._call(caller, place, Job("latency", calls + _FIRST_CALLS, _answer(place)))
            else:
                with self._run(worker, place):
                    self._call(caller, place, Job("latency", calls + _FIRST_CALLS, _answer(place)))
            found = witness.latencies(str(place.scratch))
            if len(found) != calls + _FIRST_CALLS:
                raise Failed(f"{self.name} ran {len(found)} tasks, of {calls + _FIRST_CALLS} that were called")
            cuts = quantiles((nanoseconds / 1e6 for nanoseconds in found[_FIRST_CALLS:]), n=100, method="inclusive")
            return Latency(cuts[49], cuts[89], cuts[98])

    def _fill(self, place: Place, tasks: int, batch: int = 1, threads: int = 1) -> float:
        job = Job("enqueue", tasks, _answer(place), batch, threads)
        return float(self._call(self.calling(place), place, job)["seconds"])

    def _call(self, command: Sequence[str], place: Place, job: Job) -> dict[str, float]:
        answer = Path(job.answer)
        with self._run(command, place, {JOB: job.dump()}) as process:
            wait_until(answer.exists, process, _TIMEOUT)
        found: dict[str, float] = json.loads(answer.read_text(encoding="ascii"))
        answer.unlink()
        return found

    def _run(
        self, command: Sequence[str], place: Place, env: Mapping[str, str] | None = None
    ) -> AbstractContextManager[Running]:
        own = {witness.DIRECTORY: str(place.scratch), **self.environment(place), **(env or {})}
        return running(command, own, place.scratch / "log")

    def environment(self, place: Place) -> dict[str, str]:
        return self._settings


def _resident(pid: int) -> float:
    with open(f"/proc/{pid}/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGESIZE") / 1e6


def _answer(place: Place) -> str:
    return str(place.scratch / "answer")
