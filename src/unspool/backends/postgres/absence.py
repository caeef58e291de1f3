"""Supervisors without a session: whether they may come back to what they have begun, and which of their workers live.

A supervisor may come back, unless it is gone from this machine or has been away for too long. A worker may have lost
its session as well, so its process is looked at; only its own machine can do that.
"""

from collections.abc import Iterable
from typing import Any

from .machine import is_gone, lives

__all__ = ["GRACE", "judge"]

GRACE = 15.0  # seconds that a supervisor whose session has ended has to come back to what its workers run


def judge(rows: Iterable[Any]) -> dict[str, list[int]]:
    """The supervisors that will not come back (``dead``), and the workers that live without them (``living``).

    :param rows: a supervisor, whether its time is over, its machine and process number, and the same of a worker of it.
    """
    found = list(rows)
    dead = {key for key, over, host, pid, *_ in found if over or is_gone(host or "", pid)}
    living = {worker for *_, worker, host, pid in found if lives(host, pid)}
    return {"dead": list(dead), "living": list(living)}
