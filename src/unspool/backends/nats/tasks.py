"""Operations on single tasks in a stream: read, rewrite, move to the dead letters. They run in the event loop.

Each change requires that the task's message is still the one that was read. The sequence number of that message is the
fence between processes that believe they have the task.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime

from ...message import Bury
from ..base import Clock
from . import ends, runs
from .async_connection import Unreachable
from .cluster import Cluster
from .jetstream import ID, ApiError, Conflict, JetStream, Publication
from .names import CORRUPT, DEAD, LATER, NOW, SOON, rank_part
from .runs import Run
from .stored import HEADER, Facts, Stored

__all__ = ["Tasks"]

_LEAD = 1.0  # seconds before the due time at which the server releases a task, because its timer is this coarse
_LAST = 253_000_000_000.0  # approximately the last second that the server's time format can represent
_LOCK = {"Nats-TTL": "120s"}  # longer than a worker takes from reading a task to writing the record of its run
_TRY_ON = 1.0  # seconds between two attempts to withdraw a record


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

    def new(self, rank: str, token: str, facts: Facts, data: bytes, *, fresh: bool) -> Publication:
        """Return the message of a new task.

        :param fresh: True if the task is due when it is sent.
        """
        # Newly sent tasks are stored in the order of their due times, which listings rely on.
        subject, headers = self._form(NOW if fresh else self._kind(facts.due), rank, token, facts)
        return Publication(subject, data, {ID: token, **headers})

    async def put(
        self, stream: JetStream, rank: str, token: str, facts: Facts, data: bytes, former: Stored, kind: str = ""
    ) -> int:
        """Write a task in place of ``former``, and return its sequence number.

        :param kind: ``SOON`` to release it at once, whatever its due time.
        :raises Conflict: if ``former`` is no longer the last message of the task.
        """
        subject, headers = self._form(kind or self._kind(facts.due), rank, token, former.replaced(facts))
        replaces = (self._names.task("*", rank, token), former.seq)
        seq = await self._publish(stream, self._names.tasks, subject, data, headers, replaces=replaces)
        await stream.delete(self._names.tasks, former.seq, patience=self._place.patience)
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

    async def turn(self, stream: JetStream, stored: Stored, kind: str, facts: Facts) -> int:
        """Rewrite a task under another kind in the same stream.

        Return its new sequence number, or 0 if it changed concurrently.
        """
        names, patience = self._names, self._place.patience
        _, priority, token = names.place(stored.subject)
        rank, name = rank_part(priority), names.stream(kind)
        subject, replaces = names.task(kind, rank, token), (names.task("*", rank, token), stored.seq)
        headers = {HEADER: stored.replaced(facts).dump()}
        try:
            seq = await self._publish(stream, name, subject, stored.data, headers, replaces=replaces)
        except Conflict:
            return 0
        await stream.delete(name, stored.seq, patience=patience)
        return seq

    async def let_out(self, stream: JetStream, stored: Stored) -> bool:
        """Release a deferred task in place of the server. Return False if the server has released it already."""
        names = self._names
        _, priority, token = names.place(stored.subject)
        try:
            await self.put(stream, rank_part(priority), token, stored.facts, stored.data, stored, SOON)
        except Conflict:
            last = await stream.last(names.tasks, names.task("*", "*", token), patience=self._place.patience)
            if last is not None:
                await self.drop_former(stream, last)  # left by a process that died while it released the task
            return False
        return True

    async def drop_former(self, stream: JetStream, stored: Stored) -> bool:
        """Delete earlier messages of a task, and return whether there were any.

        If an earlier message has a later version, a server has restored this message, or has released it although it
        had been replaced. In that case this message is deleted.

        An earlier message exists if a process died after it rewrote the task, or if the server died after it released a
        deferred task. A task that was sent to run at once and was never rewritten has none. A rewritten task under
        ``now`` was a dead letter before and was retried.
        """
        names, patience, found = self._names, self._place.patience, False
        kind, _, token = names.place(stored.subject)
        if kind == NOW:
            if not stored.facts.anew:
                return False
            found = await self._drop_aside(stream, stored)
        name, subject = names.stream(kind), names.task("*", "*", token)
        while (first := await stream.next(name, subject, 1, patience=patience)) is not None and first.seq < stored.seq:
            doomed = first if first.facts.version <= stored.facts.version else stored
            found = await stream.delete(name, doomed.seq, patience=patience) or found
            if doomed is stored:
                return True
        return found

    async def _drop_aside(self, stream: JetStream, stored: Stored) -> bool:
        """Delete the dead-letter copy of a task if it is older than this message. Return whether it existed."""
        names, patience = self._names, self._place.patience
        _, _, token = names.place(stored.subject)
        aside = await stream.last(names.aside, names.task("*", "*", token), patience=patience)
        if aside is None or aside.time > stored.time or names.passing(aside.subject):
            return False
        return await stream.delete(names.aside, aside.seq, patience=patience)

    # --- records of runs

    async def look(self, stream: JetStream, token: str) -> tuple[Stored | None, Run | None]:
        """Return a task and the last record about it: a record of its run or an end record.

        The record is read first: if it does not belong to this message, it belongs to an earlier message and is void.
        If the message were read first, the record could belong to a later message, and to a run in progress.
        """
        run = await self.run_of(stream, token)
        return await self.last(stream, self._names.tasks, token, run), run

    async def last(self, stream: JetStream, name: str, token: str, run: Run | None) -> Stored | None:
        """Return a task's last message in a stream, or None if its last record voids it."""
        return await ends.last(stream, self._names, name, token, run, self._place.patience)

    async def run_of(self, stream: JetStream, token: str) -> Run | None:
        """Return the last record about a task."""
        record = await stream.last(self._names.state, self._names.records(token), patience=self._place.patience)
        return Run.of(record) if record else None

    async def end(self, stream: JetStream, stored: Stored, after: int | None) -> bool:
        """Delete a message permanently, and return whether it existed. See ``ends.end``."""
        return await ends.end(stream, self._names, stored, after, self._place.patience)

    async def begin(self, stream: JetStream, run: Run, former: Run | None, *, vanishes: bool = False) -> int:
        """Write the record of a run, and return its number. The caller must then check that the task is unchanged.

        :param former: the last record about this task.
        :param vanishes: whether the server deletes the record by itself.
        :raises Conflict: if another record has been written, or this process has the task already.
        """
        names, subject = self._names, self._names.run(run.token)
        if runs.is_noted(names, run.token):
            raise Conflict
        runs.note(names, run.token, 0)
        try:
            headers, replaces = _LOCK if vanishes else None, (names.records(run.token), former.seq if former else 0)
            return await self._publish(stream, names.state, subject, run.dump(), headers, replaces=replaces)
        except BaseException as error:
            runs.forget(names, run.token, 0)
            if not isinstance(error, Conflict):
                stream.link.start(self.withdraw(stream.patient, run.token))  # it may have been written
            raise

    async def withdraw(self, stream: JetStream, token: str) -> None:
        """Delete a record of this process for a task that it does not run, so that other processes need not wait for
        it."""
        names = self._names
        while True:
            with contextlib.suppress(Unreachable):
                run = await self.run_of(stream, token)
                if run is not None and run.process == runs.me() and not runs.is_noted(names, token):
                    await stream.delete(names.state, run.seq, patience=self._place.patience)
                return
            await asyncio.sleep(_TRY_ON)

    async def lock(self, stream: JetStream, stored: Stored, run: Run | None) -> int:
        """Prevent workers from starting a task that they have already read. Return the number of the lock's record.

        The record has the form of a run's record. If this process is killed, that does not count as a crash.

        :param run: the last record about this task.
        :raises Conflict: if another process has just started it.
        """
        _, _, token = self._names.place(stored.subject)
        record = Run(token, 0, stored.seq, stored.facts.attempts, runs.me(), excused=True)
        return await self.begin(stream, record, run, vanishes=True)

    @contextlib.asynccontextmanager
    async def locked(self, stream: JetStream, stored: Stored, run: Run | None) -> AsyncIterator[None]:
        """Hold the lock of ``lock`` while a block runs."""
        _, _, token = self._names.place(stored.subject)
        try:
            record = await self.lock(stream, stored, run)
        except ApiError as error:
            if not error.is_full:
                raise
            record = 0  # removing tasks must still work on a full storage, and no worker can write a record then either
        try:
            yield
        finally:
            runs.forget(self._names, token, 0)
            if record:
                await stream.drop(self._names.state, record)

    async def put_off(self, stream: JetStream, token: str, until: float) -> None:
        """Record when a running task may run again if its worker dies."""
        await self._note(stream, token, lambda run: run._replace(until=until))

    async def excuse(self, stream: JetStream, token: str) -> None:
        """Record that the death of its worker is not a crash of a running task."""
        await self._note(stream, token, lambda run: run._replace(excused=True))

    async def _note(self, stream: JetStream, token: str, change: Callable[[Run], Run]) -> None:
        names = self._names
        stored, run = await self.look(stream, token)
        if stored is not None and run is not None and run.is_of(stored):
            with contextlib.suppress(Conflict):  # the run has just ended
                noted, replaces = change(run).dump(), (names.records(token), run.seq)
                await self._publish(stream, names.state, names.run(token), noted, replaces=replaces)

    async def count_crash(self, stream: JetStream, stored: Stored, run: Run) -> Stored | None:
        """Record that the last run ended with its worker. Return the task in its new state.

        Return None if another process has recorded it, or if the worker had already moved the task to the dead letters
        and only the deletion was missing.
        """
        names, facts = self._names, stored.facts
        aside = await stream.last(names.aside, names.task("*", "*", run.token), patience=self._place.patience)
        if aside is not None and aside.time > stored.time and not names.passing(aside.subject):
            await self.end(stream, stored, run.seq)
            return None
        await self.drop_former(stream, stored)  # an earlier message was restored by a retry
        due = max(facts.due, run.until)
        counted = facts._replace(due=due, attempts=run.attempts, crashes=facts.crashes + (not run.excused))
        seq = await self.anew(stream, stored, counted)
        _, priority, token = names.place(stored.subject)
        subject = names.task(self._kind(due), rank_part(priority), token)
        return stored._replace(subject=subject, seq=seq, header=stored.replaced(counted).dump()) if seq else None

    async def anew(self, stream: JetStream, stored: Stored, facts: Facts) -> int:
        """Rewrite a task. Return its new sequence number, or 0 if it changed concurrently."""
        _, priority, token = self._names.place(stored.subject)
        try:
            return await self.put(stream, rank_part(priority), token, facts, stored.data, stored)
        except Conflict:
            return 0

    async def set_aside(self, stream: JetStream, stored: Stored, facts: Facts, bury: Bury, record: int | None) -> bool:
        """Move a task to the dead letters. The copy is stored before the original is deleted.

        :param record: the number of the record by which this process has the task; None if no process can start it.
        """
        names, patience = self._names, self._place.patience
        _, priority, token = names.place(stored.subject)
        last = await stream.last(names.tasks, names.task("*", "*", token), patience=patience)
        if last is None or last.seq != stored.seq:
            return False
        subject = names.task(CORRUPT if bury.corrupt else DEAD, rank_part(priority), token)
        headers = {HEADER: stored.replaced(facts._replace(reason=bury.reason)).dump()}
        seq = await self._publish(stream, names.aside, subject, stored.data, headers)
        copy = stored._replace(subject=subject, seq=seq, header=headers[HEADER])
        await self.drop_former(stream, copy)  # left by an interrupted call
        return await self.end(stream, stored, record)
