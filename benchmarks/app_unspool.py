"""The tasks as unspool runs them; run as a program, their caller."""

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


if __name__ == "__main__":
    caller.perform(noop, stamp, noop.enqueue_many)
