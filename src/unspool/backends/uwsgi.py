"""Real uWSGI, from within: the only importer of the ``uwsgi`` module.

A spooler inside uWSGI is a spool directory whose tasks uWSGI's own spooler processes take. Sending is the directory's,
and then the spoolers are woken, also those that are busy: uWSGI itself wakes only idle ones, and a busy one would then
wait out its frequency.

uWSGI offers tasks in no order. It looks into the directories of priorities only with ``spooler-ordered``, and a cheap
one not even then. So an offered task is only a sign that there is work, and the task that comes next is run instead
(see ``spool/due_list``). For tasks with a priority, a wakefile is put where uWSGI looks (see ``spool/wakefile``). A
call runs tasks until none is due, or one task if uWSGI limits the time of a call (harakiri) or the number of tasks.
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

__all__ = ["UwsgiBackend", "frequency", "install", "module", "spoolers"]

Handler = Callable[[dict[Any, Any]], Any]
_FREQUENCY = 30.0  # seconds: uWSGI's own default
_GLANCE = 0.002  # seconds in which a process that runs one task after the other does not look for a pause again


class Bell(Protocol):
    """What leads uWSGI to the tasks with a priority."""

    def want(self) -> None:
        """Has everybody ring from now on."""

    def is_bell(self, ref: str) -> bool:
        """Return whether this is no task but a bell."""

    def rung(self, *, certain: bool = False) -> bool:
        """Return whether there is a bell for now; unless it must be ``certain``, one may be noticed a moment later."""

    def overlooked(self, parts: Iterable[str] | None = None) -> bool:
        """Return whether a task with a priority may have been sent without ringing.

        :param parts: the directories that ``Agenda.priorities`` has just listed, if it has.
        """

    @property
    def more(self) -> bool:
        """Whether more than has been given out is known to be due."""

    def urgent(self, ref: str) -> Iterator[str]:
        """Return the refs of due tasks with a priority, in order."""

    def later(self, ref: str, until: float | None) -> None:
        """Do not offer the task of ``ref`` before this time; None if another process runs it."""


class Agenda(Protocol):
    """The due tasks without a priority, in order."""

    def __bool__(self) -> bool:
        """Return whether any is noted."""

    def next(self) -> str | None:
        """Return the ref of the next one, which is then no longer noted."""

    @property
    def priorities(self) -> list[str]:
        """The directories of priorities that the last look found."""

    @property
    def busy(self) -> list[str]:
        """Return the tasks that another process had when they were tried."""

    def tried(self, ref: str) -> None:
        """Note that a busy task is tried once more. A process that finds it busy again calls ``later``."""

    @property
    def may_look(self) -> bool:
        """Whether it is time to."""

    def look(self) -> None:
        """Note what is due now."""

    def later(self, ref: str, until: float | None) -> None:
        """Do not note the task of ``ref`` before this time; None if another process runs it."""


class Store(Backend, Protocol):
    """What is needed of the directory."""

    @property
    def wakefile(self) -> Bell:
        """Its bell."""

    @property
    def due_list(self) -> Agenda:
        """Its tasks without a priority."""

    @property
    def depot(self) -> Depot:
        """Its side of a move."""

    def let_go(self, ref: str) -> None:
        """Gives up the lock that uWSGI has on a file in this process."""

    def jot(self, records: Sequence[Record]) -> None:
        """Add one run to the history, from any process, for little."""


def module() -> ModuleType | None:
    """Return the module that uWSGI itself puts there; a package of that name on the path has no options."""
    found = sys.modules.get("uwsgi")
    return found if hasattr(found, "opt") else None


def frequency() -> float | None:
    """Return the seconds between two looks of uWSGI's spoolers at their directories, as configured; None outside
    uWSGI."""
    found = module()
    if found is None:
        return None
    options = {_text(key): value for key, value in found.opt.items()}
    try:
        return float(_text(options["spooler-frequency"]))
    except (KeyError, ValueError):
        return _FREQUENCY


def spoolers() -> list[str]:
    """Return the real paths of uWSGI's spool directories, in its order; empty outside uWSGI."""
    return list(dict.fromkeys(_text(path) for path in getattr(module(), "spoolers", ())))


def install(handler: Handler, keep: Callable[[Handler], None]) -> None:
    """Make ``handler`` the one that uWSGI's spoolers call, also if the program sets another one later.

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
    def backend(self) -> Backend:
        """Return the backend in the form that the handler needs."""
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
                "this uWSGI has no master process, so its spoolers are not started again when they die, and outlive "
                "uWSGI when it does; start it with --master"
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
        """The registration of this process, by which others see what it runs."""
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
        known = not plain or not plain.may_look  # in a large directory since the last look, which took long
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
        for name in plain.busy:  # another process of uWSGI's may have looked at one just then, and left it
            plain.tried(name)
            yield name
        if wakefile.rung(certain=True):  # or it would wait for uWSGI's next look
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
        """Return the live processes of this spooler; uWSGI tells one for each place in its list of spoolers."""
        pairs = zip(self._uwsgi.spoolers, self._uwsgi.spooler_pids(), strict=False)
        return [pid for spooler, pid in pairs if pid > 0 and _text(spooler) == self._real]

    def _path(self, name: str) -> str | None:
        """uWSGI names a task relative to the directory that it is in, where this process is, unless it was told to be
        elsewhere."""
        if not self._elsewhere:
            return f"{os.getcwd()}/{name}"
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
    """Implements ``base.Control``: the directory's switches, uWSGI's processes and frequency."""

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
        if not paused:  # else who is woken up by the end of the pause might not see it
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
        self._wake()  # or they would wait out the former one

    def keep_period(self) -> None:
        """Has uWSGI keep the period that was set last, also by a uWSGI before this one."""
        self._uwsgi.set_spooler_frequency(max(1, round(self._control.period)))

    def register(self, role: str) -> Registration:
        return self._control.register(role)

    def live(self) -> list[WorkerInfo]:
        seen = self._control.live()
        known = {info.pid for info in seen}
        return [WorkerInfo("worker", pid, "", 0.0) for pid in self._pids() if pid not in known] + seen


def _text(value: object) -> str:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)
