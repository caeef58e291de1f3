"""Celery on Redis, without results. Its worker prefetches messages, as by default."""

import os

from celery import Celery

from benchmarks import caller, witness

app = Celery("bench", broker=f"redis://127.0.0.1:{os.environ['BENCH_REDIS']}/0")
app.conf.task_ignore_result = True


@app.task(name="noop")
def noop(number):
    """Only count the run."""
    witness.mark()


if __name__ == "__main__":
    caller.perform(noop.delay, noop.delay)
