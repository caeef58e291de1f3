"""The records of ends: up to which version the messages of a task are void.

A NATS server does not keep deletions for certain. It removes blocks of its files with the deletions that are written
there, and drops deletions when it compacts a block. If it is killed then, it brings back the messages that they had
deleted. So the messages of a task have versions, and the end of a version is a record of its own, written before the
message is deleted. Whatever a server brings back, a message whose version is not above the record is void. This remains
true, so a record that a server brings back does no harm either.

A claim requires that there is no record about its task. So a message that is back is noticed when it is claimed, and
claims cost nothing more. The record of an end requires that the last record is the one which its writer knows, because
it would hide the record of a run that another process has begun since.

A record vanishes by itself. By then the server has usually compacted the block in which the message was.
"""

import asyncio
import contextlib
from collections.abc import Mapping

from . import runs
from .jetstream import ApiError, Conflict, JetStream, condition
from .names import Names
from .runs import Run
from .stored import Stored

__all__ = ["drop_void", "end", "last", "publication"]

_LIFE = {"Nats-TTL": "600s"}  # a server compacts its files every two minutes
_AT_ONCE = 50


def publication(names: Names, stored: Stored, record: int) -> tuple[str, bytes, Mapping[str, str]]:
    """Return the record which says that this message and all earlier ones of its task are void.

    :param record: the number of the record of the run that has ended.
    """
    _, _, token = names.place(stored.subject)
    return names.ended(token), _dump(stored.facts.version), _LIFE | condition(names.run(token), record)


def _dump(version: int) -> bytes:
    return b'{"ended": %d}' % version


async def end(
    stream: JetStream, names: Names, stored: Stored, after: int | None, patience: float, *, version: int = 0
) -> bool:
    """Write the record of a message's end, and delete the message.

    Return False if another process had the task, or the message was not there.

    :param after: the number of the last record about the task; None if no process can have begun a later version.
    :param version: the version that has ended, if it is a later one.
    """
    kind, _, _ = names.place(stored.subject)
    full = False
    try:
        recorded = await _write(stream, names, stored, after, patience, version)
    except ApiError as error:
        if not error.is_full:
            raise
        full, recorded = True, False
    deleted = await stream.delete(names.stream(kind), stored.seq, patience=patience)
    if full:  # the deletion may have made room
        with contextlib.suppress(ApiError):
            await _write(stream, names, stored, after, patience, version)
    return deleted or (recorded and after is not None)


async def _write(
    stream: JetStream, names: Names, stored: Stored, after: int | None, patience: float, version: int
) -> bool:
    """Write the record of a message's end. Return False if another process had the task.

    :raises ApiError: if the storage is full.
    """
    kind, _, token = names.place(stored.subject)
    aside = names.stream(kind) == names.aside
    for _ in range(2):
        replaces = None if after is None else (names.records(token), after)
        record = names.state, names.ended(token), _dump(max(version, stored.facts.version)), _LIFE
        try:
            await stream.publish(*record, patience=patience, replaces=replaces)
            return True
        except Conflict:
            run = await _last_record(stream, names, names.records(token), patience)
            if run is None or run.process != runs.me() or aside or not run.is_of(stored):
                return False  # another process has the task, or a later version is begun
            after = run.seq  # something was noted about our own run
    return False


async def _last_record(stream: JetStream, names: Names, subject: str, patience: float) -> Run | None:
    record = await stream.last(names.state, subject, patience=patience)
    return Run.of(record) if record else None


async def last(
    stream: JetStream, names: Names, name: str, token: str, run: Run | None, patience: float
) -> Stored | None:
    """Return the last message of a task in a stream, and delete void ones that a server has brought back.

    :param run: the last record about the task, read before.
    """
    while (stored := await stream.last(name, names.task("*", "*", token), patience=patience)) is not None:
        if run is None or not run.voids(stored):
            break
        # With a new record, because this deletion may be lost as well.
        await end(stream, names, stored, run.seq, patience, version=run.ended)
    return stored


async def drop_void(stream: JetStream, names: Names, patience: float) -> None:
    """Delete all messages that are void and that a server has brought back."""
    found = stream.subjects(names.state, names.ended("*"), patience=patience)
    ended = {subject.rpartition(".")[2] async for subject in found}
    for name in (names.tasks, names.aside) if ended else ():
        found = stream.subjects(name, names.task("*", "*", "*"), patience=patience)
        back = [token async for subject in found if (token := subject.rpartition(".")[2]) in ended]
        for at in range(0, len(back), _AT_ONCE):
            some = back[at : at + _AT_ONCE]
            await asyncio.gather(*(_drop_void(stream, names, name, token, patience) for token in some))


async def _drop_void(stream: JetStream, names: Names, name: str, token: str, patience: float) -> None:
    run, start = await _last_record(stream, names, names.ended(token), patience), 1
    while run and (one := await stream.next(name, names.task("*", "*", token), start, patience=patience)) is not None:
        if run.voids(one):
            await end(stream, names, one, run.seq, patience, version=run.ended)
        start = one.seq + 1
