"""RQ, on Redis; its worker is ``rq worker`` with ``SimpleWorker``, which does not fork for each task."""

import os

from redis import Redis
from rq import Queue

from benchmarks import caller, witness

_queue = Queue(connection=Redis(port=int(os.environ["BENCH_REDIS"])))


def noop(number):
    """Does nothing but be counted."""
    witness.mark()


def send(number):
    """Sends one; nothing is kept of its result."""
    _queue.enqueue("benchmarks.peers.on_rq.noop", number, result_ttl=0)


if __name__ == "__main__":
    caller.perform(send, send)
