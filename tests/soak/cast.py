"""The processes of a soak: start, find, measure, freeze and kill them."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from . import oracle

__all__ = ["Cast", "Part", "Sample"]

_ROOT = Path(__file__).resolve().parents[2]
_REMOVED_TASK = re.compile(r"/uwsgi_spoolfile_[^/]* \(deleted\)$")
_STOP = 40.0  # seconds within which a process that was asked to end must end; tasks take 3


@dataclass(frozen=True)
class Part:
    """A kind of process in the soak.

    ``command`` takes the number of processes that were started before. ``sends`` is True for processes that end first.
    """

    command: Callable[[int], list[str]]
    environment: Mapping[str, str]
    sends: bool = False


class Sample(NamedTuple):
    """The resources of a supervisor and its workers at a time in seconds since the boot; memory in megabytes."""

    pid: int
    at: float
    descriptors: int
    memory: float
    own_memory: float
    processes: int


class Cast:
    """All processes of a soak, by name."""

    def __init__(self, scratch: Path, log: str, parts: Mapping[str, Part]) -> None:
        self.log = log
        self.parts = parts
        self._scratch = scratch
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self._ended_by_us: set[str] = set()
        self._starts = 0
        self.leaders: set[int] = set()

    def environment(self, name: str) -> dict[str, str]:
        """Return the environment of a process."""
        own = {name: value for name, value in os.environ.items() if not name.startswith("UNSPOOL_")}
        path = {"PYTHONPATH": os.pathsep.join([str(_ROOT), *filter(None, sys.path)])}
        return own | path | dict(self.parts[name].environment)

    def start(self, name: str) -> None:
        """Start a process, unless it is running. Log it if it has ended unexpectedly."""
        if name in self.running:
            status = self.running[name].poll()
            if status is None:
                return
            if name not in self._ended_by_us:
                oracle.append(self.log, "gaveup", name, status)
        self._ended_by_us.discard(name)
        self._starts += 1
        with open(self._scratch / f"{name}.log", "ab") as out:
            self.running[name] = subprocess.Popen(
                self.parts[name].command(self._starts), cwd=self._scratch, env=self.environment(name),
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
            )  # fmt: skip
        # The id of a session is used again once all its processes have ended.
        self.leaders = {leader for leader in self.leaders if self._of({leader})} | {self.running[name].pid}

    def start_all(self, *, senders: bool = True) -> None:
        """Start all processes that are not running."""
        for name, part in self.parts.items():
            if senders or not part.sends:
                self.start(name)

    def names(self, kind: str) -> list[str]:
        """Return the names of the running processes of a kind: ``supervisor``, ``producer``, ``uwsgi``,
        ``forwarder``."""
        return [name for name in self.parts if name.partition("-")[0] == kind and self._is_running(name)]

    def _is_running(self, name: str) -> bool:
        return name in self.running and self.running[name].poll() is None

    def pid(self, name: str) -> int:
        """Return the id of its leading process."""
        return self.running[name].pid

    def members(self, *names: str) -> list[int]:
        """Return all processes in the sessions of these."""
        return self._of({self.running[name].pid for name in names if name in self.running})

    def children(self, name: str) -> list[int]:
        """Return the processes in its session, without the leading one."""
        return [pid for pid in self.members(name) if pid != self.pid(name)]

    @staticmethod
    def _of(leaders: set[int]) -> list[int]:
        found = []
        for entry in os.scandir("/proc"):
            if entry.name.isdigit():
                with contextlib.suppress(OSError, IndexError):
                    fields = Path(f"/proc/{entry.name}/stat").read_text().rpartition(")")[2].split()
                    if int(fields[3]) in leaders and fields[0] != "Z":
                        found.append(int(entry.name))
        return sorted(found)

    @contextlib.contextmanager
    def cut_off(self, pids: Iterable[int]) -> Iterator[None]:
        """Log that the connections of these processes are cut while the block runs."""
        lines = [("cutoff", pid) for pid in pids]
        oracle.append_all(self.log, lines)
        try:
            yield
        finally:
            oracle.append_all(self.log, lines)

    # --- ending

    def kill(self, name: str) -> None:
        """Kill a process and its whole session."""
        self._ended_by_us.add(name)
        if name in self.running:
            while pids := self.members(name):
                for pid in pids:
                    self.kill_one(pid)
            self.running[name].wait()

    def kill_leader(self, name: str) -> None:
        """Kill only its leading process."""
        self._ended_by_us.add(name)
        self.kill_one(self.pid(name))
        self.running[name].wait()

    def kill_one(self, pid: int) -> None:
        """Kill one process."""
        oracle.append(self.log, "kill", pid)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        oracle.append(self.log, "kill", pid)

    def stop(self, name: str, *, force: bool = False) -> None:
        """Ask a process to end: with TERM, which waits for running tasks, and with ``force`` also with QUIT, which does
        not.
        """
        self._ended_by_us.add(name)
        process = self.running[name]
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            if force:
                before = self.members(name)
                oracle.append_all(self.log, [("kill", pid) for pid in before])
                process.send_signal(signal.SIGQUIT)
            status = self._wait(name, process)
            if force:
                oracle.append_all(self.log, [("kill", pid) for pid in before])
            if status and not force:
                oracle.append(self.log, "gaveup", name, status)
            if process.poll() is not None:  # otherwise it hangs, which is logged
                oracle.append_all(self.log, [("survived", name, pid) for pid in self.members(name)])
        self.kill(name)

    def _wait(self, name: str, process: "subprocess.Popen[bytes]") -> int:
        try:
            return process.wait(_STOP)
        except subprocess.TimeoutExpired:
            oracle.append(self.log, "hung", name)
            return 0

    def signal(self, name: str, number: int) -> None:
        """Send a signal to its leading process."""
        if self._is_running(name):
            self.running[name].send_signal(number)

    def freeze(self) -> None:
        """Stop all processes at once, as a power cut does."""
        for pid in self._of(self.leaders):  # including the workers of a killed supervisor
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)

    def end(self) -> None:
        """Kill all processes."""
        for name in [*self.running]:
            self.kill(name)
        while pids := self._of(self.leaders):
            for pid in pids:
                self.kill_one(pid)
        self.leaders.clear()

    def end_orphans(self, seconds: float) -> list[int]:
        """Kill workers of former supervisors that do not end within these seconds, and return their ids."""
        end = time.monotonic() + seconds
        while (pids := self._of(self.leaders - {one.pid for one in self.running.values()})) and time.monotonic() < end:
            time.sleep(0.1)
        for pid in pids:
            self._describe(pid)
            self.kill_one(pid)
        return pids

    def _describe(self, pid: int) -> None:
        """Write what a process that should have ended does to the log of the orphans."""
        with contextlib.suppress(OSError), open(f"{self.log}-orphans", "a") as file:
            for name in ("cmdline", "status", "wchan", "stack", "syscall"):
                text = Path(f"/proc/{pid}/{name}").read_bytes().replace(b"\0", b" ").decode(errors="backslashreplace")
                file.write(f"--- {pid} {name}\n{text}\n")

    def held_tasks(self, *names: str) -> list[str]:
        """Return the files of removed tasks that processes in the sessions of these hold open."""
        found = []
        for pid in self.members(*names):
            with contextlib.suppress(OSError):
                for fd in os.scandir(f"/proc/{pid}/fd"):
                    with contextlib.suppress(OSError):
                        file = os.readlink(fd.path)
                        if _REMOVED_TASK.search(file):
                            found.append(f"{pid} {file}")
        return found

    def sample(self, name: str) -> Iterator[Sample]:
        """Yield the resources of a supervisor and its workers, if it is running."""
        if not self._is_running(name):
            return
        descriptors = 0
        memory: dict[int, float] = {}
        for member in self.members(name):
            with contextlib.suppress(OSError):
                descriptors += len(os.listdir(f"/proc/{member}/fd"))
                memory[member] = int(Path(f"/proc/{member}/statm").read_text().split()[1]) * 4096 / (1 << 20)
        if (pid := self.pid(name)) in memory:
            yield Sample(pid, oracle.now(), descriptors, sum(memory.values()), memory[pid], len(memory))
