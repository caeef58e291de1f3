"""``python -m benchmarks.operations``: what people do to a spool with a million files, alone and beside two workers.

Of ten files seven are ready, one has a priority, one is postponed and one is dead. Each command is a process of its
own, of which time and peak memory are taken. The tasks write down their numbers, so that it can be told afterwards
whether each ran at most once, none that was removed ran, and all the others are still there.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from unspool import codec, wire
from unspool.backends.spool import SpoolBackend
from unspool.message import Message
from unspool.testing.exchange import sealed

from .filesystem import Place, ground
from .processes import running, wait_until

_PAST, _FUTURE = 1_700_000_000, 4_000_000_000  # unix seconds
_STEP = 20  # microseconds between two tasks that were sent one after the other
_PRIORITIES = 10
_MANY = 1_000  # ids that are given to one command
_APP = """
import os, time
from unspool import Spooler

notes = os.open(os.environ["NOTES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

@Spooler.task
def mark(number):
    time.sleep(0.002)
    os.write(notes, b"%d\\n" % number)
    return True
"""
_READY, _URGENT, _POSTPONED, _DEAD = 0, 7, 8, 9  # last digits of numbers; 0 to 6 are ready alike


class Took(NamedTuple):
    """The seconds and the peak megabytes of a command, and the last line that it printed."""

    seconds: float
    cpu: float
    memory: float
    last: str


class Crowd:
    """A spool with many files, and an application for them."""

    def __init__(self, place: Place, files: int) -> None:
        self.root, self.scratch, self.files = place.spool, place.scratch, files
        self.notes = place.scratch / "notes"
        self.notes.touch()
        (place.scratch / "crowd.py").write_text(_APP)
        paths = os.pathsep.join([str(place.scratch), *filter(None, sys.path)])
        self.env = {"UNSPOOL_SPOOLERS": str(self.root), "NOTES": str(self.notes), "PYTHONPATH": paths}
        self.backend = SpoolBackend(str(self.root), durable=False)
        self.removed: set[int] = set()
        self.retried: set[int] = set()
        self._used = dict.fromkeys(range(10), files // 10)

    def fill(self) -> None:
        """Write the files directly, in random order."""
        self.backend.send([])
        at = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)
        for part in range(_PRIORITIES):
            os.mkdir(str(part), dir_fd=at)
        for number in range(self.files):
            payload = {"func": "crowd:mark", "arg": (number,), "kwg": {}}
            task = sealed(codec.encode(Message(codec.FCALL, payload, "crowd:mark", None, None, "json")))
            ref = self._ref(number)
            due = (_FUTURE if number % 10 == _POSTPONED else _PAST) + number * _STEP / 1_000_000
            _write(at, ref, wire.dump(task.vars, task.body, None), due)
            if number % 10 == _DEAD:
                _write(at, f"{ref}.reason", b'{"reason": "ValueError: no", "attempts": 20}', due)
        os.close(at)

    def take(self, digit: int, count: int = 1, *, removed: bool = False) -> list[str]:
        """Return the paths of tasks with this last digit that are still unchanged, beginning with those that
        run last.
        """
        self._used[digit] -= count
        numbers = [number * 10 + digit for number in range(self._used[digit], self._used[digit] + count)]
        if removed:
            self.removed.update(numbers)
        return [str(self.root / self._ref(number)) for number in numbers]

    def unspool(self, *words: str) -> Took:
        """Run a command."""
        return self._run([str(Path(sys.executable).with_name("unspool")), *words])

    def python(self, code: str) -> Took:
        """Run a program."""
        return self._run([sys.executable, "-c", code])

    def _run(self, command: Sequence[str]) -> Took:
        out = self.scratch / "out"
        with out.open("wb") as file:
            begun = time.monotonic()
            process = subprocess.Popen(command, env=os.environ | self.env, stdout=file, stderr=file)
            _, status, usage = os.wait4(process.pid, 0)
            seconds = time.monotonic() - begun
            process.returncode = os.waitstatus_to_exitcode(status)
        with out.open("rb") as file:
            file.seek(max(out.stat().st_size - 10_000, 0))
            tail = file.read().decode(errors="replace").splitlines() or [""]
        if process.returncode:
            raise SystemExit(f"{command}: status {process.returncode}: {tail[-5:]}")
        return Took(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, tail[-1])

    def _ref(self, number: int) -> str:
        lead, begun = "", _PAST
        match number % 10:
            case 7:
                lead = f"{number // 10 % _PRIORITIES}/"
            case 8:
                begun = _FUTURE
            case 9:
                lead = ".unspool/dead/"
        seconds, rest = divmod(number * _STEP, 1_000_000)
        return f"{lead}uwsgi_spoolfile_on_benchmark_1_{number}_1_{begun + seconds}_{rest:06d}"

    def account(self) -> str:
        """Check what has become of all tasks.

        :raises SystemExit: if something happened that must not happen.
        """
        ran = [int(line) for line in self.notes.read_text().splitlines()]
        left = {
            _number(name)
            for _, _, names in os.walk(self.root)
            for name in names
            if "_on_benchmark_" in name and not name.endswith(".reason")
        }
        problems = {
            "ran twice": len(ran) - len(set(ran)),
            "ran although removed": len(self.removed.intersection(ran)),
            "there although removed": len(self.removed & left),
            "there although run": len(left.intersection(ran)),
            "lost": self.files - len(left.union(ran, self.removed)),
        }
        if any(problems.values()):
            raise SystemExit(f"broken promises: {problems}")
        return f"{len(ran):,} ran, {len(self.removed):,} removed, {len(left):,} left: each once, none lost"


def _write(at: int, ref: str, data: bytes, due: float) -> None:
    fd = os.open(ref, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=at)
    os.write(fd, data)
    os.utime(fd, (due, due))
    os.close(fd)


def _number(id: str) -> int:
    return int(id.split("_on_benchmark_1_")[1].split("_", maxsplit=1)[0])


def operations(crowd: Crowd, *, whole: bool) -> Iterator[tuple[str, Took]]:
    """Measure each operation: first reads and changes of a few tasks, then those of many.

    :param whole: whether to list all tasks, too, which takes minutes.
    """
    unspool = crowd.unspool
    many = f"{_MANY:,} ids"
    tasks = "from unspool import Spooler; print(len(Spooler.get_tasks({})))"
    yield "status", unspool("status")
    yield "ls --limit 20", unspool("ls", "--limit", "20")
    yield "ls --limit 20 --json", unspool("ls", "--limit", "20", "--json")
    yield "ls --limit 20 --state deferred", unspool("ls", "--limit", "20", "--state", "deferred")
    yield "ls --limit 20 --state dead", unspool("ls", "--limit", "20", "--state", "dead")
    yield "ls --state running", unspool("ls", "--state", "running")
    yield "get_tasks(20)", crowd.python(tasks.format(20))
    yield "show, by path", unspool("show", *crowd.take(_POSTPONED))
    (path,) = crowd.take(_URGENT)
    yield "show, by name", unspool("show", os.path.basename(path))
    yield "pause", unspool("pause")
    yield "resume", unspool("resume")
    (path,) = crowd.take(_POSTPONED)
    crowd.retried.add(_number(path))
    yield "retry, a postponed one", unspool("retry", path)
    yield f"retry, {many}", unspool("retry", *crowd.take(_DEAD, _MANY))
    yield "rm", unspool("rm", *crowd.take(_READY, removed=True))
    yield f"rm, {many}", unspool("rm", *crowd.take(_READY, _MANY, removed=True))
    if whole:
        yield "ls", unspool("ls")
        yield "ls --json", unspool("ls", "--json")
        yield "get_tasks()", crowd.python(tasks.format(""))
    yield "retry --all-dead", unspool("retry", "--all-dead")
    crowd.removed.update(range(_POSTPONED, crowd.files, 10))
    crowd.removed.difference_update(crowd.retried)
    yield "purge --state deferred", unspool("purge", "--state", "deferred", "--yes")


def scan(crowd: Crowd) -> float:
    """Return the seconds that only reading the names takes."""
    begun = time.monotonic()
    for part in ("", *map(str, range(_PRIORITIES))):
        with os.scandir(crowd.root / part) as entries:
            for _ in entries:
                pass
    return time.monotonic() - begun


def main() -> None:
    """Measure, print and check."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.operations", description=__doc__)
    parser.add_argument("--files", type=int, default=1_000_000, help="in all (default 1000000)")
    parser.add_argument("--workers", action="store_true", help="beside two workers")
    parser.add_argument("--short", action="store_true", help="without listing all, which takes minutes")
    parser.add_argument("--directory", help="where to make the image; its disk is what is measured")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # so that all is ended and unmounted
    console = Console(width=120)
    with ground(options.files * 11 // 10, options.directory) as found, found.place() as place:
        crowd = Crowd(place, options.files)
        crowd.fill()
        found.settle()
        console.print(found.kind, found.note)
        scanned = scan(crowd)
        if options.workers:
            command = [sys.executable, "-m", "unspool", "run", "crowd", "--processes", "2", "--log-level", "error"]
            with running(command, crowd.env, place.scratch / "log") as worker:
                wait_until(lambda: crowd.notes.stat().st_size > 1000, worker, 60)
                took = list(operations(crowd, whole=not options.short))
        else:
            took = list(operations(crowd, whole=not options.short))
        table = Table("", "s", "s of a processor", "MB", "last line")
        table.add_row("one scan of the names", f"{scanned:.1f}", "", "", "")
        for name, one in took:
            table.add_row(name, f"{one.seconds:.2f}", f"{one.cpu:.2f}", f"{one.memory:.0f}", one.last[:40])
        console.print(table)
        console.print(crowd.account())


if __name__ == "__main__":
    main()
