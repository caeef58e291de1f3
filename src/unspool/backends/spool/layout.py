"""The parts of a spool directory, and the refs of its tasks. No other module builds a path.

::

    mail/                        the spooler, mode 0700
      uwsgi_spoolfile_on_…       a task; its ref is this name
      5/uwsgi_spoolfile_on_…     a task of priority 5; its ref is ``5/<name>``
      .unspool/
        tmp/                     unfinished files
        writers                  the owners of unfinished files; see ``drafts``
        dead/  corrupt/          dead letters, in the same tree, with ``<name>.reason`` beside each
        run/                     live processes, the pause flag, the period
        kv/                      the items of the key-value table; see ``keyvalue``
        keys/                    which task has the key of a unique task; see ``keys``
        attempts/                counts, if the file system has no extended attributes
        history.sqlite3          the history, beside its rollback journal
        identity                 distinguishes this directory from a later one, for tasks that are moved to it
"""

import os
import re

from ..base import UNNUMBERED

__all__ = [
    "ASIDE",
    "ATTEMPTS",
    "HISTORY",
    "IDENTITY",
    "KEYS",
    "KV",
    "PRIVATE",
    "RUN",
    "TMP",
    "is_priority",
    "priority_of",
    "rank_of",
    "spooler_of",
]

PRIVATE = ".unspool"
TMP = f"{PRIVATE}/tmp"  # noqa: S108  ours, in a private directory
RUN = f"{PRIVATE}/run"
KV = f"{PRIVATE}/kv"
KEYS = f"{PRIVATE}/keys"
ATTEMPTS = f"{PRIVATE}/attempts"
HISTORY = f"{PRIVATE}/history.sqlite3"
IDENTITY = f"{PRIVATE}/identity"
ASIDE = {"dead": f"{PRIVATE}/dead", "corrupt": f"{PRIVATE}/corrupt"}

is_priority = re.compile(r"[0-9]{1,9}", re.ASCII).fullmatch


def priority_of(ref: str) -> int | None:
    """Return the priority in a ref's directory, or None."""
    head, slash, _ = ref.rpartition("/")
    return int(head) if slash else None


def spooler_of(path: str) -> str:
    """Return the spooler that contains a task's absolute path. The path need not exist.

    A directory whose name is a number is a priority, unless it is a spooler itself.
    """
    head, private, _ = path.partition(f"/{PRIVATE}/")
    if private:
        return head
    head = os.path.dirname(path)
    if is_priority(os.path.basename(head)) and not os.path.isdir(f"{head}/{PRIVATE}"):
        return os.path.dirname(head)
    return head


def rank_of(priority: int | None) -> int:
    """Return the sort key of a priority. Tasks without a priority come last."""
    return UNNUMBERED if priority is None else priority
