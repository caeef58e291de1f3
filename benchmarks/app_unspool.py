"""The tasks as unspool runs them; run as a program, their caller."""

import asyncio
import time

from benchmarks import caller, witness
from unspool import Spooler


@Spooler.task
def noop(number: int) -> bool:
    """Does nothing but be counted."""
    witness.mark()
    return True


@Spooler.task
def stamp(index: int, called: int) -> bool:
    """Notes how long ago it was called."""
    witness.stamp(index, called)
    return True


@Spooler.task
def nap(seconds: float) -> bool:
    """Takes a while."""
    witness.mark()
    time.sleep(seconds)
    return True


@Spooler.task
async def rest(seconds: float) -> bool:
    """Takes a while, and lets others work meanwhile."""
    witness.mark()
    await asyncio.sleep(seconds)
    return True


if __name__ == "__main__":
    caller.perform(noop, stamp, noop.enqueue_many)
