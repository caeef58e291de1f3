"""The rate, the first start and the memory of a worker by the number of waiting tasks."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from .filesystem import Ground, Place
from .measures import Measured
from .system import System
from .unspool_side import Unspool
from .uwsgi_side import Uwsgi

__all__ = ["Backlog", "backlogs", "measure_backlogs"]

_PAST = 1_700_000_000  # unix seconds at which all that is ready was sent
_FUTURE = 4_000_000_000
_STEP = 20  # microseconds between two tasks that were sent one after the other


class Backlog(NamedTuple):
    """The number of waiting tasks: ready ones, and ones that are postponed for years."""

    ready: int
    postponed: int = 0

    def __str__(self) -> str:
        later = f" beside {self.postponed:,} postponed" if self.postponed else ""
        return f"{self.ready:,} waiting{later}"


def backlogs(most: int) -> list[Backlog]:
    """Return backlogs from a thousand to ``most``, each ten times the one before, and then the same number of postponed
    tasks beside a thousand ready ones.
    """
    sizes = [1_000]
    while sizes[-1] < most:
        sizes.append(min(sizes[-1] * 10, most))
    return [*(Backlog(size) for size in sizes), Backlog(1_000, most)]


def measure_backlogs(
    ground: Ground, found: Sequence[Backlog], runs: int, tasks: int, progress: Callable[[str], None]
) -> list[Measured]:
    """Fill a directory once for each system. Each run then takes its part of the waiting tasks.

    :param tasks: the number of tasks to run of each backlog in all runs together, at most half of the ready ones.
    """
    rows: list[Measured] = []
    systems: list[System] = [Unspool("relaxed"), Uwsgi()]
    for backlog in found:
        share = max(min(tasks, backlog.ready // 2) // runs, 2)
        units = {"drain": "/s", "first task": "s", "memory": "MB"}
        some = {name: Measured(f"{backlog}: {name}", unit, None) for name, unit in units.items()}
        for system in systems:
            with ground.place() as place:
                progress(f"{backlog}: filling for {system.name}")
                fill(place, system.template(place), backlog)
                ground.settle()
                if isinstance(system, Unspool) and backlog.ready == max(one.ready for one in found):
                    rows += [Measured(f"{backlog}: {name}", "s", None, {system.name: [seconds]})
                             for name, seconds in _looks(place).items()]  # fmt: skip
                for run in range(1, runs + 1):
                    progress(f"{backlog}: {system.name}, run {run} of {runs}")
                    for name, figure in zip(units, system.drain_some(place, share), strict=True):
                        some[name].runs.setdefault(system.name, []).append(figure)
        rows += some.values()
    return rows


def fill(place: Place, content: bytes, backlog: Backlog) -> None:
    """Write the files directly, which is faster than sending, with the same times, and in random order."""
    at = os.open(place.spool, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for start, count in ((_PAST, backlog.ready), (_FUTURE, backlog.postponed)):
            for number in range(count):
                seconds, rest = divmod(number * _STEP, 1_000_000)
                name = f"uwsgi_spoolfile_on_benchmark_1_{number}_1_{start + seconds}_{rest:06d}"
                fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=at)
                os.write(fd, content)
                os.utime(fd, (start + seconds, start + seconds))
                os.close(fd)
    finally:
        os.close(at)


def _looks(place: Place) -> dict[str, float]:
    """Return the seconds of one scan of the directory, and of the commands that list it."""
    program = str(Path(sys.executable).with_name("unspool"))
    env = {**os.environ, "UNSPOOL_SPOOLERS": str(place.spool)}
    looks = {"ls": [program, "ls", "--limit", "20"], "status": [program, "status"]}
    begun = time.monotonic()
    with os.scandir(place.spool) as entries:
        for _ in entries:
            pass
    seconds = {"one scan": time.monotonic() - begun}
    for name, command in looks.items():
        begun = time.monotonic()
        subprocess.run(command, env=env, check=True, capture_output=True)
        seconds[name] = time.monotonic() - begun
    return seconds
