"""Spoolers for one test, and the tasks that were sent to them."""

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, NamedTuple

from .. import address, codec, registry, schedule, settings
from ..backends.base import Backend
from ..backends.spool import SpoolBackend
from ..inspection import read, tasks
from ..message import Envelope, State
from .clock import ShiftedClock
from .running import Run, run_all

__all__ = ["Spooled", "TemporarySpooler", "temporary_spooler"]

_WAITING = frozenset({State.READY, State.DEFERRED})


class Spooled(NamedTuple):
    """A waiting task.

    For a function call, ``task`` is ``module:qualname``, and ``args`` and ``kwargs`` are set. For any other message,
    ``task`` is its text, and ``payload`` is set. ``due`` is a Unix time. ``spooler`` is the name of the spooler that
    the program sent to.
    """

    id: str
    task: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    payload: Any
    priority: int | None
    due: float
    state: State
    attempts: int
    spooler: str = ""


class TemporarySpooler:
    """The spoolers of a test: the default one, and each other one to which the program sends.

    Each is a separate directory in the test's temporary one. No task is sent to a real spooler.

    :param root: the temporary directory; also the default spooler if none is configured.
    """

    def __init__(self, root: str) -> None:
        self.clock = ShiftedClock()
        self._root = root
        self._backends: dict[str, _Directory] = {}
        self.backend: Backend = self.redirect(next(iter(settings.spooler_names()), root))
        """The default spooler's backend."""

    @property
    def name(self) -> str:
        """The path of the directory that stands for the default spooler."""
        return self.backend.name

    def tasks(self, spooler: str | os.PathLike[str] | None = None) -> list[Spooled]:
        """Return the waiting tasks, in the order of execution for each spooler.

        This unpickles them.

        :param spooler: return only the tasks of this spooler, given by its name, path or base name.
        """
        wanted = None if spooler is None else os.fspath(spooler)
        found = []
        for name, backend in list(self._backends.items()):
            if wanted is None or wanted in (name, backend.name, address.basename(name)):
                found += [one for entry in tasks(backend, _WAITING) if (one := _spooled(backend, entry.id, name))]
        return found

    def run(self, *, advance: float | timedelta = 0, limit: int = 10_000) -> list[Run]:
        """Run the ready tasks of all spoolers in this process, and return how each run ended.

        Tasks that are sent meanwhile are run too; see :func:`unspool.testing.run_all`.

        :param advance: seconds, or a timedelta, by which to advance the time first, so that postponed tasks and retries
            are due: ``run(advance=3600)``.
        :param limit: the maximum number of runs, for tasks that send themselves forever.
        :raises RuntimeError: if there are more.
        """
        self.advance(advance)
        runs: list[Run] = []
        before = -1
        while len(runs) > before:
            before = len(runs)
            for backend in list(self._backends.values()):
                runs += run_all(backend, clock=self.clock, limit=limit - len(runs))
        return runs

    def advance(self, seconds: float | timedelta) -> float:
        """Advance the time for spoolers and for tasks that are sent, and return the new time (Unix time).

        ``time.time()`` in the program itself does not change.

        :raises ValueError: for a negative number.
        """
        return self.clock.advance(seconds.total_seconds() if isinstance(seconds, timedelta) else seconds)

    def redirect(self, name: str) -> "_Directory":
        """Return the backend that replaces the spooler of a name."""
        for known, backend in self._backends.items():
            if name in (known, backend.name):
                return backend
        path = (
            self._root
            if name == self._root
            else os.path.join(self._root, f"{address.basename(name)}-{len(self._backends)}")
        )
        self._backends[name] = _Directory(path, durable=False, clock=self.clock)
        return self._backends[name]

    def close(self) -> None:
        """Close the backends."""
        for backend in self._backends.values():
            backend.close()


@contextlib.contextmanager
def temporary_spooler(path: str | os.PathLike[str] | None = None) -> Iterator[TemporarySpooler]:
    """Capture all tasks that this process sends, to any spooler, and restore everything at the end.

    For tests without pytest::

        class SignupTest(unittest.TestCase):
            def setUp(self):
                self.spooler = self.enterContext(unspool.testing.temporary_spooler())

    :param path: a directory for the spoolers; None for a temporary one, which is removed at the end.
    """
    with contextlib.ExitStack() as stack:
        root = os.path.abspath(path) if path is not None else stack.enter_context(tempfile.TemporaryDirectory())
        spooler = TemporarySpooler(root)
        stack.callback(spooler.close)
        if not settings.spooler_names():
            stack.callback(settings.configure, spoolers=None)
            settings.configure(spoolers=[spooler.name])
        stack.callback(registry.redirect, registry.redirection())
        stack.callback(setattr, schedule, "clock", schedule.clock)
        schedule.clock = spooler.clock
        registry.redirect(spooler.redirect)
        yield spooler


class _Directory(SpoolBackend):
    """A directory that also accepts tasks of a transaction.

    They are sent at once, because there is nothing to roll back.
    """

    def send_within(self, connection: Any, envelopes: Sequence[Envelope]) -> list[str]:
        return self.send(envelopes)


def _spooled(backend: Backend, id: str, spooler: str) -> Spooled | None:
    found = read(backend, id)
    if found is None or found[1] is None:
        return None
    entry, message = found[0], codec.decode(found[1])
    call: Mapping[str, Any] = message.payload if message.task is not None else {}
    return Spooled(
        entry.id,
        message.task or message.message,
        call.get("arg", ()),
        call.get("kwg", {}),
        None if call else message.payload,
        entry.priority,
        entry.due,
        entry.state,
        entry.attempts,
        spooler,
    )
