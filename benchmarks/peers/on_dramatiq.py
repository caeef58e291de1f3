"""dramatiq on Redis: one process with eight threads, as by default."""

import os

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from benchmarks import caller, witness

dramatiq.set_broker(RedisBroker(port=int(os.environ["BENCH_REDIS"])))


@dramatiq.actor
def noop(number):
    """Only count the run."""
    witness.mark()


if __name__ == "__main__":
    caller.perform(noop.send, noop.send)
