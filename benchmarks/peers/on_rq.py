"""RQ on Redis. Its worker is ``rq worker`` with ``SimpleWorker``, which does not fork for each task."""

import os

from redis import Redis
from rq import Queue

from benchmarks import caller, witness

_queue = Queue(connection=Redis(port=int(os.environ["BENCH_REDIS"])))


def noop(number):
    """Only count the run."""
    witness.mark()


def send(number):
    """Send one task, whose result is not kept."""
    _queue.enqueue("benchmarks.peers.on_rq.noop", number, result_ttl=0)


if __name__ == "__main__":
    caller.perform(send, send)
