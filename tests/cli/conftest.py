"""The real console script in real processes, on a spool directory and an application of the test's own."""

import contextlib
import fcntl
import io
import json
import os
import pty
import queue
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import pytest

from unspool import settings
from unspool.cli import commands, main
from unspool.testing.waiting import readable

SCRIPT = str(Path(sys.executable).with_name("unspool"))
BERLIN = "CET-1CEST,M3.5.0,M10.5.0/3"  # which needs no time zone files
PATIENCE = 100.0  # seconds after which something that should happen has not, also on a busy machine

APP = '''
import os
from datetime import timedelta
from unspool import Spooler, SpoolerTask

@Spooler.task
def add(a, b=2):
    return a + b

@Spooler.task(priority=7, serializer="json")
def urgent(name, *, copies=1):
    return True

@Spooler.task(max_attempts=1)
def fail(text="no luck"):
    raise ValueError(text)

@Spooler.task(retry_delay=600)
def stumble():
    raise ValueError("try me later")

@Spooler.task
def hold(gate):
    """Says that it has begun, and waits until the test opens the gate."""
    print("holding", flush=True)
    with open(gate) as opened:
        opened.read()
    return True

class Cleanup(SpoolerTask):
    type_id = "cleanup"

    def process(self):
        return self.payload["days"] == 30
'''


class Running:
    """An ``unspool run`` that goes on beside the test."""

    def __init__(self, command: list[str], cwd: Path, env: Mapping[str, str]) -> None:
        self.process = subprocess.Popen(
            command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.seen: list[str] = []

    def wait_for(self, wanted: Callable[[str], bool] | str) -> str:
        """The first line of stderr from here on that is wanted, or contains this text."""
        while True:
            try:
                line = self._lines.get(timeout=PATIENCE)
            except queue.Empty:
                raise AssertionError(f"it never said what was waited for; it said {self.seen}") from None
            assert line is not None, f"it ended without saying what was waited for; it said {self.seen}"
            self.seen.append(line)
            if wanted in line if isinstance(wanted, str) else wanted(line):
                return line

    def wait_for_output(self, text: str) -> None:
        """Waits for this line on stdout, which is the tasks' own."""
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == f"{text}\n"

    def end(self) -> int:
        """Waits until it has ended by itself; its status."""
        status = self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        while (line := self._lines.get(timeout=PATIENCE)) is not None:
            self.seen.append(line)
        return status

    def close(self) -> None:
        """Ends whatever is left of it, workers that a failed test left at a gate, too."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)


_INTERRUPT = "\x03"


class Shell:
    """Where a test's commands are typed: a directory with ``app.py`` and, once it is used, the spooler ``mail``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.mail = root / "mail"
        self.running: list[Running] = []
        self.env = {name: value for name, value in os.environ.items() if not name.startswith("UNSPOOL_")}
        self.env |= {"UNSPOOL_SPOOLERS": str(self.mail), "UNSPOOL_DURABILITY": "relaxed", "TZ": BERLIN}
        self.env["TERM"] = "xterm-256color"
        self.env.pop("NO_COLOR", None)
        (root / "app.py").write_text(APP)

    def __call__(self, *words: str, status: int = 0, stdin: str = "", **env: str) -> str:
        """Runs a command, checks its status and that it did not fail with a traceback, and returns its output."""
        done = self.result(*words, stdin=stdin, **env)
        assert done.returncode == status, (words, done.stdout, done.stderr)
        return done.stdout

    def result(self, *words: str, stdin: str = "", **env: str) -> subprocess.CompletedProcess[str]:
        """Runs a command."""
        done = subprocess.run(
            [SCRIPT, *words],
            cwd=self.root,
            env=self.env | env,
            input=stdin,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            timeout=PATIENCE,
            check=False,
        )
        asked = "--traceback" in words or any(name.endswith("_TRACEBACK") for name in env)
        unasked = not asked and any(line.startswith("Traceback") for line in done.stderr.splitlines())
        assert not unasked, (words, done.stderr)
        return done

    def error(self, *words: str, status: int, **env: str) -> str:
        """The one line with which a command fails, after ``unspool: error: ``."""
        done = self.result(*words, **env)
        assert done.returncode == status, (words, done.stdout, done.stderr)
        start, line = "unspool: error: ", done.stderr
        assert line.startswith(start), line
        assert line.count("\n") == 1, line
        return line.removeprefix(start).rstrip("\n")

    def json(self, *words: str, **env: str) -> Any:
        """What a command prints with --json."""
        return json.loads(self(*words, "--json", **env))

    def send(self, *words: str) -> str:
        """Enqueues something, in this process, which is faster than a command of its own; its id."""
        settings.configure(spoolers=[str(self.mail)], durability="relaxed")
        with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.chdir(self.root):
            assert main(["enqueue", *words]) == 0
        return printed.getvalue().removesuffix("\n")

    def burst(self, *words: str) -> list[str]:
        """Runs all that is ready; the log lines."""
        done = self.result("run", "app", "--burst", *words)
        assert done.returncode == 0, done.stderr
        return done.stderr.splitlines()

    def start(self, *words: str, **env: str) -> Running:
        """Starts ``unspool run``, which the test's end ends."""
        running = Running([SCRIPT, "run", *words], self.root, self.env | env)
        self.running.append(running)
        return running

    def on_terminal(
        self, *words: str, status: int = 0, answer: tuple[str, str] = ("", ""), columns: int = 0, **env: str
    ) -> str:
        """What a command writes to a terminal, stdout and stderr together.

        :param answer: a text to wait for, and what to type then.
        :param columns: the width of the terminal; 0 for one that does not say, which counts as 80.
        """
        ours, its = pty.openpty()
        fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("4H", 24, columns, 0, 0))
        process = subprocess.Popen(
            [SCRIPT, *words], cwd=self.root, env=self.env | env, stdin=its, stdout=its, stderr=its,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(its, termios.TIOCSCTTY, 0),  # noqa: PLW1509  so that ^C is a signal
        )  # fmt: skip
        os.close(its)
        try:
            text = self._talk(ours, *answer)
            assert process.wait(PATIENCE) == status, text
        finally:
            process.kill()
            process.wait(PATIENCE)
            os.close(ours)
        return text

    @staticmethod
    def _talk(terminal: int, question: str, answer: str) -> str:
        """Types the answer to a question; and ^C again, as a person would: one that comes when ``input`` has begun, but
        does not wait yet, is seen by Python at the next key only."""
        written = b""
        patience = PATIENCE
        with contextlib.suppress(OSError):  # EIO: all who could write have gone
            while True:
                if not readable(terminal, min(patience, 1.0)):
                    patience -= 1.0
                    if patience <= 0:
                        break
                    if answer == _INTERRUPT and question.encode() in written:
                        os.write(terminal, answer.encode())
                    continue
                if not (part := os.read(terminal, 1 << 16)):
                    break
                asked = question.encode() in written
                written += part
                if answer and not asked and question.encode() in written:
                    os.write(terminal, answer.encode())
        return written.decode().replace("\r\n", "\n")

    def gate(self, name: str = "gate") -> Path:
        """A gate at which ``app:hold`` waits."""
        path = self.root / name
        os.mkfifo(path)
        return path


def all_commands() -> dict[str, click.Command]:
    """All commands by name."""
    context = click.Context(commands)
    found = ((name, commands.get_command(context, name)) for name in commands.list_commands(context))
    return {name: command for name, command in found if command is not None}


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    """A shell whose background commands end with the test."""
    here = Shell(tmp_path)
    yield here
    for running in here.running:
        running.close()
