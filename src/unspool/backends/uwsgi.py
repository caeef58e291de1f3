"""Real uWSGI, from within: the only importer of the ``uwsgi`` module.

A spooler inside uWSGI is a spool directory whose tasks uWSGI's own spooler processes take. Sending is the
directory's, and then the
spoolers are woken, also those that are busy: uWSGI itself wakes only idle ones, and a busy one would then wait out
its frequency.

uWSGI looks into the directories of priorities only with ``spooler-ordered``, and a cheap one not even then. So for a
task with a
priority a *bell* is put beside the others: a task of its own that, whenever it is due, has the handler run what waits
in those
directories. Before any task the handler looks whether the bell of tasks due now is there: one stat.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any, Protocol

from .. import wire
from ..errors import ConfigurationError
from ..message import Claim, Disposition, Entry, Envelope, Record, Refusal, State
from .base import Backend, Capabilities, Control, Feed, Presence, WorkerInfo

__all__ = ["UwsgiBackend", "install", "module", "spoolers"]


class Store(Backend, Protocol):
    """What is needed of the directory."""

    def adopt(self, ref: str, envelope: Envelope) -> Claim | Refusal:
        """Takes a task that uWSGI has locked in this process."""

    def set_aside(self, ref: str, reason: str) -> None:
        """Moves a damaged task out of the way, by path."""

    def urgent(self) -> list[str]:
        """The refs of tasks with a priority that are due, in order."""

    def ring(self, due: float | None) -> None:
        """Puts a bell that is due then."""

    def answer_bell(self, ref: str) -> bool:
        """Whether there is a bell for now, or ``ref`` is one; takes it away."""

    def jot(self, record: Record) -> None:
        """Adds one run to the history, from any process, for little."""


def module() -> ModuleType | None:
    """The module that uWSGI itself puts there; a package of that name on the path has no options."""
    found = sys.modules.get("uwsgi")
    return found if hasattr(found, "opt") else None


def spoolers() -> list[str]:
    """The directories of uWSGI's ``spooler`` options; empty outside uWSGI."""
    found = module()
    if found is None:
        return []
    options = {_text(key): value for key, value in found.opt.items()}
    names: list[str] = []
    for option in ("spooler", "spooler-external"):
        value = options.get(option, [])
        names += [_text(one) for one in (value if isinstance(value, list) else [value])]
    return [name for name in dict.fromkeys(names) if name]


def install(handler: Callable[[dict[Any, Any]], Any]) -> Callable[[dict[Any, Any]], Any] | None:
    """Makes ``handler`` the one that uWSGI's spoolers call; returns the one that was there before, if it was
    another."""
    found = module()
    if found is None:
        return None
    former = getattr(found, "spooler", None)
    if former is handler:
        return None
    found.spooler = handler  # type: ignore[attr-defined]
    return former if callable(former) else None


class UwsgiBackend:
    """A spool directory inside the uWSGI that drains it.

    :param store: the directory.
    :param uwsgi: the ``uwsgi`` module.
    """

    capabilities = Capabilities(feeds=False, forks=True)

    def __init__(self, store: Store, uwsgi: ModuleType) -> None:
        self._store = store
        self._uwsgi = uwsgi
        self._options = {_text(key): value for key, value in uwsgi.opt.items()}
        self._real = os.path.realpath(store.name)
        self.control = UwsgiControl(store.control, uwsgi)

    @property
    def name(self) -> str:
        return self._store.name

    @property
    def backend(self) -> Backend:
        """The same, as the handler wants it."""
        return self

    # --- producers

    def send(self, envelopes: Sequence[Envelope]) -> list[str]:
        if not self._uwsgi.masterpid():
            raise ConfigurationError("this uWSGI has no master process, so it has no spoolers; start it with --master")
        ids = self._store.send(envelopes)
        if "spooler-ordered" not in self._options or "spooler-cheap" in self._options:
            for due in {envelope.due for envelope in envelopes if envelope.priority is not None}:
                self._store.ring(due)
        for pid in self._uwsgi.spooler_pids():
            if pid > 0:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGUSR1)
        return ids

    # --- runtime.inside.Inside

    def ref(self, name: str) -> str | None:
        path = self._path(name)
        if path is None or not path.startswith(f"{self._real}/"):
            return None
        return path[len(self._real) + 1 :]

    def envelope(self, variables: Mapping[Any, Any]) -> Envelope:
        vars = {_text(key): value for key, value in variables.items() if key not in ("spooler_task_name", "body")}
        return wire.load_parts(vars, variables.get("body", b""))

    def adopt(self, ref: str, envelope: Envelope) -> Claim | Refusal:
        return self._store.adopt(ref, envelope)

    def set_aside(self, ref: str, reason: str) -> None:
        self._store.set_aside(ref, reason)

    def urgent(self, ref: str) -> list[str]:
        return self._store.urgent() if self._store.answer_bell(ref) else []

    def _path(self, name: str) -> str | None:
        """uWSGI names a task relative to the directory that it is in, where this process is, unless it was told to be
        elsewhere."""
        if "spooler-chdir" not in self._options:
            return os.path.join(os.getcwd(), name)
        for fd in os.listdir("/proc/self/fd"):  # it has the file open
            with contextlib.suppress(OSError):
                path = os.readlink(f"/proc/self/fd/{fd}")
                if path.endswith(f"/{name}"):
                    return path
        return None

    # --- the directory's own

    def feed(self) -> Feed:
        return self._store.feed()

    def claim(self, ref: str) -> Claim | Refusal:
        return self._store.claim(ref)

    def settle(self, claim: Claim, disposition: Disposition) -> float | None:
        return self._store.settle(claim, disposition)

    def flush(self) -> None:
        self._store.flush()

    def entries(self, states: frozenset[State] = frozenset(State), limit: int | None = None) -> Iterator[Entry]:
        return self._store.entries(states, limit)

    def counts(self) -> dict[State, int]:
        return self._store.counts()

    def find(self, id: str) -> Entry | None:
        return self._store.find(id)

    def read(self, id: str) -> tuple[Entry, Envelope | None] | None:
        return self._store.read(id)

    def retry(self, id: str) -> str:
        return self._store.retry(id)

    def remove(self, id: str) -> None:
        self._store.remove(id)

    def record(self, records: Sequence[Record]) -> None:
        for record in records:
            self._store.jot(record)

    def history(self, *, id: str | None = None, limit: int = 100) -> list[Record]:
        return self._store.history(id=id, limit=limit)

    def close(self) -> None:
        self._store.close()


class UwsgiControl:
    """Implements ``base.Control``: the directory's switches, uWSGI's processes and frequency."""

    def __init__(self, control: Control, uwsgi: ModuleType) -> None:
        self._control = control
        self._uwsgi = uwsgi

    @property
    def paused(self) -> bool:
        return self._control.paused

    def pause(self) -> None:
        self._control.pause()

    def resume(self) -> None:
        self._control.resume()

    @property
    def period(self) -> float:
        return self._control.period

    def set_period(self, seconds: float) -> None:
        self._control.set_period(seconds)
        self._uwsgi.set_spooler_frequency(max(1, round(seconds)))

    def enlist(self, role: str) -> Presence:
        return self._control.enlist(role)

    def live(self) -> list[WorkerInfo]:
        spoolers = [WorkerInfo("worker", pid, "", 0.0) for pid in self._uwsgi.spooler_pids() if pid > 0]
        return spoolers + self._control.live()


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
