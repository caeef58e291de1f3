"""The live processes of a spooler, as seen from every host.

Processes of this host have registration files, which are exact at each moment. Each spooler has its own directory of
such files. Only this user can write to it. For other hosts, each supervisor publishes a message for itself and for each
of its workers, three times a lease. A message expires if it is not repeated. A worker also repeats its own message, in
case its supervisor has died.
"""

import contextlib
import hashlib
import json
import os
import socket
import stat
import tempfile
import threading
import time
from typing import Any

from ... import forks
from ...errors import SpoolerUnusable
from ..base import WorkerInfo
from ..registration_file import RegistrationFile, processes
from . import runs
from .cluster import Cluster
from .jetstream import JetStream
from .requests import Request
from .runs import Process
from .stored import Stored

__all__ = ["Registrations"]

_MOMENT = 0.2  # seconds


class Registrations:
    """Implements ``base.Backend.register`` and ``live``."""

    def __init__(self, place: Cluster) -> None:
        self._place = place
        self._registrations: list[NatsRegistration] = []
        self._is_inherited = False  # a fork publishes only its own entry
        self._next_beat = 0.0
        self._beating = False
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        forks.register(before=self._stop, after_in_parent=self._start_again, after_in_child=self._begin_in_child)

    def register(self, role: str) -> "NatsRegistration":
        registration = NatsRegistration(self, self._folder, role)
        self._is_inherited = False
        self._registrations.append(registration)
        self._next_beat = 0.0
        return registration

    def live(self) -> list[WorkerInfo]:
        here = list(processes(self._folder))
        return here + [info for info in self._place.call(self._elsewhere) if info is not None]

    def _elsewhere(self, stream: JetStream) -> list[WorkerInfo | None]:
        names = self._place.names
        messages = stream.read(names.state, names.live("*"))
        return [self._info(one) for one in messages]

    def _info(self, stored: Stored) -> WorkerInfo | None:
        """Return the entry in a process's message; None if it is invalid or if this host has the registration file."""
        try:
            found: Any = json.loads(stored.data)
            process = Process(str(found["host"]), int(found["pid"]), str(found["began"]))
            if process.is_local and (found["signs"] == self._folder or process.is_dead):
                return None
            role = str(found["role"])
            host = "" if process.is_local else str(found["name"])
            return WorkerInfo(role, process.pid, str(found["ref"]), float(found["since"]), host) if role else None
        except (ValueError, TypeError, KeyError):
            return None

    @property
    def _folder(self) -> str:
        return _folder(self._place.name)

    def vanished(self, registration: "NatsRegistration") -> None:
        """Remove the message of a process whose registration was closed."""
        with contextlib.suppress(ValueError):
            self._registrations.remove(registration)
        process = registration.process
        if process is not None:  # the entry expires by itself if this is lost
            filter = json.dumps({"filter": self._place.names.live(process.key)}).encode()
            self._place.tell(Request(f"$JS.API.STREAM.PURGE.{self._place.names.state}", filter))

    # --- messages to other hosts

    def announce(self, stream: JetStream) -> None:
        """Publish the messages of this process, and repeat them while it lives. Call this before it takes a task.

        The messages are repeated by a thread, because a task may take long. It also withdraws claims that could not be
        withdrawn while the servers were away. It is stopped while the process forks.
        """
        if not self._beating:
            self._beat(stream)
            self._beating = True
            self._start()

    def beat(self, stream: JetStream) -> float:
        """Publish the messages of this process if they are due. Return the seconds until they are due again."""
        left = self._next_beat - time.monotonic()
        if left <= 0:
            self._next_beat = time.monotonic() + (left := self._place.lease / 3)
            self._beat(stream)
        return left

    def _start(self) -> None:
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(self._ended,), name="unspool-nats", daemon=True)
        self._thread.start()

    def _run(self, ended: threading.Event) -> None:
        while not ended.wait(self._place.lease / 3):
            with contextlib.suppress(SpoolerUnusable):
                self._place.call(self._repeat)

    def _repeat(self, stream: JetStream) -> None:
        names = self._place.names
        given_up = runs.given_up(names)
        self._beat(stream)
        runs.withdraw_all(stream, names, given_up, settled=True)

    def _stop(self) -> None:
        thread, self._thread = self._thread, None
        self._ended.set()
        if thread is not None:
            thread.join(_MOMENT)  # a server that does not answer is not waited for

    def _start_again(self) -> None:
        if self._beating:
            self._start()

    def _begin_in_child(self) -> None:
        self._is_inherited, self._beating = True, False

    def close(self) -> None:
        """End the repetition."""
        self._stop()
        self._beating = False

    def _beat(self, stream: JetStream) -> None:
        names, mine = self._place.names, runs.me()
        entries: dict[Process, WorkerInfo] = {mine: WorkerInfo("", mine.pid, "", 0.0)}
        for registration in list(self._registrations):
            process, info = registration.process, registration.read()
            if process is None or info is None or process.is_dead:
                continue
            if not self._is_inherited or process == mine:
                entries[process] = info
        common = {"signs": self._folder, "name": socket.gethostname()}  # other hosts can run an older version
        for process, info in entries.items():
            data = json.dumps(info._asdict() | process._asdict() | common).encode()
            headers = {"Nats-TTL": f"{max(int(self._place.lease), 1)}s"}
            self._place.reserve.publish(stream, names.state, names.live(process.key), data, headers)


class NatsRegistration(RegistrationFile):
    """The registration of a process: a file, and a message for other hosts."""

    def __init__(self, registrations: Registrations, path: str, role: str) -> None:
        super().__init__(path, role)
        self._registrations = registrations
        self._known: Process | None = None

    @property
    def process(self) -> Process | None:
        """The process that the entry is about; None if that process was never seen alive."""
        info = self.read()
        if info is not None and (self._known is None or self._known.pid != info.pid):
            self._known = runs.process(info.pid) or self._known
        return self._known

    def close(self) -> None:
        super().close()
        self._registrations.vanished(self)


def _folder(spooler: str) -> str:
    """Return the directory of a spooler's registrations. It is created if it does not exist.

    :raises SpoolerUnusable: if the path is not a directory that this user alone can write to.
    """
    base = os.path.join(tempfile.gettempdir(), f"unspool-{os.getuid()}")
    path = os.path.join(base, hashlib.sha256(spooler.encode()).hexdigest()[:16])
    for one in (base, path):
        with contextlib.suppress(FileExistsError):
            os.mkdir(one, 0o700)
        found = os.lstat(one)
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
            raise SpoolerUnusable(f"{one} must be a directory that only user {os.getuid()} can write to; remove it")
    return path
