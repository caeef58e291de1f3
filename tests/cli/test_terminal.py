"""``unspool run`` on a terminal: who receives the input."""

import contextlib
import fcntl
import os
import pty
import signal
import subprocess
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from unspool.backends.spool import SpoolBackend
from unspool.testing.waiting import readable

from .conftest import PATIENCE, SCRIPT, Shell

APP = """
import os, signal, subprocess
from unspool import Spooler

@Spooler.task(max_attempts=1)
def convert(gate):
    subprocess.run(["cat", gate], check=True)
    return True

@Spooler.task(max_attempts=1)
def ask():
    print("hello", input("name? "))
    return True

@Spooler.task
def add(a, b):
    return a + b
"""


class Session:
    """``unspool run`` in its own session on its own terminal."""

    def __init__(self, shell: Shell) -> None:
        (shell.root / "app.py").write_text(APP)
        self.terminal, its = pty.openpty()
        self.process = subprocess.Popen(
            [SCRIPT, "run", "app", "--no-progress"], cwd=shell.root, env=shell.env, stdin=its, stdout=its, stderr=its,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(its, termios.TIOCSCTTY, 0),  # noqa: PLW1509  so that ^C is a signal
        )  # fmt: skip
        os.close(its)
        self.text = ""

    def wait_for(self, text: str) -> None:
        """Wait until this text is on the screen."""
        while text not in self.text:
            assert readable(self.terminal, PATIENCE), f"{text!r} never came; there is {self.text}"
            self.text += os.read(self.terminal, 1 << 16).decode()

    def type(self, text: str) -> None:
        """Type this text."""
        os.write(self.terminal, text.encode())

    def end(self) -> int:
        """Wait for the end, and return the status."""
        with contextlib.suppress(OSError):  # EIO: all who could write have gone
            while readable(self.terminal, PATIENCE) and (part := os.read(self.terminal, 1 << 16)):
                self.text += part.decode()
        return self.process.wait(PATIENCE)


@pytest.fixture
def session(shell: Shell) -> Iterator[Session]:
    """A session that ends with the test."""
    with contextlib.ExitStack() as stack:
        here = Session(shell)
        stack.callback(os.close, here.terminal)
        stack.callback(here.process.wait, PATIENCE)
        stack.callback(here.process.send_signal, signal.SIGCONT)
        stack.callback(here.process.send_signal, signal.SIGQUIT)
        yield here


def test_ctrl_c_does_not_reach_the_programs_of_a_task(shell: Shell, session: Session) -> None:
    """The program that a task runs continues, and the task ends before the supervisor does."""
    gate = shell.root / "gate"
    os.mkfifo(gate)
    shell.send("app:convert", f'"{gate}"')
    with gate.open("w"):  # once it can be opened, the program has it open
        session.type("\x03")
        session.wait_for("stopping after the running tasks")
    assert session.end() == 0
    assert "app:convert" in session.text
    assert "processed" in session.text
    assert "dead" not in session.text


def test_a_task_can_read_from_the_terminal(shell: Shell, session: Session) -> None:
    """A task reads like a debugger. Ctrl-C stops the supervisor, and the input still goes to the task."""
    shell.send("app:ask")
    session.wait_for("name? ")
    session.type("ann\n")
    session.wait_for("hello ann")
    session.wait_for("processed")
    shell.send("app:ask")
    session.wait_for("hello ann")
    session.text = ""
    session.wait_for("name? ")
    session.type("\x03")
    session.wait_for("stopping after the running tasks")
    session.type("bob\n")
    assert session.end() == 0
    assert "hello bob" in session.text
    assert session.text.count("processed") == 1


def test_ctrl_c_after_a_task_has_read(shell: Shell, session: Session) -> None:
    """When the task has ended, the supervisor has the terminal again, and Ctrl-C stops it."""
    shell.send("app:ask")
    session.wait_for("name? ")
    session.type("ann\n")
    session.wait_for("processed")
    deadline = time.monotonic() + PATIENCE
    while os.tcgetpgrp(session.terminal) != session.process.pid:
        assert time.monotonic() < deadline
        os.sched_yield()
    session.type("\x03")
    assert session.end() == 0


def test_ctrl_z_stops_workers_too(shell: Shell, session: Session) -> None:
    """Nothing runs until the supervisor is continued, as by a shell's ``fg``."""
    shell.send("app:add", "1", "2")
    session.wait_for("processed")
    (worker,) = (info.pid for info in SpoolBackend(str(shell.mail)).live() if info.role == "worker")
    session.type("\x1a")
    os.waitid(os.P_PID, session.process.pid, os.WSTOPPED)
    deadline = time.monotonic() + PATIENCE
    while Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        assert time.monotonic() < deadline
        os.sched_yield()
    session.process.send_signal(signal.SIGCONT)
    session.text = ""
    shell.send("app:add", "1", "2")
    session.wait_for("processed")
    session.type("\x03")
    assert session.end() == 0
