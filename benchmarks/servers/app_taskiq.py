"""The tasks for taskiq on NATS JetStream, and their caller, ``main``."""

import asyncio
import os
from collections.abc import Sequence

import uvloop
from taskiq_nats import PullBasedJetStreamBroker

from benchmarks import caller, witness

broker = PullBasedJetStreamBroker(
    [os.environ["BENCH_URL"]], pull_consume_batch=int(os.environ["BENCH_FETCH"]), pull_consume_timeout=1.0
)


@broker.task(task_name="noop")
async def noop(number: int) -> bool:
    """Only count the run."""
    witness.mark()
    return True


@broker.task(task_name="stamp")
async def stamp(index: int, called: int) -> bool:
    """Record the time since the call."""
    witness.stamp(index, called)
    return True


async def _call() -> None:
    await broker.startup()

    async def many(numbers: Sequence[int]) -> None:
        """Send many tasks, and wait for all acknowledgements together, because it has no batches."""
        await asyncio.gather(*map(noop.kiq, numbers))

    await caller.perform_async(noop.kiq, stamp.kiq, many)
    await broker.shutdown()


def main() -> None:
    """Call tasks."""
    uvloop.run(_call())
