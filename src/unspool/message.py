"""The data that the parts exchange: immutable, and without I/O."""

import math
from collections.abc import Mapping
from enum import StrEnum
from json.encoder import encode_basestring_ascii as _quoted
from typing import Any, NamedTuple

__all__ = [
    "NOTHING",
    "SUCCEEDED",
    "Ack",
    "Bury",
    "Claim",
    "Content",
    "DeferOnCrash",
    "Disposition",
    "Duplicate",
    "End",
    "Entry",
    "Envelope",
    "Exchanged",
    "Interrupted",
    "Mark",
    "Message",
    "Outcome",
    "Record",
    "Refusal",
    "RefusalKind",
    "Release",
    "Retry",
    "State",
    "Unique",
    "Verdict",
    "reason_of",
]


class State(StrEnum):
    """The state of a task."""

    READY = "ready"
    DEFERRED = "deferred"
    RUNNING = "running"
    DEAD = "dead"
    CORRUPT = "corrupt"


class Verdict(StrEnum):
    """How one run of a task ended."""

    PROCESSED = "processed"
    SKIPPED = "skipped"
    RESCHEDULED = "rescheduled"
    TIMEOUT = "timeout"
    CRASHED = "crashed"
    DEAD = "dead"
    CORRUPT = "corrupt"


class Message(NamedTuple):
    """What a caller sends.

    :param message: the text that names the handler: ``ucfg_<type id>`` or any other.
    :param payload: any object that ``serializer`` takes.
    :param task: for a function call, the function as ``module:qualname``.
    :param priority: 0 or more, smaller runs first; None runs after all numbers.
    :param due: unix seconds before which it must not run; None for at once.
    :param serializer: ``pickle`` or ``json``.
    :param unique: its key, if it must not be sent while another task has this key.
    """

    message: str
    payload: Any = None
    task: str | None = None
    priority: int | None = None
    due: float | None = None
    serializer: str = "pickle"
    unique: "Unique | None" = None


class Content(NamedTuple):
    """A message in uWSGI's terms: variables and a body; priority and due time decide when it runs."""

    vars: Mapping[str, bytes]
    body: bytes
    priority: int | None
    due: float | None
    sealed: bool = True
    """Whether it has a verified checksum or signature. Tasks of other programs have none."""


class Unique(NamedTuple):
    """The key of a task that must not be in a queue twice.

    :param key: 32 hexadecimal digits.
    :param start: whether the key is free once the task starts. Otherwise it is free once the task has left the queue
        or is a dead letter.
    :param until: the Unix time from which the key is free in any case.
    """

    key: str
    start: bool = False
    until: float = math.inf

    @property
    def end(self) -> float | None:
        """The time ``until``; None if it is infinite."""
        return None if self.until == math.inf else self.until


class Duplicate(str):
    """The id of the task that has the key of a task that was sent. The sent task was not stored."""

    __slots__ = ()


class Envelope(NamedTuple):
    """A task as a backend stores it: bytes, which the backend does not read, and the fields by which it sorts.

    :param data: the wire form of the content, see ``wire``.
    :param priority: 0 or more, smaller first; None for after all numbers.
    :param due: unix seconds before which it must not run; None for at once.
    :param label: the name of the task in listings.
    :param unique: its key, if it must not be stored while another task of the queue has this key. Only ``send`` reads
        it.
    """

    data: bytes
    priority: int | None = None
    due: float | None = None
    label: str = ""
    unique: Unique | None = None


NOTHING = Envelope(b"")
"""The envelope of a claim whose content is unknown."""


class Claim(NamedTuple):
    """A task taken for execution.

    ``attempts`` includes this run. ``crashes`` is the number of earlier runs that ended with their worker. Only the
    backend interprets ``token``.
    """

    id: str
    ref: str
    envelope: Envelope
    attempts: int
    crashes: int
    token: Any = None
    unhandled: int = 0
    """The number of claims by programs without a handler for the task. They do not count as attempts."""
    fence: int = 0
    """The number of this claim, for a backend whose workers claim several tasks at a time. ``Ticket.token`` has it when
    ``Feed.release`` gives back a claim that was not started."""


class RefusalKind(StrEnum):
    """Why a ref could not be claimed. All of these are normal where several workers share a queue."""

    GONE = "gone"
    BUSY = "busy"
    EARLY = "early"
    UNUSABLE = "unusable"
    CORRUPT = "corrupt"


class Refusal(NamedTuple):
    """The answer to a claim that failed. A claim after ``until`` (unix seconds) may succeed."""

    kind: RefusalKind
    until: float | None = None
    detail: str = ""


SUCCEEDED = (Verdict.PROCESSED, Verdict.SKIPPED)
"""The verdicts of runs that have not failed."""


class Ack(NamedTuple):
    """The task is done, and leaves the queue."""


class Retry(NamedTuple):
    """Run the task again, not before ``at`` (unix seconds).

    ``begun`` is False if this program has no handler for it: this counts in ``Claim.unhandled``, and not as an attempt.
    """

    at: float
    begun: bool = True


class Release(NamedTuple):
    """The task was not begun: return it to the queue unchanged. This attempt does not count.

    With ``crashed``, it counts as an attempt and as a crash, because the worker could not even read the task.
    """

    crashed: bool = False


class Bury(NamedTuple):
    """Set the task aside, with a reason for a person to read.

    ``begun`` is False if this attempt never ran. ``partial`` is True if the content may be incomplete because another
    program is still writing it. A directory then checks a task again that was changed a moment ago.
    """

    reason: str
    corrupt: bool = False
    begun: bool = True
    partial: bool = False


class DeferOnCrash(NamedTuple):
    """A mark on a running task: if its run ends without a verdict, it must not run again before ``until`` (unix
    seconds)."""

    until: float


class Interrupted(NamedTuple):
    """A mark on a running task: if its worker dies during this run, that is not a crash of the task."""


Mark = DeferOnCrash | Interrupted
Disposition = Ack | Retry | Release | Bury
_WITH_BEGUN = (Retry, Bury)


class Outcome(NamedTuple):
    """The result of a run: its verdict, and what the backend must do with the task."""

    verdict: Verdict
    disposition: Disposition
    error: str = ""
    """The reason in the first line, then the traceback if an exception was raised; empty after a success."""

    @property
    def begun(self) -> bool:
        """Whether the task was run, so that this counts as an attempt."""
        return not isinstance(self.disposition, _WITH_BEGUN) or self.disposition.begun


def reason_of(error: str) -> str:
    """Return the reason in an outcome's or record's ``error``: its first line."""
    return error.partition("\n")[0]


class Record(NamedTuple):
    """One run of a task, as history stores it. Times are in unix seconds, durations in seconds.

    ``error`` holds the reason in its first line, then the traceback if an exception was raised.
    """

    id: str
    task: str
    verdict: str
    attempt: int
    started: float
    duration: float
    pid: int
    error: str = ""

    @classmethod
    def of(cls, values: object) -> "Record | None":
        """Return a record from stored values; None if the values are invalid."""
        if not isinstance(values, list | tuple) or len(values) != len(cls._fields):
            return None
        id, task, verdict, attempt, started, duration, pid, error = values
        texts = all(type(text) is str for text in (id, task, verdict, error))
        whole = type(attempt) is int and type(pid) is int
        times = all(type(time) in (int, float) and math.isfinite(time) for time in (started, duration))
        return cls(*values) if texts and whole and times else None

    @property
    def reason(self) -> str:
        """The reason of a failure in one line; empty after a success."""
        return reason_of(self.error)

    @property
    def traceback(self) -> str:
        """The traceback of the exception; empty if none was raised."""
        return self.error.partition("\n")[2]

    def to_json(self) -> str:
        """Return a JSON array of all fields. The general encoder takes five times as long, and there is one for each
        run.
        """
        id, task, verdict, attempt, started, duration, pid, error = self
        return (
            f"[{_quoted(id)},{_quoted(task)},{_quoted(verdict)},{attempt},{started!r},{duration!r},{pid},"
            f"{_quoted(error)}]"
        )


class End(NamedTuple):
    """The end of a run, as ``Backend.exchange`` settles it.

    ``repeated`` is True if an earlier call with this end raised ``SpoolerUnreachable``, so the end may be settled
    already.
    """

    claim: Claim
    disposition: Disposition
    record: Record | None = None
    repeated: bool = False


class Exchanged(NamedTuple):
    """What ``Backend.exchange`` has done.

    ``ended`` has for each end when to check the task again (unix seconds), or None if it has left the queue. ``taken``
    has a claim or a refusal for each ref.
    """

    ended: list[float | None]
    taken: list[Claim | Refusal]


class Entry(NamedTuple):
    """A waiting, running or set-aside task, as a listing shows it.

    ``due`` is in unix seconds, ``size`` in bytes. ``reason`` says why a task is set aside or can never run.
    """

    id: str
    state: State
    spooler: str
    task: str
    priority: int | None
    due: float
    attempts: int
    size: int
    reason: str = ""
