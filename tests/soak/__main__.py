"""``make soak``: producers, two workers and real uWSGI on one directory, a fault every few seconds, and an account.

Needs root, for an ext4 of its own whose power it cuts. The seed and the number of a fault decide what it is, so
``SEED=… FROM=…`` goes on where another soak stopped.
"""

import argparse
import ctypes
import os
import platform
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.faults.ext4 import Ext4
from unspool.backends.spool.sweep import leftovers
from unspool.message import State

from . import oracle
from .faults import Faults, key_of
from .processes import Cast, Sample

_CLONE_NEWNS = 0x00020000
_HELD = {
    "descriptors": "descriptors of a supervisor with its workers",
    "processes": "processes, the same",
    "memory": "megabytes, the same",
    "own_memory": "megabytes of the supervisor itself",
}
_DRAIN = 300.0
_WARM, _LIFE = 30.0, 60.0  # seconds in which a supervisor fills up, and those after that of which a slope is taken


def main() -> int:
    """Soaks, prints the account; 0 if all promises were kept."""
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    _own_mounts()
    print(f"seed {options.seed}, from fault {options.first}", flush=True)
    place = Path(tempfile.mkdtemp(prefix="unspool-soak.", dir=options.directory))
    (place / "begun").mkdir()
    clock = place / "clock"
    clock.write_bytes(struct.pack("d", 0.0))
    disk = Ext4(place, options.size)
    cast = Cast(place, disk.root / "mail", clock, f"{options.seed} {options.first}", options.pause)
    faults = Faults(cast, disk, clock, options.seed)
    samples: list[Sample] = []
    number = options.first
    try:
        cast.start_all()
        end = time.monotonic() + options.minutes * 60
        while time.monotonic() < end:
            _wait(random.Random(f"{options.seed} wait {number}").uniform(*options.every), cast, samples)
            faults.strike(number)
            number += 1
            if number % 50 == 0:
                print(f"fault {number}, {int(end - time.monotonic())} s left", flush=True)
        waiting, aside, reasons, drafts = _settle(cast)
    finally:
        cast.end()
        cast.backend.close()
        disk.close()
    lines = oracle.read(Path(cast.log))
    verdict = oracle.judge(lines, waiting, aside)
    kept = _account(options, verdict, faults, samples, reasons, drafts, lines, number)
    if kept and not options.keep:
        shutil.rmtree(place)
    else:
        print(f"the logs are in {place}")
    return 0 if kept else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="how long (default 60)")
    parser.add_argument("--seed", default="", help="what decides the faults (default: a new one)")
    parser.add_argument("--from", dest="first", type=int, default=0, help="the number of the first fault (default 0)")
    parser.add_argument("--every", type=float, nargs=2, default=(1.0, 6.0), help="seconds between faults, from and to")
    parser.add_argument(
        "--pause", type=float, default=0.1, help="seconds between two sends of a producer (default 0.1)"
    )
    parser.add_argument("--size", type=int, default=256, help="megabytes of the disk (default 256)")
    parser.add_argument("--directory", help="where to work (default: the system's temporary directory)")
    parser.add_argument("--keep", action="store_true", help="keep the logs in any case")
    options = parser.parse_args()
    options.seed = options.seed or str(random.randrange(1 << 32))
    return options


def _own_mounts() -> None:
    """Mounts that end with this process, however that ends."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS) != 0:
        sys.exit("a soak needs root, for a disk of its own")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)


def _wait(seconds: float, cast: Cast, samples: list[Sample]) -> None:
    samples.extend(cast.sample(time.monotonic()))
    time.sleep(seconds)


def _settle(cast: Cast) -> tuple[set[str], set[str], dict[str, int], int]:
    """Lets all be run that can be; what is then still there."""
    for name in ("producer-1", "producer-2"):
        cast.kill(name)
    cast.start_working()
    deadline = time.monotonic() + _DRAIN
    while time.monotonic() < deadline:
        counts = cast.backend.counts()
        if not counts[State.READY] + counts[State.RUNNING] + counts[State.DEFERRED]:
            break
        for entry in cast.backend.entries(frozenset({State.DEFERRED})):
            if entry.due > time.time() + 60 and key_of(Path(entry.id)):  # put off by a clock that was ahead
                cast.backend.retry(entry.id)
        time.sleep(1)
    for name in ("uwsgi", "supervisor"):
        cast.kill(name, grace=10)
    for _ in leftovers(cast.backend._directory):  # as a supervisor would, after its next scan
        pass
    waiting = {
        key_of(Path(entry.id))
        for entry in cast.backend.entries(frozenset({State.READY, State.DEFERRED, State.RUNNING}))
    }
    aside: set[str] = set()
    reasons: dict[str, int] = {}
    for entry in cast.backend.entries(frozenset({State.DEAD, State.CORRUPT})):
        path = Path(entry.id)
        key = key_of(path) if path.is_file() and not path.is_symlink() else ""
        aside.add(key)
        reason = entry.reason.replace(key, "…") if key else ""
        what = f"{key.rpartition(':')[2]}: {reason or 'no reason could be written'}" if key else "thrown in"
        reasons[what] = reasons.get(what, 0) + 1
    drafts = sum(not name.startswith(".") for name in os.listdir(cast.spool / ".unspool" / "tmp"))
    return waiting - {""}, aside - {""}, reasons, drafts


def _slopes(samples: list[Sample]) -> dict[str, float]:
    """What a supervisor gains in an hour: over all that lived for so long, from when they were warm."""
    lives: dict[int, list[Sample]] = {}
    for sample in samples:
        lives.setdefault(sample.pid, []).append(sample)
    slopes = {}
    for name in ("descriptors", "own_memory", "processes"):
        above = below = 0.0
        for whole in lives.values():
            life = [sample for sample in whole if sample.at > whole[0].at + _WARM]
            if len(life) < 5 or life[-1].at - life[0].at < _LIFE:
                continue
            at = sum(sample.at for sample in life) / len(life)
            mean = sum(getattr(sample, name) for sample in life) / len(life)
            above += sum((sample.at - at) * (getattr(sample, name) - mean) for sample in life)
            below += sum((sample.at - at) ** 2 for sample in life)
        if below:  # else none lived long enough
            slopes[name] = 3600 * above / below
    return slopes


def _account(
    options: argparse.Namespace,
    verdict: oracle.Verdict,
    faults: Faults,
    samples: list[Sample],
    reasons: dict[str, int],
    drafts: int,
    lines: list[oracle.Line],
    number: int,
) -> bool:
    table = Table(
        "what", "how much", title=f"soak of {options.minutes:g} min, seed {options.seed}, {platform.platform()}"
    )
    recoveries = sorted(verdict.recoveries)
    tracebacks = sum(line.word == "traceback" for line in lines)
    slopes = _slopes(samples)
    rows = {
        "faults": number - options.first,
        "tasks acknowledged": verdict.acknowledged,
        "ended": verdict.ended,
        "lost": len(verdict.lost),
        "still waiting": verdict.waiting,
        "set aside": verdict.aside,
        "runs made twice for a fault": f"{verdict.repeated}, at most {verdict.bound}",
        "runs made twice for none": len(verdict.unexplained),
        "two runs at once": len(verdict.at_once),
        "sends refused": sum(line.word == "refused" for line in lines),
        "workers killed in mid-task": len(recoveries),
        "recovery, median": f"{recoveries[len(recoveries) // 2] * 1000:.0f} ms" if recoveries else "",
        "recovery, longest": f"{recoveries[-1]:.2f} s" if recoveries else "",
        "drafts left behind": drafts,
        "tracebacks of the command line": tracebacks,
    }
    for name, what in _HELD.items():
        most = f"at most {max(getattr(sample, name) for sample in samples):.0f}"
        rows[what] = f"{slopes[name]:+.2f} an hour, {most}" if name in slopes else most
    for what, how_much in rows.items():
        table.add_row(what, str(how_much))
    for what, how_often in sorted(faults.done.items()):
        table.add_row(f"fault: {what}", str(how_often))
    for what, how_often in sorted(reasons.items()):
        table.add_row(f"aside: {what}", str(how_often))
    Console(width=150).print(table)
    for name in ("lost", "unexplained", "at_once"):
        for key in getattr(verdict, name)[:20]:
            print(name, key)
    return not (verdict.lost or verdict.unexplained or verdict.at_once or verdict.waiting or drafts or tracebacks)


if __name__ == "__main__":
    sys.exit(main())
