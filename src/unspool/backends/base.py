"""The seam: what a place that keeps tasks must do. Argued in ``docs/decisions/0001-the-backend-seam.md``.

A ``Backend`` serves producers, workers and people; a ``Feed`` serves the one supervisor that asks what is due. All
times are unix seconds, from the clock that the backend was made with.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from ..errors import OptionRefused
from ..message import Claim, Disposition, Entry, Envelope, Record, Refusal, State

__all__ = [
    "LEAST_PIECE",
    "REF_SIZE",
    "UNNUMBERED",
    "UNSIGNED_PICKLE",
    "Backend",
    "Capabilities",
    "ClaimsAhead",
    "Clock",
    "Control",
    "Feed",
    "HoldsDescriptors",
    "Journals",
    "Migratable",
    "Registration",
    "Settings",
    "Summary",
    "Ticket",
    "Transactional",
    "WorkerInfo",
    "check_period",
]

Clock = Callable[[], float]

REF_SIZE = 480
"""The most bytes that a ref may take."""

LEAST_PIECE = 5
"""The minimum length of an abbreviated id. A shorter one could soon match another task after this one has ended."""

UNNUMBERED = 10**9
"""The rank of tasks without a priority: after all numbers."""


UNSIGNED_PICKLE = (
    "it is pickled, which is code to whoever runs it, and no secret key is set that would tell who sent it: set "
    'UNSPOOL_SECRET_KEY for senders and workers, or give the task serializer="json"'
)
"""Why a server's queue, to which others may write too, takes no pickle without a signature."""


def check_period(seconds: object) -> float:
    """Return the period, if it is one.

    :raises OptionRefused: unless it is a number of seconds above 0, and such as uWSGI can take.
    """
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds <= 1e9:
        raise OptionRefused(f"{seconds!r} is not a number of seconds above 0 and up to 1000000000")
    return float(seconds)


class Capabilities(NamedTuple):
    """The differences between backends that a caller must know in advance."""

    feeds: bool
    """Whether a supervisor can ask it for work (uWSGI pushes instead)."""
    forks: bool
    """Whether worker processes see the same tasks (memory is one process's own)."""
    remote: bool = False
    """Whether it is a server, which may be away for a while: registrations and connections then renew themselves."""
    withholds: bool = False
    """Whether what a feed hands out is kept from other supervisors meanwhile, so that no more should be than is soon
    begun."""
    records: bool = False
    """Whether ``settle`` writes the record that it is given; if not, the supervisor's recorder does."""


class Settings(Protocol):
    """What of ``config.Settings`` a backend needs to know."""

    @property
    def durability(self) -> str:
        """``full`` if what was sent must survive a power cut, else ``relaxed``."""

    @property
    def period(self) -> float:
        """Seconds between full looks at a queue, unless ``Control.set_period`` says otherwise."""

    @property
    def history_limit(self) -> int:
        """How many runs are kept; 0 for none."""

    @property
    def history_age(self) -> float:
        """For how many seconds they are kept."""

    @property
    def max_task_size(self) -> float:
        """The maximum size of a task's payload, in megabytes."""


class Ticket(NamedTuple):
    """A hint that a task is due; tickets sort in the order in which they should run."""

    rank: int
    due: float
    ref: str
    token: int = 0
    """The token of the claim that a worker has made ahead of the run; 0 if there is none."""


class Summary(NamedTuple):
    """The contents of a queue."""

    counts: dict[State, int]
    """The number of tasks in each state."""
    oldest: float | None
    """The earliest due time of a ready task; None if none is ready."""


class WorkerInfo(NamedTuple):
    """A live process of the queue: what it is, and what it is running just now (empty if nothing), since when."""

    role: str
    pid: int
    ref: str
    since: float
    host: str = ""
    """The machine that it is on; empty for this one."""


class Registration(Protocol):
    """The entry of a live process. It disappears when the process ends, even if the process is killed."""

    def running(self, ref: str, since: float) -> None:
        """Note the task that the process runs now; an empty ref for none. This costs no system call.

        If other processes cannot see the note, they are shown the process's claims instead.
        """

    def ref(self) -> str:
        """Return the ref that was noted last. A supervisor can read it after its worker's death."""

    def since(self) -> float:
        """Return the time that was noted with the ref."""

    def detach(self) -> None:
        """Leave the registration to the child. A parent calls this after a fork; it can still read the note."""

    def close(self) -> None:
        """Remove the registration."""


class Control(Protocol):
    """The switches of a queue, seen by all its supervisors at once."""

    @property
    def paused(self) -> bool:
        """Return whether no task may be started."""

    def pause(self) -> None:
        """Let running tasks end, and start no more."""

    def resume(self) -> None:
        """End a pause."""

    @property
    def period(self) -> float:
        """Seconds between full looks at the queue; kernel events make them a safety net only."""

    def set_period(self, seconds: float) -> None:
        """Set ``period``, in running supervisors too, at once."""

    def register(self, role: str) -> Registration:
        """Register this process, or the child that it is about to fork.

        :param role: ``supervisor``, ``worker`` or ``forwarder``.
        """

    def live(self) -> list[WorkerInfo]:
        """Return the live processes of this queue."""


class Feed(Protocol):
    """Which tasks are due, in order, and when to look again: a bounded window, never the whole queue."""

    def fileno(self) -> int | None:
        """Return a descriptor that becomes readable when ``refresh`` has something to do, or None."""

    def refresh(self) -> bool:
        """Take in what is new, in small steps; True if it should be called again at once."""

    def take(self, limit: int) -> list[Ticket]:
        """Up to ``limit`` due tickets in order; they count as handed out until ``give_back`` or ``settled``."""

    def peek(self) -> Ticket | None:
        """Return the ticket that ``take`` would give first."""

    def give_back(self, tickets: Iterable[Ticket]) -> None:
        """Let others have these, which were not begun. A claim that was made ahead ends only if the ticket has its
        token: of two tickets of one task, the other one may have been begun.
        """

    def settled(self, ref: str, until: float | None) -> None:
        """Note that the task of ``ref`` has ended or, with ``until``, must be looked at again at that time."""

    def busy(self, ref: str) -> None:
        """Note that another process has the task. The feed looks again when that process releases it."""

    def doubt(self) -> None:
        """Note that a worker died.

        Tasks that were handed out are looked for, and made ready unless a process has them.
        """

    def next_due(self) -> float | None:
        """Return when ``refresh`` must be called even if nothing happens; None if never."""

    @property
    def paused(self) -> bool:
        """Whether ``take`` gives nothing because the queue is paused."""

    @property
    def gone(self) -> bool:
        """Whether the place itself is away just now; ``refresh`` notices when it is back."""

    @property
    def idle(self) -> bool:
        """Whether nothing is ready, handed out, or still being looked for."""

    @property
    def backlog(self) -> int:
        """How many ready tasks the window holds."""

    def close(self) -> None:
        """Let go of descriptors and watches."""


@runtime_checkable
class Transactional(Protocol):
    """A backend that can send within the caller's own database transaction."""

    def send_within(self, connection: Any, envelopes: Sequence[Envelope]) -> list[str]:
        """Keep the tasks if and when the transaction on this connection commits; return their ids.

        :raises OptionRefused: if it cannot use such a connection.
        :raises SpoolerUnusable: if its database is not prepared.
        """


@runtime_checkable
class HoldsDescriptors(Protocol):
    """A backend whose process keeps descriptors open that a task may close by mistake."""

    def has_lost_descriptors(self) -> bool:
        """Return whether a descriptor was closed in this process. Its number may belong to another file by now."""


@runtime_checkable
class ClaimsAhead(Protocol):
    """A backend whose workers may claim several tasks at once, when a single claim costs a round trip.

    The caller must let ``Feed.give_back`` return the tasks that a worker does not begin: at once when the worker dies,
    and soon when a run before them takes long. A claim that is given back must not be begun, so the worker calls
    ``forget`` before it takes further tickets.
    """

    def claim_ahead(self, refs: Sequence[str]) -> Mapping[str, int]:
        """Claim these tickets; ``claim`` then returns or refuses each.

        :returns: the token of each claim, by ref, which its ticket needs when it is given back.
        :raises SpoolerUnusable: as ``claim``.
        """

    def forget(self) -> None:
        """Forget the claims of ``claim_ahead`` that were not begun: their tickets have been taken back."""


@runtime_checkable
class Journals(Protocol):
    """A backend whose history is written by one process, which also imports the journals of the other processes."""

    def jot(self, records: Sequence[Record]) -> None:
        """Write runs to a journal of this process.

        :raises OSError: if the journal cannot be written.
        """


@runtime_checkable
class Migratable(Protocol):
    """A backend whose place a person has to prepare, once and after upgrades."""

    def migrate(self) -> tuple[int, int]:
        """Prepare the place, and return the versions before (0 for none) and after. May be repeated, also during use.

        :raises SpoolerUnusable: if it cannot; then nothing is changed.
        """


class Backend(Protocol):
    """A place that keeps tasks."""

    @property
    def name(self) -> str:
        """The spooler's name: on a directory its absolute path, on a server its URL without user and password. A task's
        id is this, a slash, and the task's own part."""

    @property
    def capabilities(self) -> Capabilities:
        """What it can do."""

    @property
    def control(self) -> Control:
        """Its switches."""

    def exists(self) -> bool:
        """Look whether the place is there; if it is not, the first send makes it.

        :raises SpoolerUnusable: if it is there and cannot be used, or can only be made by a person.
        """

    def send(self, envelopes: Sequence[Envelope]) -> list[str]:
        """Keep the tasks and return their ids, in order. When it returns, they are kept for good.

        :raises SpoolerUnusable: if it cannot; then the tasks that are not yet visible are gone without a trace.
        """

    def feed(self) -> Feed:
        """Return the supervisor's view of what is due."""

    def claim(self, ref: str) -> Claim | Refusal:
        """Claim a task and count the attempt, or return the reason for a refusal.

        A task with ``MAX_CRASHES`` crashes may be returned without its body: it is set aside, and not run.

        :raises SpoolerUnusable: if this process cannot claim any task, as when it may open no more files.
        """

    def settle(self, claim: Claim, disposition: Disposition, record: Record | None = None) -> float | None:
        """Carry out a disposition. Return when to look at the task again, or None if it has left the queue.

        The backend retries a disposition that cannot be carried out; the task does not run again at once for that
        reason. In the claiming thread, a disposition may be deferred until ``flush`` or the next call. Another thread
        settles beside a run that may take long, so its dispositions are carried out within a moment. On a backend that
        can lose a claim, a disposition of a lost claim is logged and changes nothing.

        :param record: the record of this run, for a backend that writes history in ``settle``
            (``Capabilities.records``).
        :raises ClaimLost: if this process has destroyed its own hold on the task; then nothing was done.
        """

    def put_off(self, ref: str, until: float) -> None:
        """Has a task that runs just now wait until then, should that run end without a verdict: it overran its time
        limit, and its worker is about to be killed. What the run itself still says replaces this."""

    def excuse(self, ref: str) -> None:
        """The task's worker is about to be ended, perhaps by force: should this run end with it, that is no crash of
        the task's. Called by the supervisor while the task runs."""

    def flush(self, *, wait: bool = True) -> None:
        """Carry out the dispositions that ``settle`` has deferred. The worker calls this before it waits, and at its
        end.

        :param wait: whether to return only after they are carried out. If False, they are carried out within a moment,
            independently of the calling thread. The worker passes False before a run on another spooler.
        """

    def entries(self, states: frozenset[State] = frozenset(State), limit: int | None = None) -> Iterator[Entry]:
        """Return the tasks in these states, in the order in which they would run; then those set aside. They may be
        changed while this is read: each is then seen at most once."""

    def counts(self) -> dict[State, int]:
        """Return how many tasks are in each state."""

    def summary(self) -> Summary:
        """Return the counts and the due time of the ready task that has waited longest, from one reading."""

    def find(self, id: str) -> Entry | None:
        """Return the task of this id, wherever it now stands. Takes no lock and decodes nothing."""

    def short(self, id: str) -> str:
        """Return the part of a task's id that identifies it, for people and URLs.

        If unspool or uWSGI made the id, it has fewer than 64 letters, digits, ``-`` and ``_``. ``find`` or ``matching``
        accepts it.
        """

    def matching(self, piece: str, *, ended: bool = False) -> list[str]:
        """Return the ids of tasks that begin or end with this piece, ignoring what is the same for all tasks.

        If there are many, only the first few are returned. Names are read once, and no task is read.

        :param ended: whether to search the history instead of the queue.
        """

    def read(self, id: str) -> tuple[Entry, Envelope | None] | None:
        """Return a task with its envelope, which is None if it cannot be read."""

    def retry(self, id: str) -> str:
        """Make a waiting or set-aside task ready now, with its attempts afresh; return its id.

        :raises LookupError: if there is no such task.
        :raises TaskBusy: if it is running.
        """

    def remove(self, id: str) -> None:
        """Delete a task that is not running.

        :raises LookupError: if there is no such task.
        :raises TaskBusy: if it is running.
        """

    def record(self, records: Sequence[Record]) -> None:
        """Add to the history, which is bounded in size and age. Called by one process at a time, in batches."""

    def history(self, *, id: str | None = None, limit: int = 100) -> list[Record]:
        """Return the latest runs, newest first; of one task if ``id`` is given."""

    def close(self) -> None:
        """Close descriptors and connections. They are opened again when they are used."""
