"""The names of streams, subjects and consumers, and the ids of tasks.

::

    unspool.<spooler>.now.<rank>.<token>     a task that may run           stream unspool-tasks-<spooler>
    unspool.<spooler>.soon.<rank>.<token>    a task that the server releases a moment before it is due
    unspool.<spooler>.later.<rank>.<token>   a task that the server holds back until then
    unspool.<spooler>.dead.<rank>.<token>    a dead letter                 stream unspool-aside-<spooler>
    unspool.<spooler>.corrupt.<rank>.<token>
    unspool.<spooler>.leaving.<rank>.<token> a task moving to another queue, in its former stream; dead letters are
                                             leaving-dead and leaving-corrupt
    unspool.<spooler>.arriving.<rank>.<token>  a task moving from another queue and not committed yet; likewise
    unspool.<spooler>.arriving-dead.none.reserve  not a task; see ``reserve``
    unspool.<spooler>.run.<token>            the record of its run         stream unspool-state-<spooler>
    unspool.<spooler>.ended.<token>          which of its messages are void
    unspool.<spooler>.live.<process>         a live process
    unspool.<spooler>.switches               pause and period
    unspool.<spooler>.history.<digest>       one run                       stream unspool-history-<spooler>
    unspool.<spooler>.kv.<key>               an item of the key-value table  stream unspool-kv-<spooler>
    unspool.<spooler>.notice                 not stored: a priority has a new consumer

A rank is a priority, or ``none``. A token identifies a task permanently: the task keeps it when it is rewritten. The
token of a task with a key ends with ``_k<key>``. The subject of such a task has the key as a fifth part instead.

In a key of the table, ``/`` becomes ``.`` and ``.`` becomes ``~``.
"""

import hashlib
import os
import re

from ...errors import ConfigurationError, OptionRefused
from ...printable import printable
from ..base import LEAST_PIECE
from ..keyvalue import check_key

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
    "key_of",
    "new_token",
    "on_the_way",
    "rank_part",
]

NOW, SOON, LATER = "now", "soon", "later"
DEAD, CORRUPT = "dead", "corrupt"
LEAVING, ARRIVING = "leaving", "arriving"

_SPOOLER = re.compile(r"[A-Za-z0-9_-]{1,64}")
_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,128}")
_PLAIN = 34  # the maximum length of a token that cannot end with a key
_KEYED = re.compile(r"(?P<start>.*)_k(?P<key>[0-9a-f]{32})", re.DOTALL)
_KEY_TO_SUBJECT = str.maketrans("/.", ".~")
_SUBJECT_TO_KEY = str.maketrans(".~", "/.")


def is_token(text: str) -> bool:
    """Return whether this can be a token. Other text may contain wildcards."""
    return _TOKEN.fullmatch(text) is not None


def new_token(now: float, key: str | None = None) -> str:
    """Return a unique token. Later tokens sort after earlier ones.

    :param key: the key of the task.
    """
    return f"{int(now * 1e6):014x}-{os.urandom(8).hex()}{f'_k{key}' if key else ''}"


def key_of(token: str) -> str | None:
    """Return the key of a task from its token; None if it has none."""
    found = _KEYED.fullmatch(token)
    return found["key"] if found else None


def is_piece(piece: str, token: str) -> bool:
    """Return whether a token, without its key, begins or ends with this piece."""
    found = _KEYED.fullmatch(token)
    token = found["start"] if found else token
    return len(piece) >= LEAST_PIECE and (token.startswith(piece) or token.endswith(piece))


def rank_part(priority: int | None) -> str:
    """Return a priority as a part of a subject."""
    return "none" if priority is None else str(priority)


def on_the_way(direction: str, kind: str) -> str:
    """Return the kind of a task in transfer: ``LEAVING`` or ``ARRIVING``, with its own kind if it is a dead letter."""
    return f"{direction}-{kind}" if kind in (DEAD, CORRUPT) else direction


class Names:
    """The names of one spooler.

    :raises ConfigurationError: if its name cannot be part of a subject.
    """

    def __init__(self, spooler: str) -> None:
        if not _SPOOLER.fullmatch(spooler):
            raise ConfigurationError(
                f"a spooler on NATS cannot be named {spooler!r}; use up to 64 letters, digits, '-' and '_'"
            )
        self.root = f"unspool.{spooler}"
        self.tasks = f"unspool-tasks-{spooler}"
        self.aside = f"unspool-aside-{spooler}"
        self.state = f"unspool-state-{spooler}"
        self.history = f"unspool-history-{spooler}"
        self.table = f"unspool-kv-{spooler}"
        self.switches = f"{self.root}.switches"
        self.notice = f"{self.root}.notice"
        self.reserve = self.task(on_the_way(ARRIVING, DEAD), "none", "reserve")

    def task(self, kind: str, rank: str, token: str) -> str:
        """Return the subject of a task. Parts may be ``*``, which also stands for tokens with a key."""
        rest = ">" if token == "*" else token  # noqa: S105  no password
        if len(token) > _PLAIN and (found := _KEYED.fullmatch(token)):
            rest = f"{found['start']}.{found['key']}"
        return f"{self.root}.{kind}.{rank}.{rest}"

    def keyed(self, key: str) -> str:
        """Return the subjects of all tasks with a key."""
        return f"{self.root}.*.*.*.{key}"

    def run(self, token: str) -> str:
        """Return the subject of the record of a task's run."""
        return f"{self.root}.run.{token}"

    def ended(self, token: str) -> str:
        """Return the subject of the end record of a task."""
        return f"{self.root}.ended.{token}"

    def records(self, token: str) -> str:
        """Return the subjects of all records about a task: ``run`` and ``ended``."""
        return f"{self.root}.*.{token}"

    def live(self, process: str) -> str:
        """Return the subject of a live process."""
        return f"{self.root}.live.{process}"

    def record(self, id: str) -> str:
        """Return the subject of a task's runs. It is a digest, because ids may contain any character."""
        return f"{self.root}.history.{hashlib.sha256(printable(id).encode()).hexdigest()[:20]}"

    def item(self, key: str) -> str:
        """Return the subject of a key of the key-value table."""
        return f"{self.root}.kv.{key.translate(_KEY_TO_SUBJECT)}"

    def items(self, prefix: str) -> str:
        """Return the subjects of all keys that begin with a prefix, and possibly of others."""
        folder, slash, _ = prefix.rpartition("/")
        return self.item(folder + slash) + ">"

    def key(self, subject: str) -> str | None:
        """Return the key of a subject; None if the subject belongs to no valid key."""
        try:
            key = check_key(subject[len(self.root) + 4 :].translate(_SUBJECT_TO_KEY))
        except OptionRefused:
            return None
        return key if self.item(key) == subject else None

    def place(self, subject: str) -> tuple[str, int | None, str]:
        """Return the kind, priority and token in the subject of a task."""
        kind, rank, token = subject[len(self.root) + 1 :].split(".", 2)
        token = token.replace(".", "_k")
        return kind, int(rank) if rank.isascii() and rank.isdigit() else None, token

    def passing(self, subject: str) -> str:
        """Return ``LEAVING`` or ``ARRIVING`` for the subject of a task in transfer, and an empty string for others."""
        direction, _, _ = self.place(subject)[0].partition("-")
        return direction if direction in (LEAVING, ARRIVING) else ""

    def stream(self, kind: str) -> str:
        """Return the stream of a kind of tasks."""
        return self.aside if kind.endswith((DEAD, CORRUPT)) else self.tasks

    @staticmethod
    def consumer(rank: str) -> str:
        """Return the consumer that delivers the tasks of a priority."""
        return f"rank-{rank}"
