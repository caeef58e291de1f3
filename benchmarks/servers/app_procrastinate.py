"""The tasks as procrastinate runs them; and their caller, ``main``."""

import os

import procrastinate

from benchmarks import caller, witness

_url = os.environ["BENCH_URL"]
app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=_url, min_size=1, max_size=20))


@app.task
async def noop(number: int) -> bool:
    """Does nothing but be counted."""
    witness.mark()
    return True


@app.task
async def stamp(index: int, called: int) -> bool:
    """Notes how long ago it was called."""
    witness.stamp(index, called)
    return True


def main() -> None:
    """Calls."""
    connector = procrastinate.SyncPsycopgConnector(conninfo=_url, min_size=1)
    with app.replace_connector(connector) as calling, calling.open():
        caller.perform(
            lambda number: noop.defer(number=number),
            lambda index, called: stamp.defer(index=index, called=called),
            lambda numbers: noop.batch_defer(*({"number": number} for number in numbers)),
        )
