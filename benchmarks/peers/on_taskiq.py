"""taskiq on a list in Redis, without results. All tasks are sent on one event loop."""

import asyncio
import os

from taskiq_redis import ListQueueBroker

from benchmarks import caller, witness

broker = ListQueueBroker(f"redis://127.0.0.1:{os.environ['BENCH_REDIS']}/0")


@broker.task(task_name="noop")
async def noop(number):
    """Only count the run."""
    witness.mark()


if __name__ == "__main__":
    loop = asyncio.new_event_loop()
    loop.run_until_complete(broker.startup())

    def send(number):
        """Send one task."""
        loop.run_until_complete(noop.kiq(number))

    caller.perform(send, send)
