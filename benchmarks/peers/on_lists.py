"""persist-queue or litequeue, by ``BENCH_KIND``: queues without executors, so the worker is a simple loop."""

import os
import pickle
import sys

from benchmarks import caller, witness

_place = os.environ["BENCH_SPOOL"]

if os.environ["BENCH_KIND"] == "persist-queue":
    from persistqueue import SQLiteAckQueue

    _queue = SQLiteAckQueue(_place, multithreading=True, auto_commit=True)
    send = _queue.put

    def run_one():
        """Takes one, runs it, says so."""
        item = _queue.get(block=True)
        witness.mark()
        _queue.ack(item)
else:
    from litequeue import LiteQueue

    _lite = LiteQueue(f"{_place}/lite.db")

    def send(number):
        """Send one task."""
        _lite.put(pickle.dumps(number).hex())

    def run_one():
        """Takes one, runs it, says so."""
        message = _lite.pop()
        if message is not None:
            pickle.loads(bytes.fromhex(message.data))
            witness.mark()
            _lite.done(message.message_id)


if __name__ == "__main__":
    if sys.argv[1:] == ["work"]:
        while True:
            run_one()
    caller.perform(send, send)
