"""Operations on single tasks in a stream: read, rewrite, move to the dead letters.

Each change requires that the task's message is still the one that was read. The sequence number of that message is the
fence between processes that believe they have the task.
"""

import contextlib
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from ...message import Bury
from ..base import Clock
from . import ends, runs
from .cluster import Cluster
from .jetstream import JetStream
from .names import CORRUPT, DEAD, LATER, NOW, SOON, rank_part
from .requests import ID, ApiError, Conflict, Request, deletion
from .runs import Run
from .stored import HEADER, Facts, Stored

__all__ = ["Tasks"]

_LEAD = 1.0  # seconds before the due time at which the server releases a task, because its timer is this coarse
_LAST = 253_000_000_000.0  # approximately the last second that the server's time format can represent
_LOCK = {"Nats-TTL": "120s"}  # longer than a worker takes from reading a task to writing the record of its run


class Tasks:
    """Read and rewrite the tasks of a spooler.

    :param schedules: False if the server must not hold deferred tasks back.
    """

    def __init__(self, place: Cluster, clock: Clock, schedules: bool) -> None:
        self._place = place
        self._names = place.names
        self._clock = clock
        self._schedules = schedules
        self._publish = place.reserve.publish

    def new(self, rank: str, token: str, facts: Facts, data: bytes, *, fresh: bool) -> Request:
        """Return the message of a new task.

        :param fresh: True if the task is due when it is sent.
        """
        # Newly sent tasks are stored in the order of their due times, which listings rely on.
        subject, headers = self._form(NOW if fresh else self._kind(facts.due), rank, token, facts)
        return Request(subject, data, {ID: token, **headers})

    def put(
        self, stream: JetStream, rank: str, token: str, facts: Facts, data: bytes, former: Stored, kind: str = ""
    ) -> int:
        """Write a task in place of ``former``, and return its sequence number.

        :param kind: ``SOON`` to release it at once, whatever its due time.
        :raises Conflict: if ``former`` is no longer the last message of the task.
        """
        subject, headers = self._form(kind or self._kind(facts.due), rank, token, former.replaced(facts))
        replaces = (self._names.task("*", "*", token), former.seq)
        seq = self._publish(stream, self._names.tasks, subject, data, headers, replaces=replaces)
        stream.delete(self._names.tasks, former.seq)
        return seq

    def _kind(self, due: float) -> str:
        return LATER if self._place.schedules and self._schedules and due - self._clock() > _LEAD else SOON

    def _form(self, kind: str, rank: str, token: str, facts: Facts) -> tuple[str, dict[str, str]]:
        """Return the subject and the headers of a task."""
        headers = {HEADER: facts.dump()}
        if kind == LATER:
            wait = facts.due - self._clock()
            at = datetime.fromtimestamp(min(time.time() + wait - _LEAD, _LAST), UTC)
            headers["Nats-Schedule"] = f"@at {at:%Y-%m-%dT%H:%M:%S.%fZ}"
            headers["Nats-Schedule-Target"] = self._names.task(SOON, rank, token)
        return self._names.task(kind, rank, token), headers

    def turn(self, stream: JetStream, stored: Stored, kind: str, facts: Facts, rank: str = "") -> int:
        """Rewrite a task under another kind or rank in the same stream.

        Return its new sequence number, or 0 if it changed concurrently.
        """
        names = self._names
        _, priority, token = names.place(stored.subject)
        rank, name = rank or rank_part(priority), names.stream(kind)
        subject, replaces = names.task(kind, rank, token), (names.task("*", "*", token), stored.seq)
        headers = {HEADER: stored.replaced(facts).dump()}
        try:
            seq = self._publish(stream, name, subject, stored.data, headers, replaces=replaces)
        except Conflict:
            return 0
        stream.delete(name, stored.seq)
        return seq

    def let_out(self, stream: JetStream, stored: Stored) -> bool:
        """Release a deferred task in place of the server. Return False if the server has released it already."""
        names = self._names
        _, priority, token = names.place(stored.subject)
        try:
            self.put(stream, rank_part(priority), token, stored.facts, stored.data, stored, SOON)
        except Conflict:
            last = stream.last(names.tasks, names.task("*", "*", token))
            if last is not None:
                self.drop_former(stream, last)  # left by a process that died while it released the task
            return False
        return True

    def drop_former(self, stream: JetStream, stored: Stored) -> bool:
        """Delete earlier messages of a task, and return whether there were any.

        If an earlier message has a later version, a server has restored this message, or has released it although it
        had been replaced. In that case this message is deleted.

        An earlier message exists if a process died after it rewrote the task, or if the server died after it released a
        deferred task. A task that was sent to run at once and was never rewritten has none. A rewritten task under
        ``now`` was a dead letter before and was retried.
        """
        names, found = self._names, False
        kind, _, token = names.place(stored.subject)
        if kind == NOW:
            if not stored.facts.anew:
                return False
            found = self._drop_aside(stream, stored)
        name, subject = names.stream(kind), names.task("*", "*", token)
        while (first := stream.next(name, subject, 1)) is not None and first.seq < stored.seq:
            doomed = first if first.facts.version <= stored.facts.version else stored
            found = stream.delete(name, doomed.seq) or found
            if doomed is stored:
                return True
        return found

    def _drop_aside(self, stream: JetStream, stored: Stored) -> bool:
        """Delete the dead-letter copy of a task if it is older than this message. Return whether it existed."""
        names = self._names
        _, _, token = names.place(stored.subject)
        aside = stream.last(names.aside, names.task("*", "*", token))
        if aside is None or aside.time > stored.time or names.passing(aside.subject):
            return False
        return stream.delete(names.aside, aside.seq)

    # --- records of runs

    def look(self, stream: JetStream, token: str) -> tuple[Stored | None, Run | None]:
        """Return a task and the last record about it: a record of its run or an end record.

        The record is read first: if it does not belong to this message, it belongs to an earlier message and is void.
        If the message were read first, the record could belong to a later message, and to a run in progress.
        """
        run = self.run_of(stream, token)
        return self.last(stream, self._names.tasks, token, run), run

    def last(self, stream: JetStream, name: str, token: str, run: Run | None) -> Stored | None:
        """Return a task's last message in a stream, or None if its last record voids it."""
        return ends.last(stream, self._names, name, token, run)

    def run_of(self, stream: JetStream, token: str) -> Run | None:
        """Return the last record about a task."""
        record = stream.last(self._names.state, self._names.records(token))
        return Run.of(record) if record else None

    def end(self, stream: JetStream, stored: Stored, after: int | None) -> bool:
        """Delete a message permanently, and return whether it existed. See ``ends.end``."""
        return ends.end(stream, self._names, stored, after)

    def begin(self, stream: JetStream, run: Run, former: Run | None, *, vanishes: bool = False) -> int:
        """Write the record of a run, and return its number. The caller must then check that the task is unchanged.

        :param former: the last record about this task.
        :param vanishes: whether the server deletes the record by itself.
        :raises Conflict: if another record has been written.
        """
        names, subject = self._names, self._names.run(run.token)
        headers, replaces = _LOCK if vanishes else None, (names.records(run.token), former.seq if former else 0)
        return self._publish(stream, names.state, subject, run.dump(), headers, replaces=replaces)

    def lock(self, stream: JetStream, stored: Stored, run: Run | None) -> int:
        """Prevent workers from starting a task that they have already read. Return the number of the lock's record.

        The record has the form of a run's record. If this process is killed, that does not count as a crash.

        :param run: the last record about this task.
        :raises Conflict: if another process has just started it.
        """
        _, _, token = self._names.place(stored.subject)
        record = Run(token, 0, stored.seq, stored.facts.attempts, runs.me(), excused=True)
        return self.begin(stream, record, run, vanishes=True)

    @contextlib.contextmanager
    def locked(self, stream: JetStream, stored: Stored, run: Run | None) -> Iterator[None]:
        """Hold the lock of ``lock`` while a block runs."""
        try:
            record = self.lock(stream, stored, run)
        except ApiError as error:
            if not error.is_full:
                raise
            record = 0  # removing tasks must still work on a full storage, and no worker can write a record then either
        try:
            yield
        finally:
            if record:
                stream.tell(deletion(self._names.state, record))

    def mark(self, stream: JetStream, token: str, **changes: Any) -> None:
        """Change the record of a task that has been begun."""
        names = self._names
        stored, run = self.look(stream, token)
        if stored is not None and run is not None and run.is_of(stored):
            with contextlib.suppress(Conflict):  # the run has just ended
                data, replaces = run._replace(prefetched=False, **changes).dump(), (names.records(token), run.seq)
                self._publish(stream, names.state, names.run(token), data, replaces=replaces)

    def count_crash(self, stream: JetStream, stored: Stored, run: Run) -> Stored | None:
        """Record that the last run ended with its worker. Return the task in its new state.

        Return None if another process has recorded it, or if the worker had already moved the task to the dead letters
        and only the deletion was missing.
        """
        names, facts = self._names, stored.facts
        aside = stream.last(names.aside, names.task("*", "*", run.token))
        if aside is not None and aside.time > stored.time and not names.passing(aside.subject):
            self.end(stream, stored, run.seq)
            return None
        self.drop_former(stream, stored)  # an earlier message was restored by a retry
        due = max(facts.due, run.until)
        if run.prefetched:  # whether it was begun is unknown
            counted = facts._replace(due=due, alone=True)
        else:
            counted = facts._replace(due=due, attempts=run.attempts, crashes=facts.crashes + (not run.excused))
        seq = self.anew(stream, stored, counted)
        _, priority, token = names.place(stored.subject)
        subject = names.task(self._kind(due), rank_part(priority), token)
        return stored._replace(subject=subject, seq=seq, header=stored.replaced(counted).dump()) if seq else None

    def anew(self, stream: JetStream, stored: Stored, facts: Facts, rank: str = "") -> int:
        """Rewrite a task, or give it another rank. Return its new sequence number, or 0 if it changed concurrently."""
        _, priority, token = self._names.place(stored.subject)
        try:
            return self.put(stream, rank or rank_part(priority), token, facts, stored.data, stored)
        except Conflict:
            return 0

    def set_aside(self, stream: JetStream, stored: Stored, facts: Facts, bury: Bury, record: int | None) -> bool:
        """Move a task to the dead letters. The copy is stored before the original is deleted.

        :param record: the number of the record by which this process has the task; None if no process can start it.
        """
        names = self._names
        _, priority, token = names.place(stored.subject)
        last = stream.last(names.tasks, names.task("*", "*", token))
        if last is None or last.seq != stored.seq:
            return False
        subject = names.task(CORRUPT if bury.corrupt else DEAD, rank_part(priority), token)
        headers = {HEADER: stored.replaced(facts._replace(reason=bury.reason)).dump()}
        seq = self._publish(stream, names.aside, subject, stored.data, headers)
        copy = stored._replace(subject=subject, seq=seq, header=headers[HEADER])
        self.drop_former(stream, copy)  # left by an interrupted call
        return self.end(stream, stored, record)
