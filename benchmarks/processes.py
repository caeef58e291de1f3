"""Starting a process for a measurement, waiting for its effect, and ending it."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

__all__ = ["Failed", "running", "wait_until"]

_ROOT = Path(__file__).resolve().parent.parent
# The user's own settings of unspool would be measured with it.
_ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("UNSPOOL_")}
_LOOK = 0.02  # seconds between looks; the figures come from the processes' own clocks
_GRACE = 15.0  # seconds to end in


class Failed(Exception):
    """A process has failed. The message has the end of its log."""


class Running:
    """A process and its log."""

    def __init__(self, command: Sequence[str], process: subprocess.Popen[bytes], log: Path) -> None:
        self._command = command
        self._process = process
        self._log = log

    def ended(self) -> bool:
        """Whether it has ended."""
        return self._process.poll() is not None

    @property
    def pids(self) -> list[int]:
        """Return its own process and all processes that it has started."""
        found = [self._process.pid]
        for pid in found:
            with contextlib.suppress(OSError):
                found += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split())
        return found

    @property
    def status(self) -> int | None:
        """Return its exit status; None while it runs."""
        return self._process.returncode

    def failure(self, what: str) -> Failed:
        """Return an error with the end of the log."""
        tail = self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:]
        command = " ".join(map(str, self._command))
        state = "still running" if self.status is None else f"status {self.status}"
        return Failed("\n".join([f"{what} ({state}): {command}", *tail]))


@contextlib.contextmanager
def running(command: Sequence[str], env: Mapping[str, str], log: Path) -> Iterator[Running]:
    """Start a process, and end it with all processes that it has started at the end of the block."""
    with log.open("ab") as out:
        process = subprocess.Popen(
            command,
            env={**_ENVIRONMENT, "PYTHONPATH": str(_ROOT), **env},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        yield Running(command, process, log)
    finally:
        process.terminate()
        try:
            process.wait(_GRACE)
        except BaseException as error:  # it takes too long, or we are to end at once
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # no other process is in its group
            process.wait()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise


def wait_until(condition: Callable[[], bool], process: Running, timeout: float) -> None:
    """Wait for an effect of a process.

    :param timeout: the maximum number of seconds.
    :raises Failed: after this time, or if the process ends before.
    """
    deadline = time.monotonic() + timeout
    while not condition():
        if process.ended() and not condition():
            raise process.failure("ended too early")
        if time.monotonic() > deadline:
            raise process.failure(f"not done after {timeout:g} s")
        time.sleep(_LOOK)
