"""huey on SQLite, files or Redis, by ``BENCH_KIND``. Its worker is ``huey_consumer``."""

import os

from huey import FileHuey, RedisHuey, SqliteHuey

from benchmarks import caller, witness

_place = os.environ["BENCH_SPOOL"]
huey = {
    "sqlite": lambda: SqliteHuey("bench", filename=f"{_place}/huey.db", results=False),
    "file": lambda: FileHuey("bench", path=f"{_place}/huey", results=False),
    "redis": lambda: RedisHuey("bench", port=int(os.environ["BENCH_REDIS"]), results=False),
}[os.environ["BENCH_KIND"]]()


@huey.task()
def noop(number):
    """Only count the run."""
    witness.mark()


if __name__ == "__main__":
    from benchmarks.peers import on_huey  # noqa: PLW0406  its worker knows it by the module's name

    caller.perform(on_huey.noop, on_huey.noop)
