"""The processes of a soak: started, found, measured, frozen and killed, by their session."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from unspool.backends.spool import SpoolBackend

from .oracle import append

__all__ = ["Cast", "Sample"]

_WORKING = ("supervisor", "uwsgi")
_ROOT = Path(__file__).resolve().parents[2]
_UWSGI = Path(sys.executable).with_name("pyuwsgi")


class Sample(NamedTuple):
    """What one supervisor and its workers hold, at seconds since boot; of memory, in megabytes, also what it holds
    itself: its workers are killed too often for theirs to tell anything but how full they were."""

    pid: int
    at: float
    descriptors: int
    memory: float
    own_memory: float
    processes: int


class Cast:
    """All who play a part: ``producer-1``, ``producer-2``, ``supervisor``, ``uwsgi``."""

    def __init__(self, scratch: Path, spool: Path, clock: Path, seed: str, pause: float) -> None:
        self.scratch = scratch
        self.spool = spool
        self.log = str(scratch / "log")
        self._clock = clock
        self._seed = seed
        self._pause = pause
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._starts = 0
        self._leaders: set[int] = set()
        self.backend = SpoolBackend(str(spool))

    def start(self, name: str) -> None:
        """Starts one, unless it runs."""
        if name in self._running and self._running[name].poll() is None:
            return
        self._starts += 1
        python = [sys.executable, "-m"]
        match name.partition("-")[0]:
            case "producer":
                part = f"{name[-1]}x{self._starts}"
                command = [*python, "tests.soak.producer", part, self._seed, str(self._pause)]
            case "supervisor":
                command = [*python, "tests.soak.worker", str(self.spool), str(self._clock)]
            case _:
                command = [
                    str(_UWSGI), "--master", "--die-on-term", "--spooler-quiet", "--disable-logging",
                    f"--logto={self.scratch}/uwsgi.log", f"--spooler={self.spool}", "--spooler-frequency=2",
                    "--import=tests.soak.app",
                ]  # fmt: skip
        environment = {name: value for name, value in os.environ.items() if not name.startswith("UNSPOOL_")}
        environment |= {
            "PYTHONPATH": os.pathsep.join([str(_ROOT), *filter(None, sys.path)]),
            "SOAK_LOG": self.log,
            "UNSPOOL_SPOOLERS": str(self.spool),
        }
        with open(self.scratch / f"{name}.log", "ab") as out:
            self._running[name] = subprocess.Popen(
                command, cwd=self.scratch, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                start_new_session=True,
            )  # fmt: skip
        self._leaders.add(self._running[name].pid)

    def start_all(self) -> None:
        """Starts those that do not run."""
        for name in (*_WORKING, "producer-1", "producer-2"):
            self.start(name)

    def start_working(self) -> None:
        """Starts those that run tasks."""
        for name in _WORKING:
            self.start(name)

    def pid(self, name: str) -> int:
        """Its process."""
        return self._running[name].pid

    def members(self, name: str) -> list[int]:
        """All processes of its session."""
        return self._of({self._running[name].pid})

    @staticmethod
    def _of(leaders: set[int]) -> list[int]:
        found = []
        for entry in os.scandir("/proc"):
            if entry.name.isdigit():
                with contextlib.suppress(OSError, IndexError):
                    fields = Path(f"/proc/{entry.name}/stat").read_text().rpartition(")")[2].split()
                    if int(fields[3]) in leaders and fields[0] != "Z":
                        found.append(int(entry.name))
        return found

    def kill(self, name: str, *, grace: float = 0.0) -> None:
        """Ends it with all that belongs to it, after that many seconds for ending by itself."""
        if name not in self._running:
            return
        process = self._running[name]
        if grace:
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(grace)
        while pids := self.members(name):
            for pid in pids:
                self.kill_one(pid)
        process.wait()

    def kill_one(self, pid: int) -> None:
        """Kills one process, which is noted before and after, for its last line may come in between."""
        append(self.log, "kill", pid)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        append(self.log, "kill", pid)

    def workers(self) -> list[int]:
        """The worker processes of the supervisor."""
        return [info.pid for info in self.backend.control.live() if info.role == "worker"]

    def spoolers(self) -> list[int]:
        """The processes of uWSGI but for its master."""
        return [pid for pid in self.members("uwsgi") if pid != self.pid("uwsgi")]

    def freeze(self) -> None:
        """Stops all at once, as a power cut does."""
        for pid in self._of(self._leaders):  # also the workers of a supervisor that was killed
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)

    def end(self, *, grace: float = 0.0) -> None:
        """Ends all: producers first."""
        for name in sorted(self._running):
            self.kill(name, grace=grace)
        while pids := self._of(self._leaders):
            for pid in pids:
                self.kill_one(pid)
        self._running.clear()
        self._leaders.clear()

    def sample(self, now: float) -> Iterator[Sample]:
        """What the supervisor and its children hold."""
        pid = self.pid("supervisor")
        descriptors = 0
        memory: dict[int, float] = {}
        for member in self.members("supervisor"):
            with contextlib.suppress(OSError):
                descriptors += len(os.listdir(f"/proc/{member}/fd"))
                memory[member] = int(Path(f"/proc/{member}/statm").read_text().split()[1]) * 4096 / (1 << 20)
        if pid in memory:
            yield Sample(pid, now, descriptors, sum(memory.values()), memory[pid], len(memory))
