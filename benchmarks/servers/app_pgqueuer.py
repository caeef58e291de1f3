"""The tasks for PgQueuer, and their caller, ``main``."""

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import asyncpg
import uvloop
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver
from pgqueuer.models import Job
from pgqueuer.queries import Queries

from benchmarks import caller, witness


async def _driver() -> AsyncpgDriver:
    return AsyncpgDriver(await asyncpg.connect(os.environ["BENCH_URL"]))


@asynccontextmanager
async def worker() -> AsyncIterator[PgQueuer]:
    """Return what a worker runs."""
    queuer = PgQueuer(await _driver())

    @queuer.entrypoint("noop")
    async def noop(job: Job) -> None:
        witness.mark()

    @queuer.entrypoint("stamp")
    async def stamp(job: Job) -> None:
        index, called = map(int, (job.payload or b"").split())
        witness.stamp(index, called)

    yield queuer


async def _call() -> None:
    queries = Queries(await _driver())

    async def many(numbers: Sequence[int]) -> object:
        size = len(numbers)
        return await queries.enqueue(["noop"] * size, [b"%d" % number for number in numbers], [0] * size)

    await caller.perform_async(
        lambda number: queries.enqueue("noop", b"%d" % number),
        lambda index, called: queries.enqueue("stamp", b"%d %d" % (index, called)),
        many,
    )


def main() -> None:
    """Call tasks."""
    uvloop.run(_call())
