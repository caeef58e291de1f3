"""The events that a worker reports to its supervisor, and their wire form: one JSON array for each event.

A task may write to any descriptor of its process, so ``load`` validates everything. There is an ``Ended`` for each
task, so it is encoded by hand, and validated and built in one pass.
"""

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import product
from json.encoder import encode_basestring_ascii as _quoted
from typing import Any, NamedTuple

from ..backends.base import REF_SIZE
from ..message import Record, RefusalKind, Verdict

__all__ = [
    "Begun", "Broken", "Ended", "Event", "Failed", "Leaving", "Over", "Ready", "Refused", "Run", "Settled", "dump",
    "load", "load_records",
]  # fmt: skip

Run = tuple[int, str]
"""A run of a task: the index of its spooler, and the task's ref."""


class Ready(NamedTuple):
    """The worker has imported the application.

    :param files: the application's files and their times of change.
    :param tasks: whether the application defines any task.
    """

    files: dict[str, float]
    tasks: bool


class Failed(NamedTuple):
    """The worker could not import the application."""

    reason: str
    traceback: str


class Broken(NamedTuple):
    """The worker ends because of an internal error."""

    reason: str


class Leaving(NamedTuple):
    """The worker has settled all its runs, takes no more tasks, and ends."""


class Begun(NamedTuple):
    """A run has begun that has a time limit or is a coroutine.

    :param started: unix seconds.
    :param timeout: the time limit in seconds.
    :param delay: the seconds until the next run if this one has to be killed.
    """

    spooler: int
    ref: str
    started: float
    timeout: float | None = None
    delay: float | None = None


class Over(NamedTuple):
    """A run with a time limit has returned. Its end is being settled, which the limit does not include."""

    spooler: int
    ref: str


class Ended(NamedTuple):
    """A run has ended.

    :param until: when the task runs again (unix seconds); None if it does not.
    :param line: the report as the worker wrote it; empty before it is sent.
    :param fence: the number of the claim if the end is settled later, see ``Settled``; 0 if it is settled.
    """

    spooler: int
    ref: str
    until: float | None
    record: Record
    line: bytes = b""
    fence: int = 0


class Settled(NamedTuple):
    """The first ``number`` runs that had ended and were not settled are settled now."""

    spooler: int
    number: int


class Refused(NamedTuple):
    """A claim was refused.

    :param kind: a ``RefusalKind``.
    :param until: when another claim may succeed (unix seconds).
    """

    spooler: int
    ref: str
    kind: str
    until: float | None
    detail: str


Event = Ready | Failed | Broken | Leaving | Begun | Over | Ended | Settled | Refused

_LARGEST = sys.float_info.max
_NUMBER: tuple[type, ...] = (float, int)
_OPTIONAL: tuple[type, ...] = (*_NUMBER, type(None))
_SHAPES: dict[Callable[..., Event], set[tuple[type, ...]]] = {
    Ready: {(dict, bool)},
    Failed: {(str, str)},
    Broken: {(str,)},
    Leaving: {()},
    Begun: set(product((int,), (str,), _NUMBER, _OPTIONAL, _OPTIONAL)),
    Over: {(int, str)},
    Settled: {(int, int)},
    Refused: set(product((int,), (str,), (str,), _OPTIONAL, (str,))),
}
_NAMES = {
    Ready: "ready",
    Failed: "failed",
    Broken: "broken",
    Leaving: "leaving",
    Begun: "begin",
    Over: "over",
    Settled: "settled",
    Refused: "refused",
}
_KINDS = {name: event for event, name in _NAMES.items()}
_RECORD = set(product((str,), (str,), (str,), (int,), _NUMBER, _NUMBER, (int,), (str,)))
_VERDICTS, _REFUSALS = frozenset(map(str, Verdict)), frozenset(map(str, RefusalKind))
_new: Any = tuple.__new__  # without the checks of a NamedTuple, which take as long as those of a whole event
_encode = json.JSONEncoder(separators=(",", ":")).encode


def dump(event: Event) -> str:
    """Return the JSON array of an event, in one line."""
    if isinstance(event, Ended):
        index, ref, until, record, _, fence = event
        return f'["end",{index},{_quoted(ref)},{_number(until)},{record.to_json()}{f",{fence}" if fence else ""}]'
    if isinstance(event, Begun):
        index, ref, started, timeout, delay = event
        return f'["begin",{index},{_quoted(ref)},{started!r},{_number(timeout)},{_number(delay)}]'
    return _encode((_NAMES[type(event)], *event))


def load(values: Any, line: bytes, spoolers: int) -> Event:
    """Return an event.

    :param values: the decoded JSON of its line.
    :param spoolers: the number of spoolers; an event identifies one by its index.
    :raises ValueError: if it is not a valid event.
    """
    if type(values) is list and values:
        if values[0] == "end" and 5 <= len(values) <= 6:
            _, spooler, ref, until, record, *more = values
            if (
                type(spooler) is int
                and 0 <= spooler < spoolers
                and type(record) is list
                and tuple(map(type, record)) in _RECORD
                and record[2] in _VERDICTS
                and -_LARGEST <= record[4] <= _LARGEST
                and -_LARGEST <= record[5] <= _LARGEST
                and (until is None or (type(until) in _NUMBER and -_LARGEST <= until <= _LARGEST))
                and type(ref) is str
                and _is_ref(ref)
                and (not more or type(more[0]) is int)
            ):
                ended: Ended = _new(Ended, (spooler, ref, until, _new(Record, record), line, more[0] if more else 0))
                return ended
        elif type(values[0]) is str and values[0] in _KINDS:
            event: Callable[..., Event] = _KINDS[values[0]]
            if tuple(map(type, values[1:])) in _SHAPES[event] and _is_valid(loaded := event(*values[1:]), spoolers):
                return loaded
    raise ValueError("not an event")


def load_records(lines: Iterable[bytes]) -> Iterator[tuple[int, Record]]:
    """Yield the spooler's index and the record of each ``Ended``.

    :param lines: lines that ``load`` has accepted or ``dump`` has returned. They are not validated again.
    """
    for values in json.loads(b"[%b]" % b",".join(lines)):
        yield values[1], Record._make(values[4])


def _is_valid(event: Event, spoolers: int) -> bool:
    """Return whether the fields of an event, which have the right types, are in range."""
    if isinstance(event, Ready):
        return all("\0" not in path and type(time) in _NUMBER for path, time in event.files.items())
    if isinstance(event, Failed | Broken | Leaving):
        return True
    if not 0 <= event.spooler < spoolers:
        return False
    if isinstance(event, Settled):
        return event.number > 0
    if not _is_ref(event.ref):
        return False
    if isinstance(event, Begun):
        return _are_finite(event.started, event.timeout, event.delay)
    if isinstance(event, Refused):
        return event.kind in _REFUSALS and _are_finite(event.until)
    return True


def _is_ref(ref: str) -> bool:
    """Return whether the text may be a task's ref. Backends use a ref as a file name, among others."""
    try:
        size = len(ref) if ref.isascii() else len(ref.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError:
        return False
    return 0 < size <= REF_SIZE and "\0" not in ref and ref[0] != "/" and "../" not in ref


def _are_finite(*numbers: float | None) -> bool:
    """Return whether the numbers are finite as floats. A JSON integer may be larger than any float."""
    return all(number is None or -_LARGEST <= number <= _LARGEST for number in numbers)


def _number(value: float | None) -> str:
    return "null" if value is None else repr(float(value))  # a subclass of float may have any representation
