"""The tasks for procrastinate, and their caller, ``main``."""

import os

import procrastinate

from benchmarks import caller, witness

_url = os.environ["BENCH_URL"]
app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=_url, min_size=1, max_size=20))


@app.task
async def noop(number: int) -> bool:
    """Only count the run."""
    witness.mark()
    return True


@app.task
async def stamp(index: int, called: int) -> bool:
    """Record the time since the call."""
    witness.stamp(index, called)
    return True


def main() -> None:
    """Call tasks."""
    connector = procrastinate.SyncPsycopgConnector(conninfo=_url, min_size=1)
    with app.replace_connector(connector) as calling, calling.open():
        caller.perform(
            lambda number: noop.defer(number=number),
            lambda index, called: stamp.defer(index=index, called=called),
            lambda numbers: noop.batch_defer(*({"number": number} for number in numbers)),
        )
