"""The calling side, the same for all systems: it sends tasks as fast as it can, or one at a time to an idle worker.

It runs in a separate process, which for uWSGI is one of its mules.
"""

import asyncio
import json
import os
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from time import monotonic_ns

from . import witness

__all__ = ["JOB", "WARM_UP", "Job", "perform", "perform_async"]

JOB = "BENCH_JOB"
"""The environment variable that holds the job."""

WARM_UP = 50
"""Tasks sent before the clock starts: imports, caches and directories are then in place."""

_PAUSE = (0.010, 0.030)  # seconds between calls to an idle worker, uneven so that no timer falls into step
_GIVE_UP = 30.0


@dataclass(frozen=True)
class Job:
    """What to send.

    :param kind: ``enqueue`` or ``latency``.
    :param tasks: the number of tasks, after the warm-up.
    :param batch: the number of tasks that are sent at a time.
    :param threads: the number of threads that send at once.
    :param answer: the file in which the figures are reported.
    """

    kind: str
    tasks: int
    answer: str
    batch: int = 1
    threads: int = 1

    def dump(self) -> str:
        """Return it as text for the environment."""
        return json.dumps(asdict(self))


def perform(
    noop: Callable[[int], object],
    stamp: Callable[[int, int], object],
    many: Callable[[Sequence[int]], object] | None = None,
) -> None:
    """Do the job of the environment with the tasks of one system. The answer appears only when it is complete."""
    job = Job(**json.loads(os.environ[JOB]))
    _answer(job, {"seconds": _enqueue(job, noop, many)} if job.kind == "enqueue" else {"calls": _call_idle(job, stamp)})


async def perform_async(
    noop: Callable[[int], Awaitable[object]],
    stamp: Callable[[int, int], Awaitable[object]],
    many: Callable[[Sequence[int]], Awaitable[object]],
) -> None:
    """Do the same for a system whose calls are coroutines."""
    job = Job(**json.loads(os.environ[JOB]))
    if job.kind == "enqueue":
        _answer(job, {"seconds": await _enqueue_async(job, noop, many)})
    else:
        _answer(job, {"calls": await _call_idle_async(job, stamp)})


def _answer(job: Job, figures: dict[str, float]) -> None:
    draft = f"{job.answer}.draft"
    with open(draft, "w", encoding="ascii") as file:
        json.dump(figures, file)
    os.rename(draft, job.answer)


def _enqueue(job: Job, noop: Callable[[int], object], many: Callable[[Sequence[int]], object] | None) -> float:
    for number in range(WARM_UP):
        noop(number)
    if job.threads > 1:
        with ThreadPoolExecutor(job.threads) as pool:
            begun = monotonic_ns()
            for _ in pool.map(noop, range(job.tasks)):
                pass
    elif job.batch == 1:
        begun = monotonic_ns()
        for number in range(job.tasks):
            noop(number)
    else:
        assert many is not None
        begun = monotonic_ns()
        for start in range(0, job.tasks, job.batch):
            many(range(start, min(start + job.batch, job.tasks)))
    return (monotonic_ns() - begun) / 1e9


async def _enqueue_async(
    job: Job, noop: Callable[[int], Awaitable[object]], many: Callable[[Sequence[int]], Awaitable[object]]
) -> float:
    for number in range(WARM_UP):
        await noop(number)
    begun = monotonic_ns()
    if job.batch == 1:
        for number in range(job.tasks):
            await noop(number)
    else:
        for start in range(0, job.tasks, job.batch):
            await many(range(start, min(start + job.batch, job.tasks)))
    return (monotonic_ns() - begun) / 1e9


def _call_idle(job: Job, stamp: Callable[[int, int], object]) -> int:
    for index in range(job.tasks):
        stamp(index, monotonic_ns())
        deadline = monotonic_ns() + _GIVE_UP * 1e9
        time.sleep(random.uniform(*_PAUSE))
        while not witness.seen(index):
            if monotonic_ns() > deadline:
                return index
            time.sleep(_PAUSE[0])
    return job.tasks


async def _call_idle_async(job: Job, stamp: Callable[[int, int], Awaitable[object]]) -> int:
    for index in range(job.tasks):
        await stamp(index, monotonic_ns())
        deadline = monotonic_ns() + _GIVE_UP * 1e9
        await asyncio.sleep(random.uniform(*_PAUSE))
        while not witness.seen(index):
            if monotonic_ns() > deadline:
                return index
            await asyncio.sleep(_PAUSE[0])
    return job.tasks
