"""Real supervisors with real workers on a real directory. Tests wait for their log lines and for what tasks write."""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import inotify_simple
import pytest

from unspool.backends.spool import SpoolBackend

PATIENCE = 100.0  # seconds after which something that should happen has not, also on a busy machine

APP_START = '''
import asyncio, ctypes, os, signal, sys, time
from unspool import *

def note(*words):
    """The oracle: one line, appended and synced, outside of the spool."""
    fd = os.open(os.environ["ORACLE"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, (" ".join(map(str, words)) + "\\n").encode())
    os.fsync(fd)
    os.close(fd)

def hold(name):
    """Note that the task has begun, and wait until the test opens the gate of this name."""
    note("begun", name)
    with open(os.environ["GATES"] + "/" + name) as gate:
        gate.read()
'''


HOLDING = """
    @Spooler.task
    async def coroutine(name):
        await asyncio.to_thread(hold, name)
        return True

    @Spooler.task
    def held(name):
        hold(name)
        return True

    @Spooler.task
    def noted(word):
        note(word)
        return True
"""
"""An application whose tasks wait at gates."""


class Running:
    """A supervisor process."""

    def __init__(self, place: "Place", *options: str) -> None:
        command = [sys.executable, str(place.supervise), place.app, *options]
        self.process = subprocess.Popen(
            command,
            cwd=place.root,
            env=place.env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.seen: list[dict[str, Any]] = []
        self.complaints: list[str] = []
        self._lines: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if line.startswith("{"):
                self._lines.put(json.loads(line))
            else:
                self.complaints.append(line)
        self._lines.put(None)

    def wait_for(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Return the next line that satisfies a condition."""
        line = self.wait_for_line_or_end(wanted)
        if line is None:
            status, said = self.process.wait(PATIENCE), f"{self.seen}, and {self.complaints}"
            raise AssertionError(f"it ended, by {status}, without what was waited for; it said {said}")
        return line

    def wait_for_line_or_end(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any] | None:
        """Return the next line that satisfies a condition, or None if the supervisor and its workers end before it."""
        while True:
            try:
                line = self._lines.get(timeout=PATIENCE)
            except queue.Empty:
                raise AssertionError(f"it never came; it said {self.seen}, and {self.complaints}") from None
            if line is None:
                return None
            self.seen.append(line)
            if wanted(line):
                return line

    def wait_for_message(self, start: str) -> dict[str, Any]:
        """Return the next line whose message starts with this text."""
        return self.wait_for(lambda line: str(line["message"]).startswith(start))

    def wait_for_verdict(self, verdict: str, task: str = "") -> dict[str, Any]:
        """Return the next end of a run with this verdict."""
        return self.wait_for(lambda line: line.get("verdict") == verdict and str(line.get("task")).endswith(task))

    def signal(self, number: int) -> None:
        """Send a signal to the supervisor."""
        self.process.send_signal(number)

    def end(self, within: float = PATIENCE) -> int:
        """Wait until the supervisor has ended by itself, and return its exit status."""
        try:
            status = self.process.wait(within)
        except subprocess.TimeoutExpired:
            self.catch_up()
            raise AssertionError(f"it does not end; it said {self.seen}, and {self.complaints}") from None
        self.wait_for_last_process()
        while (line := self._lines.get(timeout=PATIENCE)) is not None:
            self.seen.append(line)
        return status

    def catch_up(self) -> None:
        """Add what it has logged so far to what was seen."""
        while not self._lines.empty():
            self.seen.append(self._lines.get() or {})

    def wait_for_last_process(self) -> None:
        """Wait until the supervisor and its workers, which have its log open, have ended."""
        self._reader.join(PATIENCE)

    def stop(self) -> int:
        """Stop it gracefully, and return its exit status."""
        self.signal(signal.SIGTERM)
        return self.end()

    def verdicts(self) -> list[str]:
        """Return all verdicts so far, in order."""
        return [line["verdict"] for line in self.seen if "verdict" in line]


class Place:
    """A directory for an application, its spooler, the file that tasks write to, and gates."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.spool = root / "mail"
        self.oracle = root / "oracle"
        self.gates = root / "gates"
        self.gates.mkdir()
        self.supervise = Path(__file__).with_name("supervise.py")
        self.app = "tasks.py"
        self.env = os.environ | {
            "UNSPOOL_SPOOLERS": str(self.spool),
            "UNSPOOL_DURABILITY": "relaxed",
            "ORACLE": str(self.oracle),
            "GATES": str(self.gates),
        }
        self.running: list[Running] = []
        self.backend = SpoolBackend(str(self.spool), durable=False)

    def write_app(self, source: str) -> None:
        """Write the application: ``APP_START`` and these lines."""
        (self.root / "tasks.py").write_text(APP_START + textwrap.dedent(source))

    def call(self, code: str) -> None:
        """Run code in another process that has imported everything of the application, as a producer would."""
        program = f"from tasks import *\n{textwrap.dedent(code)}"
        subprocess.run([sys.executable, "-c", program], cwd=self.root, env=self.env, check=True, timeout=PATIENCE)

    def close(self) -> None:
        """Kill all processes that run here, also workers that a failed test has left at a gate."""
        for running in self.running:
            for pid in session(running.process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            running.process.wait(PATIENCE)
            running.wait_for_last_process()
            assert running.process.stderr is not None
            running.process.stderr.close()

    def run(self, *options: str) -> Running:
        """Start a supervisor, which ends with the test."""
        running = Running(self, *options)
        self.running.append(running)
        return running

    def burst(self, *options: str) -> Running:
        """Run a supervisor until no task is ready."""
        running = self.run("--burst", *options)
        assert running.end() == 0, running.complaints
        return running

    def gate(self, name: str) -> Path:
        """Create a gate at which a task waits."""
        path = self.gates / name
        os.mkfifo(path)
        return path

    def open_gate(self, name: str) -> None:
        """Wait until a task has come to the gate, and let it continue."""
        (self.gates / name).write_text("go")

    def wait_for_line(self, wanted: str, times: int = 1) -> None:
        """Wait until tasks have noted this the given number of times. The kernel reports changes of the file."""
        self.wait_for_lines(lambda lines: lines.count(wanted) >= times, wanted)

    def wait_for_lines(self, come: Callable[[list[str]], object], wanted: str) -> None:
        """Wait until the lines that tasks have noted satisfy a condition.

        :param wanted: the condition in words, for the error.
        """
        with inotify_simple.INotify() as changes:
            changes.add_watch(str(self.root), inotify_simple.flags.CREATE | inotify_simple.flags.CLOSE_WRITE)
            while not come(self.lines()):
                assert changes.read(timeout=PATIENCE * 1000), f"{wanted!r} never came; there is {self.lines()}"

    def lines(self) -> list[str]:
        """Return what the tasks have noted."""
        return self.oracle.read_text().splitlines() if self.oracle.exists() else []


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """A place whose supervisors end with the test."""
    here = Place(tmp_path)
    yield here
    here.close()


def session(leader: int) -> list[int]:
    """Return the live processes of a session. Workers are in other process groups than their supervisor."""
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                state, _, _, number = Path(entry.path, "stat").read_text().rpartition(")")[2].split()[:4]
                if int(number) == leader and state != "Z":
                    found.append(int(entry.name))
    return found
