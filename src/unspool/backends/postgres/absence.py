"""Supervisors without a session: whether they may return to their tasks, and which of their workers are alive.

A supervisor may return unless its process has ended on this machine or it has been away for too long. A worker may have
lost its session too, so its process is checked. Only a process on the worker's machine can do that.
"""

from collections.abc import Iterable
from typing import Any

from .machine import is_gone, lives

__all__ = ["GRACE", "judge"]

GRACE = 15.0  # seconds for which the tasks of a supervisor without a session are left to its workers


def judge(rows: Iterable[Any]) -> dict[str, list[int]]:
    """Return the supervisors that cannot return (``dead``) and the workers that are alive without them (``living``).

    :param rows: a supervisor, whether its time is over, its machine and process number, and the machine and process
        number of one of its workers.
    """
    found = list(rows)
    dead = {key for key, over, host, pid, *_ in found if over or is_gone(host or "", pid)}
    living = {worker for *_, worker, host, pid in found if lives(host, pid)}
    return {"dead": list(dead), "living": list(living)}
