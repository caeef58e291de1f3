"""The switches of a spooler and its live processes, as seen from every host.

Pause and period are one message of the state stream. Processes of this host have registration files (see
``registrations``), which are exact at each moment. For other hosts, each supervisor publishes a message for itself and
for each of its workers, three times a lease. A message expires if it is not repeated. A worker also repeats its own
message, in case its supervisor has died.
"""

import asyncio
import contextlib
import json
import os
import socket
from typing import Any, NamedTuple

from ...errors import SpoolerUnusable
from ..base import WorkerInfo, check_period
from . import registrations, runs
from .cluster import Cluster
from .jetstream import Conflict, JetStream
from .runs import Process
from .stored import Stored

__all__ = ["NatsControl", "Switches"]


class Switches(NamedTuple):
    """Pause and period; the latter is None where it was never set."""

    paused: bool = False
    period: float | None = None

    @classmethod
    def of(cls, data: bytes) -> "Switches":
        """Return the switches in a message, with defaults for missing ones."""
        try:
            found: Any = json.loads(data)
            period = found.get("period")
            return cls(found.get("paused") is True, None if period is None else check_period(period))
        except (ValueError, TypeError, AttributeError):  # OptionRefused is a ValueError
            return cls()


class NatsControl:
    """Implements ``base.Control`` for a place."""

    def __init__(self, place: Cluster, period: float) -> None:
        self._place = place
        self._default_period = period
        self._registrations: list[NatsRegistration] = []
        self._owner = os.getpid()  # who made this; a fork of it speaks for itself alone
        self._beating: tuple[int, object] | None = None

    # --- switches

    @property
    def paused(self) -> bool:
        return self.read().paused

    def pause(self) -> None:
        self._place.call(lambda stream: self._change(stream, paused=True))

    def resume(self) -> None:
        self._place.call(lambda stream: self._change(stream, paused=False))

    @property
    def period(self) -> float:
        return self.period_of(self.read())

    def set_period(self, seconds: float) -> None:
        period = check_period(seconds)
        self._place.call(lambda stream: self._change(stream, period=period))

    def period_of(self, switches: Switches) -> float:
        """Return the period, also where none was set."""
        return self._default_period if switches.period is None else switches.period

    def read(self) -> Switches:
        """Return the switches as they are now."""
        return self._place.call(self.look)

    async def look(self, stream: JetStream) -> Switches:
        """Read the switches, in the event loop."""
        stored = await self._last(stream)
        return Switches.of(stored.data) if stored else Switches()

    async def _last(self, stream: JetStream) -> Stored | None:
        names = self._place.names
        return await stream.last(names.state, names.switches, patience=self._place.patience)

    async def _change(self, stream: JetStream, **values: Any) -> None:
        names = self._place.names
        while True:
            stored = await self._last(stream)
            switches = (Switches.of(stored.data) if stored else Switches())._replace(**values)
            replaces = names.switches, stored.seq if stored else 0
            with contextlib.suppress(Conflict):  # another process has just changed a switch
                data = json.dumps(switches._asdict()).encode()
                await self._place.reserve.publish(stream, names.state, names.switches, data, replaces=replaces)
                return

    # --- processes

    def register(self, role: str) -> "NatsRegistration":
        registration = NatsRegistration(self, role)
        self._owner = os.getpid()
        self._registrations.append(registration)
        if role == "supervisor" and self._place.is_open:  # otherwise the feed does this when it opens
            self._place.start(self.announce)
        return registration

    def live(self) -> list[WorkerInfo]:
        here = list(registrations.processes(self._folder))
        return here + [info for info in self._place.call(self._elsewhere) if info is not None]

    async def _elsewhere(self, stream: JetStream) -> list[WorkerInfo | None]:
        names = self._place.names
        messages = stream.read(names.state, names.live("*"), patience=self._place.patience)
        return [self._info(one) async for one in messages]

    def _info(self, stored: Stored) -> WorkerInfo | None:
        """Return the status in the message of a live process, unless its registration is on this host."""
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
        return registrations.folder(self._place.name)

    def vanished(self, registration: "NatsRegistration") -> None:
        """Note that a process is gone, as reported by the process that registered it."""
        with contextlib.suppress(ValueError):
            self._registrations.remove(registration)
        process = registration.process
        if process is not None:
            with contextlib.suppress(SpoolerUnusable):
                self._place.start(lambda stream: self._unsay(stream, process))

    async def _unsay(self, stream: JetStream, process: Process) -> None:
        names = self._place.names
        with contextlib.suppress(SpoolerUnusable):  # otherwise it expires by itself
            stored = await stream.last(names.state, names.live(process.key), patience=self._place.patience)
            if stored is not None:
                await stream.delete(names.state, stored.seq, patience=self._place.patience)

    # --- saying that we live

    def is_announced(self, stream: JetStream) -> bool:
        """Return whether other hosts know already."""
        return self._beating == (os.getpid(), stream.link)

    async def announce(self, stream: JetStream) -> None:
        """Sees to it that other hosts know, before this process takes a task and as long as it lives."""
        if not self.is_announced(stream):
            self._beating = (os.getpid(), stream.link)
            try:
                await self._beat(stream)
            except BaseException:
                self._beating = None
                raise
            task = asyncio.get_running_loop().create_task(self._beat_on(stream))
            self._kept = task  # the loop itself holds tasks only weakly

    async def _beat_on(self, stream: JetStream) -> None:
        while True:
            await asyncio.sleep(self._place.lease / 3)
            with contextlib.suppress(SpoolerUnusable):
                await self._beat(stream)

    async def _beat(self, stream: JetStream) -> None:
        names, mine = self._place.names, runs.me()
        said: dict[Process, WorkerInfo] = {mine: WorkerInfo("", mine.pid, "", 0.0)}
        for registration in list(self._registrations):
            process = registration.process
            if process is not None and not process.is_dead and (self._owner == mine.pid or process == mine):
                said[process] = registration.info()
        common = {"signs": self._folder, "name": socket.gethostname()}
        for process, info in said.items():
            data = json.dumps(info._asdict() | process._asdict() | common).encode()
            headers = {"Nats-TTL": f"{max(int(self._place.lease), 1)}s"}
            await self._place.reserve.publish(stream, names.state, names.live(process.key), data, headers)


class NatsRegistration:
    """Implements ``base.Registration``."""

    def __init__(self, control: NatsControl, role: str) -> None:
        self._control = control
        self._role = role
        self._file = registrations.RegistrationFile(control._folder, role)
        self._known: Process | None = None

    def running(self, ref: str, since: float) -> None:
        self._file.running(ref, since)

    def ref(self) -> str:
        return self._file.info(self._role).ref

    def since(self) -> float:
        return self._file.info(self._role).since

    def info(self) -> WorkerInfo:
        """Return the last note."""
        return self._file.info(self._role)

    @property
    def process(self) -> Process | None:
        """The process that the entry is about; None if that process was never seen alive."""
        pid = self._file.info(self._role).pid
        if self._known is None or self._known.pid != pid:
            self._known = runs.process(pid) or self._known
        return self._known

    def detach(self) -> None:
        self._file.detach()

    def close(self) -> None:
        self._file.close()
        self._control.vanished(self)
