"""The demo: one task for each module of Python's standard library, sent to a spool directory and run by two workers.

``make demo``, or ``python examples/demo.py [FOLDER] [--keep]`` for the modules of any folder. It ends with a proof,
counted from what the tasks themselves have written, that nothing is left and nothing was lost; the exit status is 1 if
that fails.
"""

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Collection, Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import demo_tables
from demo_proof import count_results, prove, read_results
from demo_tasks import RESULTS, give_up, recover, survey
from unspool import Spooler

WORKERS = 2
TASKS = Path(__file__).with_name("demo_tasks.py")
UNSPOOL = Path(sys.executable).with_name("unspool")
PATIENCE = 60.0  # seconds without a finished task, after which something must be wrong


def main() -> int:
    """Run the demo, and return its exit status."""
    options = parse_options()
    console = Console(width=None if sys.stdout.isatty() else 110, highlight=False)
    modules = find_modules(options.folder)
    with workplace(keep=options.keep) as place:
        os.environ["UNSPOOL_SPOOLERS"] = str(place / "mail")
        os.environ[RESULTS] = str(place / "results")
        console.print(f"{len(modules)} modules in {options.folder}; tasks go to {place / 'mail'}", soft_wrap=True)

        begun = time.monotonic()
        with workers(place / "log") as running, progress_bars(console) as bars:
            failing = send_failing()
            sent = failing | send_surveys(modules, bars)
            wait(len(sent) - 1, place / "results", running, bars)  # all except the one that always fails
        seconds = time.monotonic() - begun

        results = read_results(place / "results")
        proof = prove(sent, results, UNSPOOL)
        demo_tables.show_figures(console, results, seconds, WORKERS)
        demo_tables.show_largest(console, results, options.folder)
        demo_tables.show_failures(console, failing, UNSPOOL)
        demo_tables.show_proof(console, proof)
        if options.keep:
            console.print(f"\nTo look around: export UNSPOOL_SPOOLERS={place / 'mail'}", soft_wrap=True)
    return 0 if proof.holds else 1


def send_surveys(modules: Collection[Path], bars: Progress) -> dict[str, str]:
    """Send a task for each module, and return the module of each task by its id.

    When a call returns an id, the task is on the disk, and is not lost.
    """
    sent = {}
    for module in bars.track(modules, description="sent"):
        sent[survey(str(module), called=time.monotonic())] = str(module)
    return sent


def send_failing() -> dict[str, str]:
    """Send two tasks that fail on purpose, one twice and one always. Return the subject of each by its id."""
    return {recover("restarting"): "restarting", give_up("nobody@example.org"): "nobody@example.org"}


@contextlib.contextmanager
def workers(log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start the workers with the command line, and stop them at the end of the block."""
    with log.open("wb") as out:
        command = [str(UNSPOOL), "run", str(TASKS), "--processes", str(WORKERS)]
        running = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    try:
        yield running
    finally:
        running.terminate()
        status = running.wait()
    if status:
        sys.exit(f"the workers ended with status {status}:\n{log.read_text(errors='replace')[-4000:]}")


def wait(expected: int, results: Path, running: subprocess.Popen[bytes], bars: Progress) -> None:
    """Wait until no task is waiting or running, or until the workers end or do nothing for long."""
    bar = bars.add_task("finished", total=expected)
    done, changed = 0, time.monotonic()
    while Spooler.get_tasks(limit=1) and running.poll() is None and time.monotonic() < changed + PATIENCE:
        if (count := count_results(results)) != done:
            done, changed = count, time.monotonic()
        bars.update(bar, completed=done)
        time.sleep(0.05)
    bars.update(bar, completed=count_results(results))


def progress_bars(console: Console) -> Progress:
    """Return progress bars for sent and finished tasks. They do not move if the output is not a terminal."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    return Progress(*columns, console=console)


def find_modules(folder: Path) -> list[Path]:
    """Return all modules below a folder, except those of installed packages."""
    found = [path for path in folder.rglob("*.py") if not {"site-packages", "dist-packages"} & set(path.parts)]
    if len(found) < 2:
        sys.exit(f"there are no modules in {folder}; name another folder")
    return sorted(found)


@contextlib.contextmanager
def workplace(*, keep: bool) -> Iterator[Path]:
    """Create a temporary directory, and remove it at the end of the block unless it must be kept."""
    place = Path(tempfile.mkdtemp(prefix="unspool-demo."))
    try:
        yield place
    finally:
        if not keep:
            shutil.rmtree(place)


def parse_options() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    standard_library = Path(sysconfig.get_path("stdlib"))
    parser.add_argument("folder", nargs="?", type=Path, default=standard_library, help="default: %(default)s")
    parser.add_argument("--keep", action="store_true", help="keep the spool directory, to look around in it")
    return parser.parse_args()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that TERM stops the workers, too
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
