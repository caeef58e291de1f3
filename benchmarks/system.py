"""What is measured of a system: the same figures by the same steps; heirs only know how to start its processes."""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from statistics import quantiles
from typing import NamedTuple

from . import witness
from .caller import JOB, WARM_UP, Job
from .filesystem import Ground, Place
from .processes import Failed, Running, running, wait_until

__all__ = ["Latency", "System"]

_TIMEOUT = 600.0
_FIRST_CALLS = 10  # not counted: imports, first files


class Latency(NamedTuple):
    """Milliseconds from the call to the task's first line."""

    p50: float
    p99: float


class System(ABC):
    """A system that keeps tasks in a directory.

    :param settings: environment variables for all its processes.
    """

    name: str

    def __init__(self, settings: Mapping[str, str] | None = None) -> None:
        self._settings = dict(settings or {})

    @abstractmethod
    def calling(self, place: Place) -> list[str]:
        """The command of a caller with no worker."""

    @abstractmethod
    def working(self, place: Place, workers: int) -> list[str]:
        """The command of its workers."""

    @abstractmethod
    def calling_idle(self, place: Place) -> tuple[list[str], list[str] | None]:
        """The commands of a caller and of its one worker; None if the caller brings that along."""

    def enqueue(self, ground: Ground, tasks: int, batch: int = 1) -> float:
        """Tasks a second that one caller sends, with no worker at the directory."""
        with ground.place() as place:
            return tasks / self._fill(place, tasks, batch)

    def drain(self, ground: Ground, tasks: int, workers: int) -> float:
        """Tasks a second that workers run, of those that were waiting when they started."""
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
        """How soon an idle worker begins what is called."""
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
            return Latency(cuts[49], cuts[98])

    def _fill(self, place: Place, tasks: int, batch: int = 1) -> float:
        return float(self._call(self.calling(place), place, Job("enqueue", tasks, _answer(place), batch))["seconds"])

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
        own = {witness.DIRECTORY: str(place.scratch), **self._environment(place), **(env or {})}
        return running(command, own, place.scratch / "log")

    def _environment(self, place: Place) -> dict[str, str]:
        return self._settings


def _answer(place: Place) -> str:
    return str(place.scratch / "answer")
