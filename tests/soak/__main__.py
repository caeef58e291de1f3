"""``make soak``: run producers, two supervisors, real uWSGI, operators and a fault every few seconds, then check the
result.

The seed and the number of a fault or operation determine it, so ``SEED=… FROM=…`` continues where another soak stopped.
The soak of a directory needs root, for an ext4 file system of its own.
"""

import argparse
import ctypes
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from . import account, oracle
from .hunt import Hunt
from .target import Target
from .verdict import AT_ONCE, SHORTLY, judge

_CLONE_NEWNS = 0x00020000
_ALL = ("directory", "relaxed", "postgresql", "nats")


def main() -> int:
    """Run the soak and print the account. Return 0 if all promises were kept."""
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    return _all(options) if options.on == "all" else _soak(options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--on", choices=(*_ALL, "all"), default="directory", help="what to soak (default directory)")
    parser.add_argument("--minutes", type=float, default=60.0, help="how long (default 60)")
    parser.add_argument("--seed", default="", help="what decides the faults (default: a new one)")
    parser.add_argument("--from", dest="first", type=int, default=0, help="the number of the first fault (default 0)")
    parser.add_argument("--every", type=float, nargs=2, default=(1.0, 6.0), help="seconds between faults, from and to")
    parser.add_argument(
        "--pause", type=float, default=0.4, help="seconds for each task of a sending thread (default 0.4)"
    )
    parser.add_argument("--place", help="where to work (default: the system's temporary directory)")
    parser.add_argument("--keep", action="store_true", help="keep the logs in any case")
    options = parser.parse_args()
    options.seed = options.seed or str(random.randrange(1 << 32))
    return options


def _all(options: argparse.Namespace) -> int:
    """Run all soaks at once, each in a separate process, and print one account after the other."""
    words = [f"--minutes={options.minutes}", f"--seed={options.seed}", f"--from={options.first}"]
    words += ["--every", *map(str, options.every), f"--pause={options.pause}", *["--keep"] * options.keep]
    words += [f"--place={options.place}"] if options.place else []
    soaks = {
        on: subprocess.Popen(
            [sys.executable, "-m", "tests.soak", "--on", on, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for on in _ALL
    }
    print(
        f"seed {options.seed}; the accounts follow in {options.minutes:g} minutes, and when all has drained", flush=True
    )
    kept = True
    try:
        for on, soak in soaks.items():
            print(f"=== {on}", soak.communicate()[0], sep="\n", flush=True)
            kept = kept and soak.returncode == 0
    finally:
        for soak in soaks.values():
            soak.terminate()
    return 0 if kept else 1


def _soak(options: argparse.Namespace) -> int:
    print(f"seed {options.seed}, from fault {options.first}", flush=True)
    scratch = Path(tempfile.mkdtemp(prefix=f"unspool-soak-{options.on}.", dir=options.place))
    log = str(scratch / "log")
    quiet = threading.RLock()
    target, lease = _target(options, scratch, log, quiet)
    hunt = Hunt(scratch, log, target, f"{options.seed} {options.on}", quiet, lease)
    kept = False
    try:
        try:
            hunt.strike(options.first, options.minutes, options.every)
        finally:  # also if the soak itself fails: the events until then are checked
            kept = _account(options, hunt)
    finally:
        hunt.cast.end()
        target.close()
    if kept and not options.keep:
        shutil.rmtree(scratch)
    else:
        print(f"the logs are in {scratch}")
    return 0 if kept else 1


def _account(options: argparse.Namespace, hunt: Hunt) -> bool:
    """Let all queues drain, and print the account. Return whether all promises were kept."""
    left = hunt.settle()
    hunt.cast.end()
    lines = oracle.read(Path(hunt.log))
    local = options.on in ("directory", "relaxed")
    verdict = judge(lines, left, AT_ONCE if local else SHORTLY, hunt.overruns())
    failed = account.failures(
        verdict, lines, tracebacks=hunt.tracebacks(), own_faults=hunt.own_faults(), drafts=hunt.drafts(),
        orphans=hunt.orphans, held=hunt.held, refuses=local,
    )  # fmt: skip
    title = f"soak of {options.on}, {options.minutes:g} min, seed {options.seed}, {platform.platform()}"
    counts = {"fault": hunt.faults, "operation": hunt.operators.done}
    account.show(title, verdict, failed, hunt.samples, hunt.reasons, counts)
    return not any(failed.values())


def _target(
    options: argparse.Namespace, scratch: Path, log: str, quiet: "threading.RLock"
) -> tuple[Target, float | None]:
    """Return the system under test, and its lease."""
    match options.on:
        case "postgresql":
            from .postgresql import PostgresTarget

            return PostgresTarget(scratch, log, options.seed, options.pause), None
        case "nats":
            from .nats import LEASE, NatsTarget

            return NatsTarget(scratch, log, options.seed, options.pause), LEASE
        case on:
            from .directory import DirectoryTarget

            _own_mounts()
            durability = "full" if on == "directory" else on
            return DirectoryTarget(scratch, log, durability, options.seed, options.pause, quiet), None


def _own_mounts() -> None:
    """Give this process a mount namespace of its own, which ends with it."""
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNS) != 0:
        sys.exit("a soak of a directory needs root, for a disk of its own")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)


if __name__ == "__main__":
    sys.exit(main())
