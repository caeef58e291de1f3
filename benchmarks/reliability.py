"""``python -m benchmarks.reliability PART``: what docs/reliability.md tells in figures.

``recovery``, ``recovery-uwsgi``: from a worker's kill to the next beginning of the task that it ran. ``durability``:
what syncing costs. ``junk``: a million files that are no good beside a hundred tasks. ``growth``: memory of each
process that works for some minutes.
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from unspool import codec, raw_message
from unspool.backends.spool import SpoolBackend
from unspool.testing.exchange import sealed

from .filesystem import Ground, Place, ground

_ROOT = Path(__file__).resolve().parent.parent
_APP = """
import os, time
from unspool import Spooler

def note(word):
    fd = os.open(os.environ["NOTES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, f"{word} {time.monotonic_ns()} {os.getpid()}\\n".encode())
    os.close(fd)

@Spooler.task
def held(number):
    first = not os.path.exists(f"{os.environ['NOTES']}.{number}")
    open(f"{os.environ['NOTES']}.{number}", "w").close()
    note(f"begun-{number}")
    if first:
        time.sleep(3600)
    return True

@Spooler.task
def good(number):
    note(f"good-{number}")
    return True

@Spooler.task(max_attempts=1)
def bad(number):
    raise ValueError(number)
"""
_STEADY = """
import itertools, time
for number in itertools.count():
    (good if number % 50 else bad)(number)
    time.sleep(0.004)
"""
_WARM, _LOOK = 60.0, 5.0  # seconds in which processes fill up, and between two looks at them


class Stage:
    """A directory with an application, and the process that runs its tasks."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.notes = place.scratch / "notes"
        (place.scratch / "app.py").write_text(_APP)
        self.env = {name: value for name, value in os.environ.items() if not name.startswith("UNSPOOL_")} | {
            "UNSPOOL_SPOOLERS": str(place.spool),
            "NOTES": str(self.notes),
            "PYTHONPATH": os.pathsep.join([str(place.scratch), *filter(None, sys.path)]),
        }

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        """Start a process in its own session."""
        with (self.place.scratch / "log").open("ab") as log:
            return subprocess.Popen(
                command, cwd=self.place.scratch, env=self.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def unspool(self, *options: str) -> subprocess.Popen[bytes]:
        """Start ``unspool run``."""
        return self.start(sys.executable, "-m", "unspool", "run", "app", "--log-level", "error", *options)

    def uwsgi(self) -> subprocess.Popen[bytes]:
        """Start uWSGI with its fastest settings."""
        program = str(Path(sys.executable).with_name("pyuwsgi"))
        return self.start(
            program, "--master", "--die-on-term", "--spooler-quiet", f"--spooler={self.place.spool}",
            "--spooler-frequency=1", "--spooler-import=app",
        )  # fmt: skip

    def send(self, code: str) -> None:
        """Send from another process."""
        subprocess.run([sys.executable, "-c", f"from app import *\n{code}"], env=self.env, check=True)

    def seen(self, word: str, times: int = 1) -> list[tuple[int, int]]:
        """Wait until it was noted this number of times. Return when, in nanoseconds, and by which process."""
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            whole = self.notes.read_text().rpartition("\n")[0] if self.notes.exists() else ""
            lines = whole.splitlines()  # the last one may be seen half written
            found = [(int(at), int(pid)) for text, at, pid in map(str.split, lines) if text == word]
            if len(found) >= times:
                return found
            time.sleep(0.002)
        raise RuntimeError(f"{word} was not seen {times} times")


def recovery(place: Place, kills: int, start: Callable[[Stage], subprocess.Popen[bytes]]) -> str:
    """Kill a worker during a task, again and again."""
    stage = Stage(place)
    process = start(stage)
    took = []
    try:
        for number in range(kills):
            stage.send(f"held({number})")
            ((_, pid),) = stage.seen(f"begun-{number}")
            killed = time.monotonic_ns()
            os.kill(pid, signal.SIGKILL)
            took.append((stage.seen(f"begun-{number}", 2)[1][0] - killed) / 1e6)
    finally:
        process.terminate()
        process.wait(30)
    took.sort()
    return f"{kills} kills: median {statistics.median(took):.1f} ms, longest {took[-1]:.1f} ms"


def durability(place: Place, tasks: int) -> str:
    """Measure the microseconds that sending a task takes."""
    envelope = sealed(codec.encode(raw_message("hello", payload="x" * 100)))
    lines = []
    for durable in (True, False):
        for batch in (1, 100):
            backend = SpoolBackend(str(place.spool / f"{durable}{batch}"), durable=durable)
            for _ in range(20):
                backend.send([envelope] * batch)
            begun = time.monotonic()
            for _ in range(tasks // batch):
                backend.send([envelope] * batch)
            cost = (time.monotonic() - begun) / tasks * 1e6
            lines.append(f"{'full' if durable else 'relaxed'}, {batch} at a time: {cost:.0f} µs a task")
            backend.close()
    return "\n".join(lines)


def junk(place: Place, files: int) -> str:
    """Measure a directory in which a tenth of the files have the names of earlier tasks, and contain garbage."""
    stage = Stage(place)
    backend = SpoolBackend(str(place.spool), durable=False)
    backend.send([])
    for number in range(files):
        name = f"junk_{number}" if number % 10 else f"uwsgi_spoolfile_on_junk_{number}_1_1_1_1"
        fd = os.open(f"{place.spool}/{name}", os.O_WRONLY | os.O_CREAT)
        if not number % 10:
            os.write(fd, b"garbage")
        os.close(fd)
    stage.send("good.enqueue_many(range(100))")
    time.sleep(5)  # after which what is incomplete is no longer taken for being written
    begun = time.monotonic_ns()
    process = stage.unspool("--log-level", "error")
    try:
        last = max(stage.seen(f"good-{number}")[0][0] for number in range(100))
        peaks = {}
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        for name, pid in [("supervisor", process.pid), ("child", *children[:1]), ("child 2", *children[1:2])]:
            for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith("VmHWM"):
                    peaks[name] = f"{int(line.split()[1]) / 1024:.0f} MB"
    finally:
        process.terminate()
        process.wait(60)
    return f"{files} junk files: the hundredth task after {(last - begun) / 1e9:.1f} s; peak memory {peaks}"


def growth(place: Place, seconds: int) -> str:
    """Measure two workers beside a steady sender."""
    stage = Stage(place)
    process = stage.unspool("--processes", "2")
    sender = stage.start(sys.executable, "-c", f"from app import *\n{_STEADY}")
    sizes: dict[int, list[tuple[float, float]]] = {}
    stage.seen("good-1")
    begun = time.monotonic()
    try:
        while (at := time.monotonic() - begun) < seconds:
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            for pid in (process.pid, *map(int, children)):
                pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
                if at > _WARM:
                    sizes.setdefault(pid, []).append((at, pages * 4096 / 1e6))
            time.sleep(_LOOK)
        backend = SpoolBackend(str(place.spool))
        roles = {info.pid: info.role for info in backend.live()}
        done = len(stage.notes.read_text().splitlines())
    finally:
        for one in (sender, process):
            one.terminate()
            one.wait(30)
    lines = [f"{done} tasks; from the second minute to minute {seconds / 60:g}:"]
    for pid, found in sizes.items():
        slope = statistics.linear_regression(*zip(*found, strict=True)).slope * 3600
        role = roles.get(pid, "recorder")
        lines.append(f"{role} {pid}: {found[0][1]:.1f} MB to {found[-1][1]:.1f} MB, {slope:+.2f} MB an hour")
    return "\n".join(lines)


def main() -> None:
    """Measure one part."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reliability", description=__doc__)
    parser.add_argument("part", choices=["recovery", "recovery-uwsgi", "durability", "junk", "growth"])
    parser.add_argument("--number", type=int, help="of kills, tasks, files or seconds")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # so that all is ended and unmounted
    number = options.number or {"durability": 2000, "junk": 1_000_000, "growth": 600}.get(options.part, 100)

    def measure(found: Ground) -> str:
        with found.place() as place:
            match options.part:
                case "recovery":
                    return recovery(place, number, lambda stage: stage.unspool())
                case "recovery-uwsgi":
                    return recovery(place, number, lambda stage: stage.uwsgi())
                case "durability":
                    return durability(place, number)
                case "growth":
                    return growth(place, number)
                case _:
                    return junk(place, number)

    with ground(2 * number if options.part == "junk" else 20_000) as found:
        print(found.kind, found.note)
        print(measure(found))


if __name__ == "__main__":
    main()
