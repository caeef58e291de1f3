"""The tasks for unspool. As a program, this module is their caller."""

import asyncio
import time

from benchmarks import caller, witness
from unspool import Spooler


@Spooler.task
def noop(number: int) -> bool:
    """Only count the run."""
    witness.mark()
    return True


@Spooler.task
def stamp(index: int, called: int) -> bool:
    """Record the time since the call."""
    witness.stamp(index, called)
    return True


@Spooler.task
def nap(seconds: float) -> bool:
    """Take a while."""
    witness.mark()
    time.sleep(seconds)
    return True


@Spooler.task
async def rest(seconds: float) -> bool:
    """Take a while, and let other coroutines run meanwhile."""
    witness.mark()
    await asyncio.sleep(seconds)
    return True


if __name__ == "__main__":
    caller.perform(noop, stamp, noop.enqueue_many)
