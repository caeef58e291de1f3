"""Changes of single tasks by a user: run now, remove, another priority."""

import contextlib
from collections.abc import Callable, Iterator

from ...errors import TaskBusy
from ..base import Clock
from ..change import Change, Remove, Reprioritise, RunNow, kept_out
from ..depot import MOVING
from . import runs
from .cluster import Cluster
from .jetstream import JetStream
from .names import ARRIVING, LEAVING, NOW, key_of, rank_part
from .requests import Conflict
from .runs import Run
from .stored import HEADER, Facts, Stored
from .tasks import Tasks
from .unique import Keys

__all__ = ["Changing"]

_TRIES = 4


class _Changed(TaskBusy):
    """The task changed between the read and the change, so another attempt may succeed."""


class Changing:
    """Change tasks that are not running."""

    def __init__(self, place: Cluster, tasks: Tasks, keys: Keys, clock: Clock) -> None:
        self._keys = keys
        self._place = place
        self._tasks = tasks
        self._clock = clock

    def change(self, stream: JetStream, id: str, change: Change) -> str:
        """Change a task, and return its id."""
        match change:
            case RunNow():
                self._patiently(lambda: self._run_now(stream, id))
            case Remove():
                self._patiently(lambda: self._remove(stream, id))
            case Reprioritise(priority):
                self._patiently(lambda: self._reprioritise(stream, id, rank_part(priority)))
        return f"{self._place.name}/{self._place.token(id)}"

    @staticmethod
    def _patiently(change: Callable[[], None]) -> None:
        """Make a change. Repeat it if the task changes meanwhile, for example because its last run is just ending.

        :raises TaskBusy: if the task changes each time.
        """
        for _ in range(_TRIES - 1):
            with contextlib.suppress(_Changed):
                change()
                return
        change()

    def _run_now(self, stream: JetStream, id: str) -> None:
        stored, run, aside = self._idle(stream, id)
        names, facts = self._place.names, stored.facts
        fresh = Facts(self._clock(), key_start=facts.key_start, key_until=facts.key_until)
        _, priority, token = names.place(stored.subject)
        if not aside:
            with self._unbegun(stream, id, stored, run):
                if not self._tasks.anew(stream, stored, fresh):
                    raise _changed(id)
        else:
            rank = rank_part(priority)
            self._place.ensure_rank(stream, rank)
            subject, own = names.task(NOW, rank, token), names.task("*", "*", token)
            if (key := key_of(token)) is None:
                holder, replaces = None, (own, 0)
            else:
                holder, replaces = self._keys.holder(stream, key)
                if holder not in (None, token):
                    raise kept_out(id, f"{self._place.name}/{holder}")
            if stream.last(names.tasks, own) is None:  # otherwise an interrupted retry has already restored it
                headers = {HEADER: stored.replaced(fresh).dump()}
                try:
                    stream.publish(names.tasks, subject, stored.data, headers, replaces=replaces)
                except Conflict:
                    raise _changed(id) from None
            self._tasks.end(stream, stored, run.seq if run else 0)

    def _reprioritise(self, stream: JetStream, id: str, rank: str) -> None:
        """Rewrite a task under the subject of another priority.

        The new message is stored before the former one is deleted, and readers take the last message of a task. After a
        kill in between, ``drop_former`` deletes the former one.
        """
        stored, run, aside = self._idle(stream, id)
        kind, priority, _ = self._place.names.place(stored.subject)
        if rank_part(priority) == rank:
            return
        self._place.ensure_rank(stream, rank)
        if aside:
            if not self._tasks.turn(stream, stored, kind, stored.facts, rank):
                raise _changed(id)
            return
        if run is not None and run.is_of(stored):  # its run has ended with its worker
            self._tasks.count_crash(stream, stored, run)
            raise _changed(id)
        with self._unbegun(stream, id, stored, run):
            if not self._tasks.anew(stream, stored, stored.facts, rank):
                raise _changed(id)

    def _remove(self, stream: JetStream, id: str) -> None:
        stored, run, aside = self._idle(stream, id)
        if aside:
            removed = self._tasks.end(stream, stored, run.seq if run else 0)
        else:
            with self._unbegun(stream, id, stored, run):
                removed = self._tasks.end(stream, stored, None)
        if not removed:
            raise _changed(id)

    @contextlib.contextmanager
    def _unbegun(self, stream: JetStream, id: str, stored: Stored, run: Run | None) -> Iterator[None]:
        """Prevent a task from starting while the block runs.

        :raises TaskBusy: if it has just started.
        """
        try:
            with self._tasks.locked(stream, stored, run):
                yield
        except Conflict:
            raise _changed(id) from None

    def _idle(self, stream: JetStream, id: str) -> tuple[Stored, Run | None, bool]:
        """Return a task that is not running, the last record of its runs, and whether it is a dead letter.

        :raises LookupError: if the task does not exist.
        :raises TaskBusy: if it is running or being moved.
        """
        stored, run, aside = self._found(stream, id)
        if self._place.names.passing(stored.subject) == LEAVING:
            raise TaskBusy(f"task {id} {MOVING}")
        self._tasks.drop_former(stream, stored)  # otherwise an earlier message of it could reappear
        return stored, run, aside

    def _found(self, stream: JetStream, id: str) -> tuple[Stored, Run | None, bool]:
        token = self._place.token(id)
        if token is not None:
            names = self._place.names
            stored, run = self._tasks.look(stream, token)
            if stored is not None and self._place.names.passing(stored.subject) != ARRIVING:
                if run and run.is_of(stored) and runs.is_held(stream, names, run):
                    raise TaskBusy(f"task {id} is running; ask again when it has ended")
                return stored, run, False
            stored = self._tasks.last(stream, names.aside, token, run)
            if stored is not None and self._place.names.passing(stored.subject) != ARRIVING:
                return stored, run, True
        raise LookupError(f"no task {id} in spooler {self._place.name}")


def _changed(id: str) -> _Changed:
    return _Changed(f"task {id} has just changed; look again")
