"""End records, which state up to which version the messages of a task are void.

A NATS server may lose deletions: it removes blocks of its files together with the deletions written there, and drops
deletions when it compacts a block. If it is killed at that time, the deleted messages reappear. The messages of a task
therefore have versions. The end of a version is a separate record, written before the message is deleted. A message is
void if its version is not above the record. This rule holds forever, so an old record that reappears is harmless too.

A claim requires that no record about its task exists. A message that reappeared is therefore noticed when it is
claimed, and claims need no extra request. An end record requires that the last record is the one its writer knows,
because it would hide the record of a run that another process has started since.

The server deletes an end record after some time. By then it has usually compacted the block of the message. An end is
therefore confirmed only when the server has also confirmed the deletion of the message.
"""

import contextlib
from collections.abc import Iterator

from . import runs
from .jetstream import JetStream
from .names import Names
from .requests import ApiError, Conflict, Request, condition
from .runs import Run
from .stored import Stored

__all__ = ["drop_void", "end", "last", "request"]

_LIFE = {"Nats-TTL": "600s"}  # a server compacts its files every two minutes


def request(names: Names, token: str, version: int, record: int) -> Request:
    """Return the request for the record that makes this version of a task's messages and all earlier ones void.

    :param record: the number of the record of the run that has ended.
    """
    return Request(names.ended(token), _dump(version), _LIFE | condition(names.run(token), record))


def _dump(version: int) -> bytes:
    return b'{"ended": %d}' % version


def end(stream: JetStream, names: Names, stored: Stored, after: int | None, *, version: int = 0) -> bool:
    """Write the end record of a message, and delete the message.

    Return False if another process had the task, or if the message did not exist.

    :param after: the number of the last record about the task; None if no process can have started a later version.
    :param version: the version that has ended, if it is a later one.
    """
    kind, _, _ = names.place(stored.subject)
    full = False
    try:
        recorded = _write(stream, names, stored, after, version)
    except ApiError as error:
        if not error.is_full:
            raise
        full, recorded = True, False
    deleted = stream.delete(names.stream(kind), stored.seq)
    if full:  # the deletion may have made room
        with contextlib.suppress(ApiError):
            _write(stream, names, stored, after, version)
    return deleted or (recorded and after is not None)


def _write(stream: JetStream, names: Names, stored: Stored, after: int | None, version: int) -> bool:
    """Write the end record of a message. Return False if another process had the task.

    :raises ApiError: if the storage is full.
    """
    kind, _, token = names.place(stored.subject)
    aside = names.stream(kind) == names.aside
    for _ in range(2):
        replaces = None if after is None else (names.records(token), after)
        record = names.state, names.ended(token), _dump(max(version, stored.facts.version)), _LIFE
        try:
            stream.publish(*record, replaces=replaces)
            return True
        except Conflict:
            run = _last_record(stream, names, names.records(token))
            if run is None or run.process != runs.me() or aside or not run.is_of(stored):
                return False  # another process has the task, or a later version has started
            after = run.seq  # this process has updated the record of its own run
    return False


def _last_record(stream: JetStream, names: Names, subject: str) -> Run | None:
    record = stream.last(names.state, subject)
    return Run.of(record) if record else None


def last(stream: JetStream, names: Names, name: str, token: str, run: Run | None) -> Stored | None:
    """Return the last message of a task in a stream. Delete void messages that a server has restored.

    :param run: the last record about the task, read before.
    """
    while (stored := stream.last(name, names.task("*", "*", token))) is not None:
        if run is None or not run.voids(stored):
            break
        # The new record is needed because this deletion may be lost as well.
        end(stream, names, stored, run.seq, version=run.ended)
    return stored


def drop_void(stream: JetStream, names: Names) -> Iterator[None]:
    """Delete all void messages that a server has restored, in steps, between which the caller may do other work."""
    found = stream.subjects(names.state, names.ended("*"))
    ended = set[str]()
    for subject in found:
        ended.add(subject.rpartition(".")[2])
        yield
    for name in (names.tasks, names.aside) if ended else ():
        found = stream.subjects(name, names.task("*", "*", "*"))
        for subject in found:
            if (token := names.place(subject)[2]) in ended:
                _drop_void(stream, names, name, token)
            yield


def _drop_void(stream: JetStream, names: Names, name: str, token: str) -> None:
    run, start = _last_record(stream, names, names.ended(token)), 1
    while run and (one := stream.next(name, names.task("*", "*", token), start)) is not None:
        if run.voids(one):
            end(stream, names, one, run.seq, version=run.ended)
        start = one.seq + 1
