"""The interface of a backend. ``docs/decisions/0001-the-backend-seam.md`` explains it, and
``docs/guide/write-a-backend.md`` leads through an implementation.

A ``Backend`` serves producers, workers and commands. A ``Feed`` serves the supervisor, which asks for due tasks. All
times are Unix times from the clock that was passed to the backend.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, runtime_checkable

from ..errors import OptionRefused
from ..finding import Finding
from ..message import End, Envelope, Exchanged, Mark, Record
from .change import Change
from .keyvalue import KeyValue
from .page import Counts, Page, Query

if TYPE_CHECKING:
    from .registration import Registration

__all__ = [
    "LEAST_PIECE",
    "REF_SIZE",
    "UNNUMBERED",
    "Backend",
    "Capabilities",
    "Clock",
    "Feed",
    "FeedState",
    "Settings",
    "Switches",
    "Ticket",
    "Transactional",
    "WorkerInfo",
    "check_period",
]

Clock = Callable[[], float]

REF_SIZE = 480
"""The maximum size of a ref in bytes."""

LEAST_PIECE = 5
"""The minimum length of an abbreviated id. A shorter one could soon match another task after this one has ended."""

UNNUMBERED = 10**9
"""The rank of tasks without a priority: after all priorities."""


def check_period(seconds: object) -> float:
    """Return the period if it is valid.

    :raises OptionRefused: unless it is a number of seconds above 0 that uWSGI accepts.
    """
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds <= 1e9:
        raise OptionRefused(f"{seconds!r} is not a number of seconds above 0 and up to 1000000000")
    return float(seconds)


class Capabilities(NamedTuple):
    """The differences between backends that a caller must know in advance."""

    feeds: bool
    """Whether a supervisor can ask it for work. (uWSGI pushes tasks instead.)"""
    forks: bool
    """Whether worker processes see the same tasks. (Memory belongs to one process.)"""
    remote: bool = False
    """Whether it is a server, which may be unreachable at times. Registrations and connections renew themselves."""
    withholds: bool = False
    """Whether tasks handed out by a feed are withheld from other supervisors. Take no more than can start soon."""
    batches: bool = False
    """Whether ``exchange`` handles several tasks in one round trip, and ``Feed.release`` gives back claims by
    ``Ticket.token``. Workers then claim ahead, and settle several runs at a time."""
    records: bool = False
    """Whether ``exchange`` writes the records of the ends. Otherwise the supervisor's recorder writes them."""
    unique: bool = False
    """Whether ``send`` observes ``Envelope.unique``. Otherwise unique tasks are refused before they are sent."""
    journals: bool = False
    """Whether ``record`` can write to a journal of this process, because only one process at a time may write the
    history."""


class Settings(Protocol):
    """The part of ``settings.Settings`` that backends use."""

    @property
    def durability(self) -> str:
        """``full`` if sent tasks must survive a power cut, otherwise ``relaxed``."""

    @property
    def period(self) -> float:
        """Seconds between full scans of a queue, unless ``Backend.switch`` changes them."""

    @property
    def history_limit(self) -> int:
        """The number of runs kept; 0 for none."""

    @property
    def history_age(self) -> float:
        """Seconds for which runs are kept."""

    @property
    def max_task_size(self) -> float:
        """The maximum size of a task's payload, in megabytes."""


class Ticket(NamedTuple):
    """A hint that a task is due; tickets sort in the order in which they should run."""

    rank: int
    due: float
    ref: str
    token: int = 0
    """The token of a prefetched claim; 0 if there is none."""


class WorkerInfo(NamedTuple):
    """A live process of the queue: its role and id, its current task (empty if none), and when that started."""

    role: str
    pid: int
    ref: str
    since: float
    host: str = ""
    """The machine of the process; empty for this machine."""


class Switches(NamedTuple):
    """The switches of a queue, which all its processes see."""

    paused: bool
    """Whether no task may be started."""
    period: float
    """Seconds between full scans. Where the kernel or a server reports changes, scans are only a safety net."""


class FeedState(NamedTuple):
    """What ``Feed.refresh`` has found. ``Feed`` says how long it holds. Without arguments: nothing is known yet."""

    more: bool = True
    """Whether ``refresh`` must be called again before the caller waits."""
    head: Ticket | None = None
    """The ticket that ``take`` would return first, or None if there is none or the feed does not know it."""
    ready: int = 0
    """The number of ready tasks that the feed knows."""
    idle: bool = False
    """Whether no task is ready, handed out, or still being looked for. Tasks of a paused queue are not ready."""
    paused: bool = False
    """Whether ``take`` returns nothing because the queue is paused."""
    available: bool = True
    """Whether the queue can be reached. ``refresh`` notices when it is back."""
    next_due: float | None = None
    """When ``refresh`` must be called even if nothing happens; None if never."""

    def after_take(self, count: int) -> "FeedState":
        """Return the state after ``take`` has returned this many tickets. The new head is not known."""
        return self._replace(head=None, ready=max(self.ready - count, 0), idle=False)


class Feed(Protocol):
    """The due tasks in order, and when to check again: a bounded lookahead, never the whole queue.

    Only ``refresh`` reads changes and returns the state. A supervisor calls it once per turn, and ``done`` once per
    task, so the other methods return no new state. A state holds as follows:

    - ``take`` hands out the head. Until the next ``refresh``, ``after_take`` describes the feed, and the new head is
      unknown. A caller that keeps the old head would find it more urgent than what it has taken with it. ``next_due``,
      ``paused`` and ``available`` still hold, so a caller may take and then wait.
    - ``release``, ``done`` and ``recheck`` change what is ready, the idleness and ``next_due``. The caller calls
      ``refresh`` before it waits or decides that nothing is left to do.
    - If ``take`` raises an error, nothing of the state holds. ``refresh`` returns when to try again.

    A supervisor therefore reports ended and returned tickets first, then refreshes, then takes, then waits.
    """

    def fileno(self) -> int | None:
        """Return a descriptor that becomes readable when ``refresh`` has something to do, or None. It may differ after
        each ``refresh``."""

    def refresh(self) -> FeedState:
        """Process changes in small steps and return the state."""

    def take(self, limit: int) -> list[Ticket]:
        """Return up to ``limit`` due tickets in order. They count as handed out until ``release`` or ``done``.

        :raises SpoolerUnusable: if the queue cannot be reached.
        """

    def release(self, tickets: Iterable[Ticket]) -> None:
        """Return tickets that were not started. A prefetched claim ends only if the ticket has its token, because the
        task of another ticket with the same ref may have started."""

    def done(self, ref: str, until: float | None) -> None:
        """Note that a task has ended or, with ``until``, must be checked again at that time."""

    def recheck(self, refs: Iterable[str] | None = None) -> None:
        """Check tasks that were handed out, and make them ready unless a process holds them.

        :param refs: the tasks that another process holds. Each is made ready when that process releases it. None means
            all tasks that were handed out, because a worker died.
        """

    def close(self) -> None:
        """Release descriptors and watches."""


@runtime_checkable
class Transactional(Protocol):
    """A backend that can send within the caller's database transaction."""

    def send_within(self, connection: Any, envelopes: Sequence[Envelope]) -> list[str]:
        """Store the tasks when the transaction on this connection commits. Return their ids.

        :raises OptionRefused: if it cannot use such a connection.
        :raises SpoolerUnusable: if its database is not prepared.
        """


class Backend(Protocol):
    """A queue: storage for the tasks of one spooler."""

    @property
    def name(self) -> str:
        """Return the spooler's name: the absolute path of a directory, or a server's URL without user and password.

        A task's id consists of this name, a slash, and the task's own part.
        """

    @property
    def capabilities(self) -> Capabilities:
        """Return what the backend supports."""

    @property
    def kv(self) -> KeyValue:
        """Return the key-value table of the queue."""

    def send(self, envelopes: Sequence[Envelope]) -> list[str]:
        """Store the tasks and return their ids in order. The tasks are stored permanently when this returns.

        A task whose key another task of the queue has is not stored. Its id is a ``Duplicate`` with the id of the other
        task. A key belongs to one task at most. It is free once its task starts or has left the queue (``Unique``), is
        a dead letter, or was removed. If the sender is killed, the key is free or its task is stored.

        :raises SpoolerUnusable: if not all could be stored. Its ``sent`` has the ids of the stored tasks; the others
            are not stored.
        """

    def feed(self) -> Feed:
        """Return the supervisor's view of the due tasks."""

    def exchange(self, ends: Sequence[End], refs: Sequence[str]) -> Exchanged:
        """Settle runs that have ended, then claim tasks, in one round trip to a server.

        The backend keeps nothing between calls: when this returns, all ends are settled. Several threads of a process
        may call it at the same time, but only one thread claims. The caller makes an empty call before it waits, in
        which the backend may tidy up.

        Each claim counts an attempt. A task with ``MAX_CRASHES`` crashes may be returned without its body, because it
        becomes a dead letter and is not run. A task that cannot be claimed, or whose content is damaged, is a refusal.

        If ``batches`` is declared, a supervisor settles the finished runs of a dead worker. The claim in such an end
        has the right ``id``, ``ref`` and ``fence``, and no envelope or token.

        An end whose claim was lost to another process, as may happen on a server, is logged and changes nothing. An end
        that a directory cannot store now is retried by the backend, and ``ended`` says when.

        :raises SpoolerUnreachable: if the server does not answer. The caller repeats the call with ``End.repeated``
            set. Claims that were made in it are released by the backend, and are not crashes.
        :raises SpoolerUnusable: if this process cannot claim any task, for example because it has too many open files,
            or if the server refuses for a permanent reason.
        :raises ClaimLost: if this process has destroyed its own hold on a task. The process must exit.
        """

    def mark(self, ref: str, mark: Mark) -> None:
        """Note what must happen if the run of this task ends with its process.

        The supervisor calls this before it kills or stops a worker. A verdict of the run replaces the mark. An error of
        the storage is logged and not raised, because it would end the supervisor.
        """

    def page(self, query: Query, after: str = "", limit: int = 100) -> Page:
        """Return tasks in the order of execution, or runs, newest first.

        Tasks are in this order: running ones, ready ones as they would start, deferred ones by due time, then dead and
        corrupt ones. It takes no lock and decodes no payload.

        A task that stays as it is while pages are read is on exactly one of them. A task that changes between two pages
        may be on both or on neither.

        :param after: the cursor of the previous page; empty for the first page.
        :param limit: the maximum number of tasks or runs, at least 1. A page may have fewer and still a cursor.
        :raises OptionRefused: if ``after`` is not the cursor of such a page.
        """

    def counts(self, by: Literal["state", "label"] = "state") -> Counts:
        """Return the number of tasks in each state, or of each label, from one reading.

        Counting by state reads no task. Counting by label may read all.
        """

    def change(self, id: str, change: Change) -> str:
        """Change a task, and return its id, which may be a new one. ``change.py`` describes the changes.

        If this process is killed, the task is either changed or as it was.

        :raises LookupError: if the task does not exist.
        :raises TaskBusy: if it is running or in transfer to another queue.
        """

    def check(self, *, prepare: bool = False) -> Iterator[Finding]:
        """Check the storage, or with ``prepare`` create or upgrade it, and yield what was found or done.

        Each check is done when its finding is asked for. The first finding costs little, and its ``missing`` is True if
        the first send creates the queue. The others may write to the storage. Preparation may be repeated, also while
        the queue is used. If the storage needs none, nothing is yielded.

        :raises SpoolerUnusable: before the first finding, if the queue cannot be used, if only ``prepare`` can create
            it, or if the preparation fails. Nothing is changed then.
        """

    def switch(self, *, paused: bool | None = None, period: float | None = None) -> Switches:
        """Change switches of the queue, and return all of them. Without arguments, nothing is changed.

        The feeds of all processes notice a change at once, by ``Feed.fileno`` if they have a descriptor. During a
        pause, running tasks continue.

        :param period: a valid period (see ``check_period``). If none was ever set, it is that of the settings.
        """

    def register(self, role: str) -> "Registration":
        """Register this process, or the child that it is about to fork.

        :param role: ``supervisor``, ``worker`` or ``forwarder``.
        """

    def live(self) -> list[WorkerInfo]:
        """Return the live processes of this queue.

        If the note of a process about its task cannot be read here, its claim is shown instead.
        """

    def record(self, records: Sequence[Record], *, journal: bool = False) -> None:
        """Add runs to the history, which is bounded in size and age. Called by one process at a time, in batches.

        :param journal: write them to a journal of this process instead, from any process. It has no effect without
            ``Capabilities.journals``.
        :raises SpoolerUnusable: if the history cannot be written now.
        :raises OSError: if the journal cannot be written.
        """

    def has_lost_descriptors(self) -> bool:
        """Return whether a descriptor that this backend needs was closed in this process, perhaps by a task.

        Its number may belong to another file by now. The worker ends then. This costs little, because it is called
        after each run.
        """

    def close(self) -> None:
        """Close descriptors and connections. The next use opens them again."""
