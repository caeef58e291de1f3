"""What things are called: streams, subjects, consumers, and the ids of tasks.

::

    unspool.<spooler>.now.<rank>.<token>     a task that may run           stream unspool-tasks-<spooler>
    unspool.<spooler>.soon.<rank>.<token>    one with a due time, let out by the server a moment before
    unspool.<spooler>.later.<rank>.<token>   one that the server keeps until then
    unspool.<spooler>.dead.<rank>.<token>    set aside                     stream unspool-aside-<spooler>
    unspool.<spooler>.corrupt.<rank>.<token>
    unspool.<spooler>.leaving.<rank>.<token> on its way to another queue: in the stream where it was, and what was set
                                             aside as leaving-dead and leaving-corrupt
    unspool.<spooler>.arriving.<rank>.<token>  on its way from another, and not here yet; the same
    unspool.<spooler>.arriving-dead.none.reserve  no task: room for workers if the storage is full
    unspool.<spooler>.run.<token>            who runs it                   stream unspool-state-<spooler>
    unspool.<spooler>.ended.<token>          which of its messages are void
    unspool.<spooler>.live.<process>         a process that is alive
    unspool.<spooler>.switches               pause and period
    unspool.<spooler>.history.<digest>       one run                       stream unspool-history-<spooler>
    unspool.<spooler>.notice                 not kept: a priority has got its consumer

A rank is a priority, or ``none``. A token identifies a task permanently: the task keeps it when it is rewritten.
"""

import hashlib
import os
import re

from ...errors import ConfigurationError
from ...printable import printable
from ..base import LEAST_PIECE

__all__ = [
    "ARRIVING",
    "CORRUPT",
    "DEAD",
    "LATER",
    "LEAVING",
    "NOW",
    "SOON",
    "Names",
    "is_piece",
    "is_token",
    "new_token",
    "on_the_way",
    "rank_part",
    "short",
]

NOW, SOON, LATER = "now", "soon", "later"
DEAD, CORRUPT = "dead", "corrupt"
LEAVING, ARRIVING = "leaving", "arriving"

_SPOOLER = re.compile(r"[A-Za-z0-9_-]{1,64}")
_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,128}")
_RANDOM = re.compile(r"[0-9a-f]{14}-([0-9a-f]{16})")


def is_token(text: str) -> bool:
    """Return whether this can name a task; anything else may hold wildcards."""
    return _TOKEN.fullmatch(text) is not None


def new_token(now: float) -> str:
    """Return a name that no other task has; later ones sort after earlier ones."""
    return f"{int(now * 1e6):014x}-{os.urandom(8).hex()}"


def short(token: str) -> str:
    """Return the part of a token that is unique: its random digits."""
    made = _RANDOM.fullmatch(token)
    return made[1] if made else token


def is_piece(piece: str, token: str) -> bool:
    """Return whether a token begins or ends with this piece."""
    return len(piece) >= LEAST_PIECE and (token.startswith(piece) or token.endswith(piece))


def rank_part(priority: int | None) -> str:
    """Return a priority as a part of a subject."""
    return "none" if priority is None else str(priority)


def on_the_way(direction: str, kind: str) -> str:
    """Return the kind of a task that is carried: ``LEAVING`` or ``ARRIVING``, and what it is else if it was set
    aside."""
    return f"{direction}-{kind}" if kind in (DEAD, CORRUPT) else direction


class Names:
    """The names of one spooler.

    :raises ConfigurationError: if its name cannot be part of a subject.
    """

    def __init__(self, spooler: str) -> None:
        if not _SPOOLER.fullmatch(spooler):
            raise ConfigurationError(
                f"a spooler on NATS cannot be named {spooler!r}; its name has up to 64 letters, digits, '-' and '_'"
            )
        self.root = f"unspool.{spooler}"
        self.tasks = f"unspool-tasks-{spooler}"
        self.aside = f"unspool-aside-{spooler}"
        self.state = f"unspool-state-{spooler}"
        self.history = f"unspool-history-{spooler}"
        self.switches = f"{self.root}.switches"
        self.notice = f"{self.root}.notice"
        self.reserve = self.task(on_the_way(ARRIVING, DEAD), "none", "reserve")

    def task(self, kind: str, rank: str, token: str) -> str:
        """Return the subject of a task; ``*`` for parts that do not matter."""
        return f"{self.root}.{kind}.{rank}.{token}"

    def run(self, token: str) -> str:
        """Return the subject that tells who runs a task."""
        return f"{self.root}.run.{token}"

    def ended(self, token: str) -> str:
        """Return the subject that tells which messages of a task are void."""
        return f"{self.root}.ended.{token}"

    def records(self, token: str) -> str:
        """Return the subjects of all records about a task: ``run`` and ``ended``."""
        return f"{self.root}.*.{token}"

    def live(self, process: str) -> str:
        """Return the subject of a live process."""
        return f"{self.root}.live.{process}"

    def record(self, id: str) -> str:
        """Return the subject of the runs of a task; ids may hold anything, so it is a digest."""
        return f"{self.root}.history.{hashlib.sha256(printable(id).encode()).hexdigest()[:20]}"

    def place(self, subject: str) -> tuple[str, int | None, str]:
        """Kind, priority and token of a task's subject."""
        kind, rank, token = subject[len(self.root) + 1 :].split(".", 2)
        return kind, int(rank) if rank.isascii() and rank.isdigit() else None, token

    def passing(self, subject: str) -> str:
        """``LEAVING`` or ``ARRIVING`` for the subject of a task that is carried; empty for others."""
        direction, _, _ = self.place(subject)[0].partition("-")
        return direction if direction in (LEAVING, ARRIVING) else ""

    def stream(self, kind: str) -> str:
        """Return the stream of a kind of tasks."""
        return self.aside if kind.endswith((DEAD, CORRUPT)) else self.tasks

    @staticmethod
    def consumer(rank: str) -> str:
        """Return the consumer that hands out the tasks of a rank."""
        return f"rank-{rank}"
