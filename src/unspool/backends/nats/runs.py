"""The records of running tasks. Each record states which process runs which task.

A record is written before the run and deleted after it, so a record whose process is dead shows a crash. It is valid
for the message whose sequence number it names. Each verdict replaces or deletes that message, which voids a record that
was left behind.

The death of a process on the same host is seen at once. A process on another host counts as alive while it reports; see
``live``.
"""

import json
import os
import socket
from typing import Any, NamedTuple

from ... import forks
from ..began import began
from .jetstream import JetStream
from .names import Names
from .stored import Stored

__all__ = ["Process", "Run", "drop_void", "forget", "host", "is_alive", "is_held", "is_noted", "me", "note", "process"]

_DIGITS = 10  # no process id has this many digits
_claimed: dict[tuple[str, str], int] = {}  # the tasks that this process runs, with the numbers of their records


class Process(NamedTuple):
    """A process on any host. Its start time distinguishes it from an earlier process with the same id."""

    host: str
    pid: int
    began: str

    @classmethod
    def of(cls, key: str) -> "Process | None":
        """Return the process of a key, or None if the key is invalid."""
        host, pid, began = [*key.rsplit("-", 2), "", ""][:3]
        return cls(host, int(pid), began) if pid.isascii() and pid.isdigit() and len(pid) < _DIGITS else None

    @property
    def key(self) -> str:
        """Return the process as part of a subject."""
        return f"{self.host}-{self.pid}-{self.began}"

    @property
    def is_local(self) -> bool:
        """Return whether the process is on this host. Each container has its own process ids and counts as a host."""
        return self.host == host()

    @property
    def is_dead(self) -> bool:
        """Return whether a local process has ended."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass  # it belongs to another user, and is alive
        return began(self.pid) != self.began


class Run(NamedTuple):
    """The record of a run: the task's message, the attempt, and the process.

    ``message`` is 0 for the task's first message, whose number the worker did not know yet. ``until`` is when the task
    may run again if this run ends without a verdict; 0 means at once. ``excused`` means that such an end is not a
    crash.

    ``ended`` is the last void version of the task's messages. A record with ``ended`` belongs to no message; see
    ``ends``.
    """

    token: str
    seq: int
    message: int
    attempts: int
    process: Process
    until: float = 0.0
    excused: bool = False
    ended: int = -1

    @classmethod
    def of(cls, stored: Stored) -> "Run | None":
        """Return the record in a message, or None if the message is not a record."""
        try:
            found: Any = json.loads(stored.data)
            if "ended" in found:
                token = stored.subject.rpartition(".")[2]
                return cls(token, stored.seq, -1, 0, Process("", 0, ""), ended=int(found["ended"]))
            process = Process(str(found["host"]), int(found["pid"]), str(found["began"]))
            token, until = stored.subject.rpartition(".")[2], float(found.get("until", 0.0))
            excused = bool(found.get("excused", False))
            return cls(token, stored.seq, int(found["message"]), int(found["attempts"]), process, until, excused)
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
            return None

    def is_of(self, stored: Stored) -> bool:
        """Return whether the record belongs to this message.

        Otherwise the record is void: the task was rewritten since, or had ended.
        """
        return self.message == stored.seq or (self.message == 0 and not stored.facts.anew)

    def voids(self, stored: Stored) -> bool:
        """Return whether the record voids this message of the task."""
        return stored.facts.version <= self.ended

    def dump(self) -> bytes:
        """Return the record as a message."""
        facts = {
            "message": self.message,
            "attempts": self.attempts,
            "until": self.until,
            "excused": self.excused,
        }
        return json.dumps(facts | self.process._asdict()).encode()


async def is_held(stream: JetStream, names: Names, run: Run, patience: float) -> bool:
    """Return whether the process of a run still runs it."""
    if run.process == me():
        return is_noted(names, run.token)  # otherwise the claim was given up while the server was away
    return await is_alive(stream, names, run.process, patience)


async def is_alive(stream: JetStream, names: Names, process: Process, patience: float) -> bool:
    """Return whether a process lives. On another host, it lives while it reports."""
    if process.is_local:
        return not process.is_dead
    return await stream.last(names.state, names.live(process.key), patience=patience) is not None


async def drop_void(stream: JetStream, names: Names, patience: float) -> None:
    """Delete void records, whose deletion a kill or a broken connection prevented."""
    async for record in stream.read(names.state, names.run("*"), patience=patience):
        run = Run.of(record)
        if run is None or run.excused or await is_held(stream, names, run, patience):
            continue  # records of carriers are excused, and the server deletes them
        stored = await stream.last(names.tasks, names.task("*", "*", run.token), patience=patience)
        if stored is None or not run.is_of(stored):
            await stream.delete(names.state, run.seq, patience=patience)


def note(names: Names, token: str, record: int) -> None:
    """Note that this process runs a task. ``record`` is the number of its record, or 0 before it is written."""
    _claimed[names.root, token] = record


def is_noted(names: Names, token: str) -> bool:
    """Return whether this process runs the task."""
    return (names.root, token) in _claimed


def forget(names: Names, token: str, record: int) -> None:
    """Note that this process no longer runs a task by this record."""
    if _claimed.get((names.root, token)) == record:
        del _claimed[names.root, token]


_me: Process | None = None
_host: str | None = None


def process(pid: int) -> Process | None:
    """Return a live process of this host, or None."""
    since = began(pid)
    return Process(host(), pid, since) if since else None


def me() -> Process:
    """Return this process."""
    global _me  # noqa: PLW0603  computed once per process
    if _me is None:
        _me = Process(host(), os.getpid(), began(os.getpid()))
    return _me


def host() -> str:
    """Return an identifier of this host, and within it of this container."""
    global _host  # noqa: PLW0603  the same for the life of a process
    if _host is None:
        try:
            with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
                boot = file.read().strip().replace("-", "")
            space = "".join(filter(str.isdigit, os.readlink("/proc/self/ns/pid")))
            _host = f"{boot}-{space}"
        except OSError:  # not Linux
            _host = "".join(one if one.isalnum() else "-" for one in socket.gethostname()) or "host"
    return _host


def _begin_in_child() -> None:
    global _me  # noqa: PLW0603  another process than the parent
    _me = None
    _claimed.clear()  # the child runs none of the parent's tasks


forks.register(after_in_child=_begin_in_child)
