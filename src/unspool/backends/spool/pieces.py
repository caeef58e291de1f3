"""Pieces of task names that still identify the task.

A name is ``uwsgi_spoolfile_on_<host>_<pid>_<counter>_<random>_<seconds>_<microseconds>``. No two tasks have the same
``<pid>_<counter>_<random>``, and a task keeps it when ``retry`` changes the time at the end of its name.
"""

import re

from ...task_id import FILE
from ..base import LEAST_PIECE
from .names import PREFIX

__all__ = ["is_piece"]


def is_piece(piece: str, name: str) -> bool:
    """Return whether a name, or its unique part, begins or ends with this piece.

    A piece contains the whole pid and counter: ``11022_6`` does not match ``11022_61_…``. A name made by another
    program must match completely, with or without the prefix.
    """
    made = re.fullmatch(FILE, name, re.ASCII | re.DOTALL)
    if made is None:
        return piece in (name, name.removeprefix(PREFIX))
    if name.endswith(piece):
        return LEAST_PIECE <= len(piece) <= len(name) - made.start("own") or piece == name
    start = 0 if piece.startswith(PREFIX) else made.start("own")
    end = start + len(piece)
    return name.startswith(piece, start) and end >= made.start("random") - 1
