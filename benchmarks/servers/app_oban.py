"""The tasks for Oban, and their caller, ``main``."""

import os

import orjson
import uvloop
from oban import Oban, job
from psycopg.types.json import set_json_dumps, set_json_loads
from psycopg_pool import AsyncConnectionPool

from benchmarks import caller, witness


@job(queue="default")
async def noop(number: int) -> None:
    """Only count the run."""
    witness.mark()


@job(queue="default")
async def stamp(index: int, called: int) -> None:
    """Record the time since the call."""
    witness.stamp(index, called)


async def _call() -> None:
    set_json_dumps(orjson.dumps)
    set_json_loads(orjson.loads)
    async with AsyncConnectionPool(os.environ["BENCH_URL"], min_size=1, open=False) as pool:
        oban = Oban(pool=pool)
        await caller.perform_async(
            lambda number: oban.enqueue(noop.new(number)),
            lambda index, called: oban.enqueue(stamp.new(index, called)),
            lambda numbers: oban.enqueue_many([noop.new(number) for number in numbers]),
        )


def main() -> None:
    """Call tasks."""
    uvloop.run(_call())
