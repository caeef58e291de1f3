"""Fixtures that run the real console script in real processes, on a spool directory and a separate application."""

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
    """An ``unspool run`` that runs beside the test."""

    def __init__(self, command: list[str], cwd: Path, env: Mapping[str, str]) -> None:
        self.process = subprocess.Popen(
            command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.seen: list[str] = []

    def wait_for(self, wanted: Callable[[str], bool] | str) -> str:
        """Return the next line of stderr that satisfies a condition or contains a text."""
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
        """Wait for a line on stdout, which the tasks write."""
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == f"{text}\n"

    def end(self) -> int:
        """Wait until the command has ended by itself, and return its status."""
        status = self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        while (line := self._lines.get(timeout=PATIENCE)) is not None:
            self.seen.append(line)
        return status

    def close(self) -> None:
        """Kill all remaining processes, also workers that a failed test has left at a gate."""
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
    """The environment of commands: a directory with ``app.py`` and, after its first use, the spooler ``mail``."""

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
        """Run a command, check its status and that it printed no traceback, and return its output."""
        done = self.result(*words, stdin=stdin, **env)
        assert done.returncode == status, (words, done.stdout, done.stderr)
        return done.stdout

    def result(self, *words: str, stdin: str = "", **env: str) -> subprocess.CompletedProcess[str]:
        """Run a command."""
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
        """Return the one line with which a command fails, without ``unspool: error: ``."""
        done = self.result(*words, **env)
        assert done.returncode == status, (words, done.stdout, done.stderr)
        start, line = "unspool: error: ", done.stderr
        assert line.startswith(start), line
        assert line.count("\n") == 1, line
        return line.removeprefix(start).rstrip("\n")

    def json(self, *words: str, **env: str) -> Any:
        """Return the value that a command prints with --json."""
        return json.loads(self(*words, "--json", **env))

    def send(self, *words: str) -> str:
        """Enqueue a task in this process, which is faster than a command, and return its id."""
        settings.configure(spoolers=[str(self.mail)], durability="relaxed")
        with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.chdir(self.root):
            assert main(["enqueue", *words]) == 0
        return printed.getvalue().removesuffix("\n")

    def burst(self, *words: str) -> list[str]:
        """Run all ready tasks, and return the log lines."""
        done = self.result("run", "app", "--burst", *words)
        assert done.returncode == 0, done.stderr
        return done.stderr.splitlines()

    def start(self, *words: str, **env: str) -> Running:
        """Start ``unspool run``, which ends with the test."""
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
        """Type the answer to a question. Type ^C repeatedly: Python may see the first one only at the next key, if it
        arrives before ``input`` waits.
        """
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
        """Return a gate at which ``app:hold`` waits."""
        path = self.root / name
        os.mkfifo(path)
        return path


def all_commands() -> dict[str, click.Command]:
    """Return all commands by name."""
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
