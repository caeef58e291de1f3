"""``make bench-servers``: unspool on PostgreSQL and on NATS JetStream, compared with other queues for the same servers.

All run on one machine in one run, each in a separate environment, with the same durability: a call returns when the
task is as safe as the server makes it. Runs alternate between the systems.
"""

import argparse
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from .. import comparison, machine
from ..filesystem import ground
from ..processes import Failed
from . import peers
from .grounds import Nats, Postgres, Server
from .peers import OnServer

_RESULTS = Path(__file__).parent.parent / "results"
_SERVERS = {"postgres": (Postgres, peers.POSTGRES), "nats": (Nats, peers.NATS)}
_BATCH = 100
_ROOM = 400_000  # tasks' worth: a server's own files, and its log of what is to be written

_Take = Callable[[OnServer], Mapping[str, float]]
Row = tuple[str, _Take]


def main() -> int:
    """Measure, print and save. Return the exit status."""
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # so that all is ended and unmounted
    console = Console(width=None if sys.stdout.isatty() else 170, highlight=False)
    failures: list[str] = []
    saved: dict[str, object] = {"sizes": {name: getattr(options, name) for name in ("runs", "tasks", "calls")}}
    with ground(max(options.tasks, options.backlog) + _ROOM, options.directory) as place:
        saved["machine"] = found = machine.describe(place)
        comparison.show_facts(console, found)
        for name in options.servers:
            make, kinds = _SERVERS[name]
            with closing(make(place)) as server:
                systems = [kind(server) for kind in kinds if not options.only or kind.name in options.only]
                facts = {server.name: f"{server.version}; {server.settings}"}
                facts |= {system.name: system.version for system in systems if system.version}
                comparison.show_facts(console, facts)
                figures = comparison.measure(_rows(server, options), systems, options.runs, failures)
                if options.backlog:
                    sending = [system for system in systems if system.batches]
                    figures |= comparison.measure(_backlog(server, options), sending, options.backlog_runs, failures)
            comparison.show(console, server.name, figures, peers.Unspool.name, [system.name for system in systems])
            saved[name] = {"facts": facts, "figures": figures}
    path = options.save or _RESULTS / f"servers-{datetime.now(UTC):%Y-%m-%dT%H%M}.json"
    comparison.save(path, saved | {"failures": failures})
    console.print(f"saved to {path}", soft_wrap=True)
    for failure in failures:
        console.print(f"failed: {failure}", markup=False, soft_wrap=True)
    return bool(failures)


def _rows(server: Server, options: argparse.Namespace) -> Sequence[Row]:
    tasks, calls = int(options.tasks * server.pace), options.calls

    def enqueue(batch: int, tasks: int) -> _Take:
        return lambda system: {"": system.enqueue(server.on(system), max(int(tasks * system.pace), batch), batch)}

    def drain(workers: int) -> _Take:
        return lambda system: {"": system.drain(server.on(system), int(tasks * system.pace), workers)}

    rows: list[Row] = [
        ("enqueue [/s]", enqueue(1, tasks // 5)),
        (f"enqueue, {_BATCH} at a time [/s]", enqueue(_BATCH, tasks)),
        ("drain, 1 worker [/s]", drain(1)),
        ("drain, 2 workers [/s]", drain(2)),
        ("idle latency [ms]", lambda system: system.latency_of(server.on(system), calls)),
    ]
    return [row for row in rows if options.rows in row[0]]


def _backlog(server: Server, options: argparse.Namespace) -> Sequence[Row]:
    """Measure the rate among this number of waiting tasks, of which only a part is run."""
    tasks, waiting = int(options.tasks * server.pace), options.backlog

    def drain(system: OnServer) -> Mapping[str, float]:
        return {"": system.drain(server.on(system), int(tasks * system.pace), 1, waiting)}

    row: Row = (f"drain, 1 worker, {waiting:,} waiting [/s]", drain)
    return [row] if options.rows in row[0] else []


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.servers", description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="of each measure; its median counts (default 3)")
    parser.add_argument("--tasks", type=int, default=6_000, help="sent or run in each (default 6000)")
    parser.add_argument("--calls", type=int, default=100, help="to an idle worker in each (default 100)")
    parser.add_argument("--backlog", type=int, default=100_000, help="waiting in one measure (default 100000; 0: none)")
    parser.add_argument("--backlog-runs", type=int, default=1, help="of that measure (default 1)")
    parser.add_argument("--servers", nargs="+", choices=_SERVERS, default=list(_SERVERS), help="(default: all)")
    parser.add_argument("--only", nargs="+", metavar="SYSTEM", help="measure these alone")
    parser.add_argument("--rows", default="", metavar="WORDS", help="measure only what has these words in its name")
    parser.add_argument("--directory", help="where to make the image; its disk is what is measured")
    parser.add_argument("--save", type=Path, help="the JSON file (default benchmarks/results/servers-<date>.json)")
    options = parser.parse_args()
    if options.runs < 1 or options.tasks < 500 or options.calls < 20 or options.backlog < 0:
        parser.error("there must be at least 1 run, 500 tasks and 20 calls")
    if options.backlog and options.backlog < options.tasks:
        parser.error("--backlog is less than --tasks")
    return options


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failed as failure:
        sys.exit(f"benchmark failed: {failure}")
