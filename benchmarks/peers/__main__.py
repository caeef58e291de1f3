"""``make bench-peers``: enqueue and drain of other task queues for Python, each with fast settings in a separate
environment, on the same file system as unspool and uWSGI in the same run.

Their versions and the date are printed.
"""

import argparse
import contextlib
import json
import shutil
import signal
import socket
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from benchmarks import machine
from benchmarks.environments import Environment, environment
from benchmarks.filesystem import Ground, Place, ground
from benchmarks.processes import Failed, running, wait_until
from benchmarks.system import System
from benchmarks.unspool_side import Unspool
from benchmarks.uwsgi_side import Uwsgi

_RESULTS = Path(__file__).parent.parent / "results"
_REDIS = "is in Redis's memory; on its disk within a second, with appendfsync everysec"


class Kind(NamedTuple):
    """One queue.

    :param packages: the packages of its environment, the queue itself first.
    :param module: its module in this package.
    :param work: the worker's command in the environment's ``bin/``; ``python`` for the loop of the module.
    :param acknowledged: what holds for a task when the call returns.
    """

    name: str
    packages: tuple[str, ...]
    module: str
    work: tuple[str, ...]
    acknowledged: str
    kind: str = ""
    minimum: tuple[int, int] = (3, 11)  # version of Python

    @property
    def redis(self) -> bool:
        """Whether it needs a Redis."""
        return self.acknowledged == _REDIS


_HUEY = ("huey_consumer", "benchmarks.peers.on_huey.huey", "-w", "1", "-k", "process", "-d", "0.001", "-m", "0.01")
_ALONE = ("python", "-m", "benchmarks.peers.on_lists", "work")
KINDS = (
    Kind("huey, SQLite", ("huey", "redis"), "on_huey", _HUEY, "is in SQLite, with its own syncs", "sqlite"),
    Kind("huey, files", ("huey", "redis"), "on_huey", _HUEY, "is a file, not synced", "file"),
    Kind("huey, Redis", ("huey", "redis"), "on_huey", _HUEY, _REDIS, "redis"),
    Kind("RQ", ("rq",), "on_rq", ("rq", "worker", "--worker-class", "rq.SimpleWorker", "--quiet", "--url"), _REDIS),
    Kind(
        "Celery", ("celery", "redis", "packaging"), "on_celery",  # the last of which its transport does not ask for
        ("celery", "-A", "benchmarks.peers.on_celery", "worker", "-c", "1", "--loglevel", "ERROR"), _REDIS,
    ),
    Kind(
        "dramatiq", ("dramatiq", "redis"), "on_dramatiq",
        ("dramatiq", "benchmarks.peers.on_dramatiq", "-p", "1"), _REDIS,
    ),
    Kind(
        "taskiq", ("taskiq", "taskiq-redis"), "on_taskiq",
        ("taskiq", "worker", "benchmarks.peers.on_taskiq:broker", "--workers", "1", "--log-level", "ERROR"), _REDIS,
    ),
    Kind("persist-queue", ("persist-queue",), "on_lists", _ALONE, "is in SQLite, with its own syncs", "persist-queue"),
    Kind("litequeue", ("litequeue",), "on_lists", _ALONE, "is in SQLite, not synced", "litequeue"),
    Kind(
        "django-tasks-db, SQLite", ("django-tasks-db", "django>=6"), "on_django",
        ("python", "-m", "benchmarks.peers.on_django", "work"), "is in SQLite, synced with its log", minimum=(3, 12),
    ),
)  # fmt: skip


class Peer(System):
    """Another task queue.

    :param made: its environment.
    :param port: the port of a Redis, if it needs one.
    """

    def __init__(self, kind: Kind, made: Environment, port: int) -> None:
        super().__init__({"BENCH_KIND": kind.kind, "BENCH_REDIS": str(port)})
        self.name = kind.name
        self._kind = kind
        self._made = made
        self._port = port

    def calling(self, place: Place) -> list[str]:
        return [self._made.program("python"), "-m", f"benchmarks.peers.{self._kind.module}"]

    def working(self, place: Place, workers: int) -> list[str]:
        command = [self._made.program(self._kind.work[0]), *self._kind.work[1:]]
        return [*command, f"redis://127.0.0.1:{self._port}"] if command[-1] == "--url" else command

    def calling_idle(self, place: Place) -> tuple[list[str], list[str]]:
        return self.calling(place), self.working(place, 1)

    def enqueue(self, ground: Ground, tasks: int, batch: int = 1, threads: int = 1) -> float:
        _empty(self._port)
        return super().enqueue(ground, tasks, batch, threads)

    def drain(self, ground: Ground, tasks: int, workers: int) -> float:
        _empty(self._port)
        return super().drain(ground, tasks, workers)

    def environment(self, place: Place) -> dict[str, str]:
        return {**super().environment(place), "BENCH_SPOOL": str(place.spool)}


def main() -> int:
    """Measure, print and save. Return the exit status."""
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    console = Console(width=None if sys.stdout.isatty() else 150, highlight=False)
    table = Table(title=f"no-op tasks, 1 worker, medians of {options.runs}; {datetime.now(UTC):%Y-%m-%d}")
    for column in ("", "version", "enqueue /s", "drain /s", "when the call returns, the task"):
        table.add_column(column)
    kept = []
    with ground(options.tasks) as place:
        found = machine.describe(place)
        for name, value in found.items():
            console.print(f"{name}: {value}", markup=False, soft_wrap=True)
        for name, version, figures, acknowledged in _measured(place, options):
            table.add_row(name, version, *(f"{figure:,.0f}" for figure in figures), acknowledged)
            kept.append([name, version, *figures, acknowledged])
    console.print(table)
    path = options.save or _RESULTS / f"peers-{datetime.now(UTC):%Y-%m-%dT%H%M}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": found, "rows": kept}, indent=1) + "\n", encoding="utf-8")
    console.print(f"saved to {path}", soft_wrap=True)
    return 0


def _measured(place: Ground, options: argparse.Namespace) -> Iterator[tuple[str, str, list[float], str]]:
    ours: list[tuple[System, str, str]] = [
        (Unspool("full"), machine.describe(place)["unspool"], "is on the disk"),
        (Unspool("relaxed"), machine.describe(place)["unspool"], "is a whole file, not synced"),
        (Uwsgi(), machine.describe(place)["uWSGI"], "is a file, not synced"),
    ]
    for system, version, acknowledged in ours:
        yield system.name, version, _figures(system, place, options), acknowledged
    for kind in KINDS:
        if options.only and kind.name not in options.only:
            continue
        try:
            made = environment(kind.packages[0], kind.packages[1:], kind.minimum)
            with _redis(place) if kind.redis else contextlib.nullcontext(0) as port:
                yield kind.name, made.version, _figures(Peer(kind, made, port), place, options), kind.acknowledged
        except Failed as failure:  # a peer that does not run is a row that says so, not the end of the others
            print(failure, file=sys.stderr, flush=True)
            yield kind.name, "not measured", [], str(failure).splitlines()[0]


def _figures(system: System, place: Ground, options: argparse.Namespace) -> list[float]:
    found = []
    for name, take in (("enqueue", system.enqueue), ("drain", lambda on, tasks: system.drain(on, tasks, 1))):
        print(f"{system.name}: {name}", file=sys.stderr, flush=True)
        found.append(median(take(place, options.tasks) for _ in range(options.runs)))
    return found


@contextlib.contextmanager
def _redis(place: Ground) -> Iterator[int]:
    """Start a Redis with an append-only file on the same file system, and yield its port."""
    program = shutil.which("redis-server")
    if program is None:
        raise Failed("there is no redis-server (Debian: apt-get install redis-server)")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    with place.place() as own:
        command = [program, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(own.spool)]
        with running([*command, "--appendonly", "yes", "--save", ""], {}, own.scratch / "log") as process:
            wait_until(lambda: _answers(port), process, 15.0)
            yield port


def _empty(port: int) -> None:
    """Remove what a measurement has left in Redis."""
    if port:
        with socket.create_connection(("127.0.0.1", port), 5.0) as redis:
            redis.sendall(b"FLUSHALL\r\n")
            redis.recv(64)


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
        return True
    return False


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--tasks", type=int, default=2_000)
    parser.add_argument("--only", action="append", choices=[kind.name for kind in KINDS])
    parser.add_argument("--save", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failed as failure:
        sys.exit(f"benchmark failed: {failure}")
