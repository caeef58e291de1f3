"""The backend inside a real uWSGI. No other module imports the ``uwsgi`` module.

A spooler inside uWSGI is a spool directory whose tasks uWSGI's own spooler processes take. After a send, all of these
processes are woken. uWSGI itself wakes only idle ones, and a busy one would then wait for its next period.

uWSGI offers tasks in no order. It scans the directories of priorities only with ``spooler-ordered``, and never in cheap
mode. An offered task is therefore only a sign that there is work, and the task that comes next is run instead (see
``spool/due_list``). For tasks with a priority, a wakefile is created where uWSGI scans (see ``spool/wakefile``). A call
runs tasks until none is due, or one task if uWSGI limits the time of a call (harakiri) or the number of tasks.
"""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import ModuleType
from typing import Any, Protocol

from ..errors import ConfigurationError
from ..message import Claim, Disposition, Entry, Envelope, Record, Refusal, State
from .base import Backend, Capabilities, Control, Feed, Registration, Summary, WorkerInfo
from .depot import Depot
from .keyvalue import KeyValue

__all__ = ["UwsgiBackend", "frequency", "install", "module", "spoolers"]

Handler = Callable[[dict[Any, Any]], Any]
_FREQUENCY = 30.0  # seconds, the default of uWSGI
_GLANCE = 0.002  # seconds for which a process that runs tasks continuously does not check for a pause again


class Wakefile(Protocol):
    """The wakefile, which leads uWSGI to the tasks with a priority."""

    def want(self) -> None:
        """Make all senders create the wakefile from now on."""

    def is_bell(self, ref: str) -> bool:
        """Return whether this is a wakefile and not a task."""

    def rung(self, *, certain: bool = False) -> bool:
        """Return whether a wakefile is due. Unless ``certain``, a new one may be noticed a moment later."""

    def overlooked(self, parts: Iterable[str] | None = None) -> bool:
        """Return whether a task with a priority may have been sent without a wakefile.

        :param parts: the directories that ``DueList.priorities`` has just listed, if any.
        """

    @property
    def more(self) -> bool:
        """Return whether more due tasks are known than were handed out."""

    def urgent(self, ref: str) -> Iterator[str]:
        """Return the refs of due tasks with a priority, in order."""

    def later(self, ref: str, until: float | None) -> None:
        """Do not offer the task of ``ref`` before this time; None if another process runs it."""


class DueList(Protocol):
    """The due tasks without a priority, in order."""

    def __bool__(self) -> bool:
        """Return whether the list is not empty."""

    def next(self) -> str | None:
        """Remove and return the ref of the next task, or None."""

    @property
    def priorities(self) -> list[str]:
        """Return the priority directories that the last look found."""

    @property
    def busy(self) -> list[str]:
        """Return the tasks that another process held when they were last tried."""

    def tried(self, ref: str) -> None:
        """Take a task off the busy list when it is tried once more. If it is still busy, call ``later``."""

    @property
    def may_look(self) -> bool:
        """Return whether another look is allowed."""

    def look(self) -> None:
        """Replace the list with the tasks that are due now."""

    def later(self, ref: str, until: float | None) -> None:
        """Do not list a task before this time; None if another process runs it."""


class Store(Backend, Protocol):
    """The methods of the spool directory that are used here."""

    @property
    def wakefile(self) -> Wakefile:
        """Return the wakefile."""

    @property
    def due_list(self) -> DueList:
        """Return the due tasks without a priority."""

    @property
    def kv(self) -> KeyValue:
        """Return its key-value table."""

    @property
    def depot(self) -> Depot:
        """Return its end of a transfer."""

    def let_go(self, ref: str) -> None:
        """Release uWSGI's lock on a file in this process."""

    def jot(self, records: Sequence[Record]) -> None:
        """Add runs to this process's journal, which is cheap, from any process."""


def module() -> ModuleType | None:
    """Return the module that uWSGI provides, or None. A package named ``uwsgi`` on the path is ignored; it has no
    options."""
    found = sys.modules.get("uwsgi")
    return found if hasattr(found, "opt") else None


def frequency() -> float | None:
    """Return the configured seconds between two scans by uWSGI's spoolers, or None outside uWSGI."""
    found = module()
    if found is None:
        return None
    options = {_text(key): value for key, value in found.opt.items()}
    try:
        return float(_text(options["spooler-frequency"]))
    except (KeyError, ValueError):
        return _FREQUENCY


def spoolers() -> list[str]:
    """Return the real paths of uWSGI's spool directories, in its order. The list is empty outside uWSGI."""
    return list(dict.fromkeys(_text(path) for path in getattr(module(), "spoolers", ())))


def install(handler: Handler, keep: Callable[[Handler], None]) -> None:
    """Make uWSGI's spoolers call ``handler``, even if the program sets another handler later.

    :param keep: called with each other handler: the present one and any that is set later.
    """
    found = module()
    if found is None:
        return
    _fill_low_descriptors()

    class Module(ModuleType):
        """The uwsgi module with a fixed attribute ``spooler``, which uWSGI reads from the module's dict."""

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
    """Open descriptors until the standard ones are taken.

    A spooler process other than the first starts with descriptor 0 closed. After the imports of ``spooler-import``
    uWSGI opens /dev/null as descriptor 0, over any file that was opened in the meantime.
    """
    while True:
        fd = os.open(os.devnull, os.O_RDWR)
        if fd > 2:
            os.close(fd)
            return


class UwsgiBackend:
    """A spool directory inside the uWSGI that runs its tasks.

    :param store: the directory.
    :param uwsgi: the ``uwsgi`` module.
    """

    capabilities = Capabilities(feeds=False, forks=True)

    def __init__(self, store: Store, uwsgi: ModuleType) -> None:
        self._store = store
        self._uwsgi = uwsgi
        options = {_text(key) for key in uwsgi.opt}
        self._elsewhere = "spooler-chdir" in options
        self.one_a_call = bool(options & {"spooler-harakiri", "spooler-max-tasks"})
        self._real = os.path.realpath(store.name)
        self._registration: Registration | None = None
        self._registered_by = 0
        self.control = UwsgiControl(store.control, uwsgi, self._pids, self.wake)

    @property
    def name(self) -> str:
        return self._store.name

    @property
    def kv(self) -> KeyValue:
        """Return the directory's key-value table."""
        return self._store.kv

    @property
    def backend(self) -> Backend:
        """Return the backend for use by the handler."""
        return self

    # --- producers

    @property
    def depot(self) -> Depot:
        return self._store.depot

    def exists(self) -> bool:
        return self._store.exists()

    def send(self, envelopes: Sequence[Envelope]) -> list[str]:
        if not self._uwsgi.masterpid() and self._pids():
            raise ConfigurationError(
                "this uWSGI has no master process, so its spoolers are not restarted when they die, and outlive "
                "uWSGI when it ends; start it with --master"
            )
        try:
            return self._store.send(envelopes)
        finally:
            self.wake()  # also for tasks that were sent before an error

    # --- runtime.inside.Inside

    def enter(self) -> None:
        self._store.wakefile.want()
        self.control.keep_period()

    @property
    def registration(self) -> Registration:
        """Return the registration of this process, which shows others its current task."""
        if self._registration is None or self._registered_by != os.getpid():
            self._registration, self._registered_by = self._store.control.register("worker"), os.getpid()
        return self._registration

    def ref(self, name: str) -> str | None:
        path = self._path(name)
        if path is None or not path.startswith(f"{self._real}/"):
            return None
        return path[len(self._real) + 1 :]

    def let_go(self, ref: str) -> None:
        self._store.let_go(ref)

    def is_bell(self, ref: str) -> bool:
        return self._store.wakefile.is_bell(ref)

    def upcoming(self, ref: str) -> Iterator[str]:
        wakefile, plain = self._store.wakefile, self._store.due_list
        rung = wakefile.is_bell(ref) or wakefile.rung()
        if rung:
            yield from wakefile.urgent(ref)
        known = not plain or not plain.may_look  # true in a large directory, whose last look took long
        if not plain and plain.may_look:
            plain.look()
        if not rung and wakefile.overlooked(plain.priorities if known else None):
            yield from wakefile.urgent(ref)
        while (name := plain.next()) is not None:
            yield name
            if wakefile.rung():
                yield from wakefile.urgent(ref)
            if not plain and plain.may_look:
                plain.look()
        for name in plain.busy:  # another process of uWSGI may have tried the task at that moment without running it
            plain.tried(name)
            yield name
        if wakefile.rung(certain=True):  # otherwise it would wait for uWSGI's next scan
            yield from wakefile.urgent(ref)

    @property
    def more(self) -> bool:
        return bool(self._store.due_list) or self._store.wakefile.more

    def later(self, ref: str, until: float | None) -> None:
        numbered = "/" in ref
        (self._store.wakefile if numbered else self._store.due_list).later(ref, until)

    def wake(self) -> None:
        for pid in self._pids():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGUSR1)

    def _pids(self) -> list[int]:
        """Return the live processes of this spooler. uWSGI lists one process for each entry in its list of spoolers."""
        pairs = zip(self._uwsgi.spoolers, self._uwsgi.spooler_pids(), strict=False)
        return [pid for spooler, pid in pairs if pid > 0 and _text(spooler) == self._real]

    def _path(self, name: str) -> str | None:
        """Return the path of a task that uWSGI names relative to its directory.

        That directory is the working directory, unless uWSGI has the option ``spooler-chdir``.
        """
        if not self._elsewhere:
            return f"{os.getcwd()}/{name}"
        for fd in os.listdir("/proc/self/fd"):  # the process has the file open
            with contextlib.suppress(OSError):
                path = os.readlink(f"/proc/self/fd/{fd}")
                if path.endswith(f"/{name}"):
                    return path
        return None

    # --- delegated to the directory

    def feed(self) -> Feed:
        return self._store.feed()

    def claim(self, ref: str) -> Claim | Refusal:
        return self._store.claim(ref)

    def settle(self, claim: Claim, disposition: Disposition, record: Record | None = None) -> float | None:
        return self._store.settle(claim, disposition)

    def put_off(self, ref: str, until: float) -> None:
        self._store.put_off(ref, until)

    def excuse(self, ref: str) -> None:
        self._store.excuse(ref)

    def flush(self, *, wait: bool = True) -> None:
        self._store.flush()

    def entries(self, states: frozenset[State] = frozenset(State), limit: int | None = None) -> Iterator[Entry]:
        return self._store.entries(states, limit)

    def counts(self) -> dict[State, int]:
        return self._store.counts()

    def summary(self) -> Summary:
        return self._store.summary()

    def find(self, id: str) -> Entry | None:
        return self._store.find(id)

    def short(self, id: str) -> str:
        return self._store.short(id)

    def matching(self, piece: str, *, ended: bool = False) -> list[str]:
        return self._store.matching(piece, ended=ended)

    def read(self, id: str) -> tuple[Entry, Envelope | None] | None:
        return self._store.read(id)

    def retry(self, id: str) -> str:
        return self._store.retry(id)

    def remove(self, id: str) -> None:
        self._store.remove(id)

    def record(self, records: Sequence[Record]) -> None:
        self._store.jot(records)

    def history(self, *, id: str | None = None, limit: int = 100) -> list[Record]:
        return self._store.history(id=id, limit=limit)

    def close(self) -> None:
        self._store.close()


class UwsgiControl:
    """Implement ``base.Control`` with the directory's switches and uWSGI's processes and frequency."""

    def __init__(
        self, control: Control, uwsgi: ModuleType, pids: Callable[[], list[int]], wake: Callable[[], None]
    ) -> None:
        self._control = control
        self._uwsgi = uwsgi
        self._pids = pids
        self._wake = wake
        self._not_before = 0.0

    @property
    def paused(self) -> bool:
        now = time.monotonic()
        if now < self._not_before:
            return False
        paused = self._control.paused
        if not paused:  # a process woken by the end of a pause must not rely on an old value
            self._not_before = now + _GLANCE
        return paused

    def pause(self) -> None:
        self._control.pause()
        self._not_before = 0.0

    def resume(self) -> None:
        self._control.resume()
        self._wake()

    @property
    def period(self) -> float:
        return self._control.period

    def set_period(self, seconds: float) -> None:
        self._control.set_period(seconds)
        self.keep_period()
        self._wake()  # otherwise they would wait for the former period

    def keep_period(self) -> None:
        """Apply the stored period to uWSGI, including one set under an earlier uWSGI."""
        self._uwsgi.set_spooler_frequency(max(1, round(self._control.period)))

    def register(self, role: str) -> Registration:
        return self._control.register(role)

    def live(self) -> list[WorkerInfo]:
        seen = self._control.live()
        known = {info.pid for info in seen}
        return [WorkerInfo("worker", pid, "", 0.0) for pid in self._pids() if pid not in known] + seen


def _text(value: object) -> str:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)
