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
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from ... import forks
from ..began import began
from .jetstream import JetStream
from .names import Names
from .stored import Stored

__all__ = [
    "Process",
    "Run",
    "drop_void",
    "give_up",
    "given_up",
    "host",
    "is_alive",
    "is_held",
    "me",
    "process",
    "withdraw",
    "withdraw_all",
]

_DIGITS = 10  # no process id has this many digits
_given_up: set[tuple[str, str, int]] = set()


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
    crash. ``prefetched`` means that the task was claimed together with others, so the process may
    not have begun it. ``number`` is that of the process's exchange.

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
    prefetched: bool = False
    number: int = 0
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
            prefetched = bool(found.get("prefetched", False))
            message, attempts, number = int(found["message"]), int(found["attempts"]), int(found.get("number", 0))
            return cls(token, stored.seq, message, attempts, process, until, excused, prefetched, number)
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
        facts: dict[str, Any] = {"message": self.message, "attempts": self.attempts}
        if self.until:
            facts["until"] = self.until
        if self.excused:
            facts["excused"] = True
        if self.prefetched:
            facts["prefetched"] = True
        if self.number:
            facts["number"] = self.number
        return json.dumps(facts | self.process._asdict()).encode()


def is_held(stream: JetStream, names: Names, run: Run) -> bool:
    """Return whether the process of a run still runs it."""
    if run.process == me():
        return (names.root, run.token, run.number) not in _given_up
    return is_alive(stream, names, run.process)


def is_alive(stream: JetStream, names: Names, process: Process) -> bool:
    """Return whether a process lives. On another host, it lives while it reports."""
    if process.is_local:
        return not process.is_dead
    return stream.last(names.state, names.live(process.key)) is not None


def drop_void(stream: JetStream, names: Names) -> Iterator[None]:
    """Delete void records, whose deletion a kill or a broken connection prevented. The caller may do other work between
    the steps."""
    for record in stream.read(names.state, names.run("*")):
        yield
        run = Run.of(record)
        if run is None or run.excused or is_held(stream, names, run):
            continue  # records of carriers are excused, and the server deletes them
        stored = stream.last(names.tasks, names.task("*", "*", run.token))
        if stored is None or not run.is_of(stored):
            stream.delete(names.state, run.seq)


def give_up(names: Names, token: str, number: int) -> None:
    """Note that this process does not run a task although it may have claimed it in the exchange of this number."""
    _given_up.add((names.root, token, number))


def given_up(names: Names) -> list[tuple[str, int]]:
    """Return the claims that were given up, and whose records may still exist, or may come into being."""
    return [(token, number) for root, token, number in list(_given_up) if root == names.root]


def withdraw_all(stream: JetStream, names: Names, claims: Iterable[tuple[str, int]], *, settled: bool = False) -> None:
    """Delete the records of claims that were given up, whose tasks no other process can run until then.

    A cluster without a quorum answers a read, and stores the record when it has a quorum again. So a record that does
    not exist is looked for again, unless the servers have stored another message of this process since.

    :param settled: whether they have.
    """
    for token, number in claims:
        if withdraw(stream, names, token, number) or settled:
            _given_up.discard((names.root, token, number))


def withdraw(stream: JetStream, names: Names, token: str, number: int) -> bool:
    """Delete the record that this process has written in its exchange of this number. Return whether it existed."""
    record = stream.last(names.state, names.records(token))
    run = Run.of(record) if record else None
    return run is not None and run.process == me() and run.number == number and stream.delete(names.state, run.seq)


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
    _given_up.clear()


forks.register(after_in_child=_begin_in_child)
