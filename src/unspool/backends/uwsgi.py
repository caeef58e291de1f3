"""Real uWSGI, from within: the only importer of the ``uwsgi`` module.

A spooler inside uWSGI is a spool directory whose tasks uWSGI's own spooler processes take. Sending is the directory's,
and then the spoolers are woken, also those that are busy: uWSGI itself wakes only idle ones, and a busy one would then
wait out its frequency.

uWSGI looks into the directories of priorities only with ``spooler-ordered``, and a cheap one not even then. So a bell
is put beside the tasks without a priority (see ``spool/bell``), by which uWSGI calls the handler; that one finds the
tasks. It runs one task a call, for uWSGI's time limit (harakiri) and its count of tasks are those of a call.
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
from ..signing import Signer
from .base import Backend, Capabilities, Control, Feed, Presence, WorkerInfo

__all__ = ["UwsgiBackend", "install", "module", "spoolers"]

Handler = Callable[[dict[Any, Any]], Any]


class Bell(Protocol):
    """What leads uWSGI to the tasks with a priority."""

    def want(self) -> None:
        """Has everybody ring from now on."""

    def is_bell(self, ref: str) -> bool:
        """Whether this is no task but a bell."""

    def rung(self) -> bool:
        """Whether there is a bell for now."""

    def urgent(self, ref: str) -> Iterator[str]:
        """The refs of due tasks with a priority, in order; to be left at the first that can be run."""

    def later(self, ref: str, until: float | None) -> None:
        """The task of ``ref`` is not to be offered before then; None if somebody else runs it."""


class Store(Backend, Protocol):
    """What is needed of the directory."""

    @property
    def bell(self) -> Bell:
        """Its bell."""

    def holding(self, ref: str, envelope: Envelope) -> contextlib.AbstractContextManager[None]:
        """While uWSGI has the file locked in this process, keeps all others in it from opening the file."""

    def adopt(self, ref: str, envelope: Envelope) -> Claim | Refusal:
        """Takes a task that uWSGI has locked in this process."""

    def crashes(self, ref: str) -> int:
        """How many of its runs are known to have ended with their worker."""

    def set_aside(self, ref: str, reason: str) -> None:
        """Moves a damaged task out of the way, by path."""

    def jot(self, record: Record) -> None:
        """Adds one run to the history, from any process, for little."""


def module() -> ModuleType | None:
    """The module that uWSGI itself puts there; a package of that name on the path has no options."""
    found = sys.modules.get("uwsgi")
    return found if hasattr(found, "opt") else None


def spoolers() -> list[str]:
    """The real paths of uWSGI's spool directories, in its order; empty outside uWSGI."""
    return list(dict.fromkeys(_text(path) for path in getattr(module(), "spoolers", ())))


def install(handler: Handler, keep: Callable[[Handler], None]) -> None:
    """Makes ``handler`` the one that uWSGI's spoolers call, also if the program sets another one later.

    :param keep: gets each other handler, the one that is there now and any that is set from now on.
    """
    found = module()
    if found is None:
        return
    _fill_low_descriptors()

    class Module(ModuleType):
        """The uwsgi module, whose attribute ``spooler`` stays what it is; uWSGI reads it from the module's dict."""

        def __setattr__(self, name: str, value: Any) -> None:
            if name != "spooler":
                super().__setattr__(name, value)
            elif value is not handler and callable(value):
                keep(value)

    former = found.__dict__.get("spooler")
    if former is not handler and callable(former):
        keep(former)
    found.__dict__["spooler"] = handler
    found.__class__ = Module


def _fill_low_descriptors() -> None:
    """A spooler process begins with descriptor 0 closed, if it is not the first one, and after the imports of
    ``spooler-import`` uWSGI puts /dev/null there, over whatever has been opened in the meantime."""
    while True:
        fd = os.open(os.devnull, os.O_RDWR)
        if fd > 2:
            os.close(fd)
            return


class UwsgiBackend:
    """A spool directory inside the uWSGI that drains it.

    :param store: the directory.
    :param uwsgi: the ``uwsgi`` module.
    :param signer: the directory's; None where no secret key is set.
    """

    capabilities = Capabilities(feeds=False, forks=True)

    def __init__(self, store: Store, uwsgi: ModuleType, signer: Signer | None = None) -> None:
        self._store = store
        self._signer = signer
        self._uwsgi = uwsgi
        options = {_text(key) for key in uwsgi.opt}
        self._elsewhere = "spooler-chdir" in options
        self._rings = "spooler-ordered" not in options or "spooler-cheap" in options
        self._real = os.path.realpath(store.name)
        self.control = UwsgiControl(store.control, uwsgi, self._pids, self.wake)

    @property
    def name(self) -> str:
        return self._store.name

    @property
    def backend(self) -> Backend:
        """The same, as the handler wants it."""
        return self

    # --- producers

    def exists(self) -> bool:
        return self._store.exists()

    def send(self, envelopes: Sequence[Envelope]) -> list[str]:
        if not self._uwsgi.masterpid():
            raise ConfigurationError("this uWSGI has no master process, so it has no spoolers; start it with --master")
        ids = self._store.send(envelopes)
        self.wake()
        return ids

    # --- runtime.inside.Inside

    def enter(self) -> None:
        """Has everybody who sends here know what this uWSGI needs."""
        if self._rings:
            self._store.bell.want()

    def ref(self, name: str) -> str | None:
        path = self._path(name)
        if path is None or not path.startswith(f"{self._real}/"):
            return None
        return path[len(self._real) + 1 :]

    def envelope(self, variables: Mapping[Any, Any]) -> Envelope:
        vars = {_text(key): value for key, value in variables.items() if key not in ("spooler_task_name", "body")}
        return wire.load_parts(vars, variables.get("body", b""), self._signer)

    def holding(self, ref: str, envelope: Envelope) -> contextlib.AbstractContextManager[None]:
        return self._store.holding(ref, envelope)

    def adopt(self, ref: str, envelope: Envelope) -> Claim | Refusal:
        return self._store.adopt(ref, envelope)

    def crashes(self, ref: str) -> int:
        return self._store.crashes(ref)

    def set_aside(self, ref: str, reason: str) -> None:
        self._store.set_aside(ref, reason)

    def is_bell(self, ref: str) -> bool:
        return self._store.bell.is_bell(ref)

    def rung(self) -> bool:
        return self._rings and self._store.bell.rung()

    def urgent(self, ref: str) -> Iterator[str]:
        return self._store.bell.urgent(ref)

    def later(self, ref: str, until: float | None) -> None:
        self._store.bell.later(ref, until)

    def wake(self) -> None:
        for pid in self._pids():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGUSR1)

    def _pids(self) -> list[int]:
        """The live processes of this spooler; uWSGI tells one for each place in its list of spoolers."""
        pairs = zip(self._uwsgi.spoolers, self._uwsgi.spooler_pids(), strict=False)
        return [pid for spooler, pid in pairs if pid > 0 and _text(spooler) == self._real]

    def _path(self, name: str) -> str | None:
        """uWSGI names a task relative to the directory that it is in, where this process is, unless it was told to be
        elsewhere."""
        if not self._elsewhere:
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

    def settle(self, claim: Claim, disposition: Disposition, record: Record | None = None) -> float | None:
        return self._store.settle(claim, disposition)

    def put_off(self, ref: str, until: float) -> None:
        self._store.put_off(ref, until)

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

    def __init__(
        self, control: Control, uwsgi: ModuleType, pids: Callable[[], list[int]], wake: Callable[[], None]
    ) -> None:
        self._control = control
        self._uwsgi = uwsgi
        self._pids = pids
        self._wake = wake

    @property
    def paused(self) -> bool:
        return self._control.paused

    def pause(self) -> None:
        self._control.pause()

    def resume(self) -> None:
        self._control.resume()
        self._wake()

    @property
    def period(self) -> float:
        return self._control.period

    def set_period(self, seconds: float) -> None:
        self._control.set_period(seconds)
        self._uwsgi.set_spooler_frequency(max(1, round(seconds)))
        self._wake()  # or they would wait out the former one

    def enlist(self, role: str) -> Presence:
        return self._control.enlist(role)

    def live(self) -> list[WorkerInfo]:
        return [WorkerInfo("worker", pid, "", 0.0) for pid in self._pids()] + self._control.live()


def _text(value: object) -> str:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)
