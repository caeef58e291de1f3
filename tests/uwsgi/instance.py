"""A real uWSGI with a program of the test, and a mule that executes what the test requests."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import inotify_simple
import pytest

from unspool import inspection
from unspool.backends.spool import SpoolBackend

PATIENCE = 100.0  # seconds after which something that should happen has not, also on a busy machine
PROGRAM = Path(os.environ.get("UWSGI_UNDER_TEST") or Path(sys.executable).with_name("pyuwsgi"))

APP_START = '''
import asyncio, os, signal, sys, time
from datetime import datetime, timedelta, timezone

HERE = os.path.dirname(os.path.abspath(__file__))

def note(*words):
    """The oracle: one line, appended and synced, outside of the spool."""
    fd = os.open(HERE + "/oracle", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, (" ".join(map(str, words)) + "\\n").encode())
    os.fsync(fd)
    os.close(fd)

def hold(name):
    """Says that the task has begun, and waits until the test opens the gate of this name."""
    note("begun", name)
    with open(HERE + "/gates/" + name) as gate:
        gate.read()
'''

_MULE = """
import json, os, socket
import app

server = socket.socket(socket.AF_UNIX)
server.bind("mule.tmp")
server.listen()
os.rename("mule.tmp", "mule.sock")
names = vars(app)
while True:
    connection, _ = server.accept()
    with connection, connection.makefile("rw") as file:
        code = json.loads(file.readline())
        try:
            try:
                answer = {"value": eval(code, names)}
            except SyntaxError:
                exec(code, names)
                answer = {"value": None}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        file.write(json.dumps(answer, default=str) + "\\n")
        file.flush()
"""


def require(*options: str) -> None:
    """Skip the test if this uWSGI lacks an option: ``--spooler-cheap`` is newer than uWSGI 2.0."""
    known = subprocess.run([PROGRAM, "--help"], capture_output=True, text=True, check=True).stdout
    for option in options:
        if f"{option.partition('=')[0]} " not in known:
            pytest.skip(f"this uWSGI has no {option}")


class Instance:
    """A directory with an application ``app.py``, its spool directory, and the uWSGI that serves both.

    :param root: an empty directory.
    """

    patience = PATIENCE

    def __init__(self, root: Path) -> None:
        self.root = root
        self.spool = root / "myspooler"
        self.gates = root / "gates"
        self.gates.mkdir()
        self.log = root / "uwsgi.log"
        self.env = os.environ | {"UNSPOOL_DURABILITY": "relaxed", "PYTHONPATH": os.pathsep.join([str(root), *sys.path])}
        self.backend = SpoolBackend(str(self.spool), durable=False)
        self._others: list[subprocess.Popen[bytes]] = []
        self._process: subprocess.Popen[bytes] | None = None

    def write_app(self, source: str) -> None:
        """Write the application: ``APP_START`` and these lines."""
        (self.root / "app.py").write_text(APP_START + textwrap.dedent(source))
        (self.root / "mule.py").write_text(_MULE)

    def start(
        self, *options: str, spoolers: tuple[str, ...] = ("myspooler",), frequency: int = 1, quiet: bool = True
    ) -> "Instance":
        """Start uWSGI with these options before those of the spoolers. Return when the mule listens."""
        command = [str(PROGRAM), "--master", "--die-on-term", f"--logto={self.log}", *options]
        command += ["--spooler-quiet"] if quiet else []
        command += [f"--spooler={self.root / name}" for name in spoolers]
        command += [f"--spooler-frequency={frequency}", "--import=app", f"--mule={self.root / 'mule.py'}"]
        self._process = subprocess.Popen(command, cwd=self.root, env=self.env, stdin=subprocess.DEVNULL)
        self.wait((self.root / "mule.sock").exists)
        return self

    def start_unspool(self, *options: str) -> subprocess.Popen[bytes]:
        """Start ``unspool run`` on the spool directory, which ends with the test."""
        command = [sys.executable, "-m", "unspool", "run", "app", *options]
        with open(self.root / "unspool.log", "ab") as log:
            process = subprocess.Popen(command, cwd=self.root, env=self.outside, stderr=log, stdin=subprocess.DEVNULL)
        self._others.append(process)
        return process

    def call(self, code: str) -> Any:
        """Run code in a plain Python process that has imported everything of the application, and return the value of
        ``code``.
        """
        program = f"import json\nfrom app import *\nprint(json.dumps({code}))"
        command = [sys.executable, "-c", program]
        done = subprocess.run(
            command, cwd=self.root, env=self.outside, check=True, timeout=self.patience, capture_output=True
        )
        return json.loads(done.stdout)

    @property
    def outside(self) -> dict[str, str]:
        """Return the environment of processes outside uWSGI."""
        return self.env | {"UNSPOOL_SPOOLERS": str(self.spool)}

    def close(self) -> None:
        """Kill all processes. This saves the second that uWSGI takes to stop."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)  # or it would respawn what is killed
            with open(f"/proc/{self._process.pid}/task/{self._process.pid}/children") as children:
                pids = [int(pid) for pid in children.read().split()]
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            self._process.kill()
            self._process.wait(PATIENCE)
            self._process = None
        for process in self._others:
            process.terminate()
            process.wait(PATIENCE)

    def stop(self) -> None:
        """Stop uWSGI, which kills its spoolers during their tasks."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(PATIENCE)
            finally:
                self._process.kill()
                self._process.wait(PATIENCE)
            self._process = None
            (self.root / "mule.sock").unlink(missing_ok=True)

    def do(self, code: str) -> Any:
        """Run code in the mule, which has imported everything of the application, and return the value of an
        expression.

        :raises RuntimeError: with the exception of the code.
        """
        place = os.open(self.root, os.O_RDONLY)
        try:
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(self.patience)
                client.connect(f"/proc/self/fd/{place}/mule.sock")  # a socket's path must be short
                with client.makefile("rw") as file:
                    file.write(json.dumps(textwrap.dedent(code).strip()) + "\n")
                    file.flush()
                    answer = json.loads(file.readline())
        finally:
            os.close(place)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["value"]

    def lines(self) -> list[str]:
        """Return what the tasks have noted."""
        oracle = self.root / "oracle"
        return oracle.read_text().splitlines() if oracle.exists() else []

    def verdicts(self, id: str) -> list[str]:
        """Return how the runs of a task ended, in order."""
        return [record.verdict for record in reversed(inspection.runs(self.backend, id=id))]

    def pids(self) -> list[int]:
        """Return the live spooler processes."""
        return [int(pid) for pid in self.do("__import__('uwsgi').spooler_pids()") if pid > 0]

    def gate(self, name: str) -> None:
        """Create a gate at which a task waits."""
        os.mkfifo(self.gates / name)

    def open_gate(self, name: str) -> None:
        """Wait until a task has come to the gate, and let it continue."""
        (self.gates / name).write_text("go")

    def drop(self, name: str, content: bytes, mtime: float | None = None) -> Path:
        """Put a complete task file into the directory, as another program does, without waking anyone."""
        draft = self.root / "draft"
        draft.write_bytes(content)
        if mtime is not None:
            os.utime(draft, (mtime, mtime))
        self.spool.mkdir(exist_ok=True, mode=0o700)
        return draft.rename(self.spool / f"uwsgi_spoolfile_on_{name}")

    def wait(self, condition: Callable[[], Any], what: str = "") -> None:
        """Wait until a condition holds.

        It is checked when the kernel reports a change in the directory, but only for a small part of the time, because
        checks would slow down what is waited for.
        """
        flags = inotify_simple.flags
        mask = flags.CREATE | flags.MOVED_TO | flags.MOVED_FROM | flags.DELETE | flags.CLOSE_WRITE | flags.MODIFY
        end = time.monotonic() + self.patience
        with inotify_simple.INotify() as changes:
            while True:
                began = time.monotonic()
                for place, _, _ in os.walk(self.root):
                    with contextlib.suppress(FileNotFoundError):
                        changes.add_watch(place, mask | flags.ATTRIB)
                if condition():
                    return
                left = end - time.monotonic()
                log = self.log.read_text() if self.log.exists() else ""
                if self._process is not None and self._process.poll() is not None:
                    raise AssertionError(f"uWSGI ended by itself: {log}")
                assert left > 0, f"{what or 'what was waited for'} never came; {self.lines()}; uWSGI said:\n{log}"
                looking = time.monotonic() - began
                changes.read(timeout=min(left, 1.0) * 1000, read_delay=min(10 + 10_000 * looking, 500))

    def wait_for_line(self, wanted: str, times: int = 1) -> None:
        """Wait until tasks have noted this the given number of times."""
        self.wait(lambda: self.lines().count(wanted) >= times, repr(wanted))
