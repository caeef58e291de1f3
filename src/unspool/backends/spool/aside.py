"""Setting tasks aside, with the reason in a file beside each, and bringing them back."""

import contextlib
import json
import os
from typing import Any, NamedTuple

from ... import points
from ...printable import printable
from .attempts import Count
from .layout import ASIDE, TMP, Directory

__all__ = [
    "REASON_SUFFIX",
    "Note",
    "bring_back",
    "discard",
    "discard_reason",
    "read_note",
    "set_aside",
    "write_reason",
]

REASON_SUFFIX = ".reason"
_REASON_SIZE = 2000


class Note(NamedTuple):
    """What is kept beside a task that was set aside: why, and its counts."""

    reason: str
    attempts: int
    crashes: int


def set_aside(
    directory: Directory, state: str, at: int, name: str, ref: str, reason: str, count: Count, now: float
) -> None:
    """Moves a locked task (``name`` in the directory ``at``) to those of ``state``, after writing why.

    A reason that cannot be written, as on a full disk, does not keep the task in the way.
    """
    part = _part(state, ref)
    target_at, target = directory.place(part, _free_name(directory, part, os.path.basename(ref)))
    points.reach("bury.begin")
    note = {"reason": reason[:_REASON_SIZE], "at": now, "attempts": count.attempts, "crashes": count.crashes}
    with contextlib.suppress(OSError):
        write_reason(directory, target_at, target, note)
    points.reach("bury.noted")
    os.rename(name, target, src_dir_fd=at, dst_dir_fd=target_at)
    points.reach("bury.moved")


def read_note(directory: Directory, state: str, ref: str) -> Note | None:
    """The note beside a task that was set aside; None if there is none, or it is not one."""
    try:
        at, name = directory.at(f"{ASIDE[state]}/{ref}{REASON_SUFFIX}")
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=at)
        with open(fd, "rb") as file:
            note = json.loads(file.read(1 << 16))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(note, dict):
        return None
    reason = note.get("reason")
    return Note(printable(reason) if type(reason) is str else "", _count(note, "attempts"), _count(note, "crashes"))


def bring_back(directory: Directory, state: str, ref: str, target_ref: str, now: float) -> None:
    """Moves a task that was set aside back among those that wait, due now."""
    at, name = directory.at(f"{ASIDE[state]}/{ref}")
    part, _, base = target_ref.rpartition("/")
    target_at, target = directory.place(part, base) if part else (directory.fd(""), base)
    os.utime(name, (now, now), dir_fd=at, follow_symlinks=False)
    os.rename(name, target, src_dir_fd=at, dst_dir_fd=target_at)
    _remove_note(at, name)


def discard(directory: Directory, state: str, ref: str) -> None:
    """Deletes a task that was set aside, and its note."""
    at, name = directory.at(f"{ASIDE[state]}/{ref}")
    os.unlink(name, dir_fd=at)
    _remove_note(at, name)


def discard_reason(directory: Directory, state: str, ref: str) -> None:
    """Deletes the note of a task that has left from where it was set aside."""
    _remove_note(*directory.at(f"{ASIDE[state]}/{ref}"))


def _count(note: dict[str, Any], name: str) -> int:
    found = note.get(name)
    return found if type(found) is int else 0


def _part(state: str, ref: str) -> str:
    priority, slash, _ = ref.rpartition("/")
    return f"{ASIDE[state]}/{priority}" if slash else ASIDE[state]


def _free_name(directory: Directory, part: str, name: str) -> str:
    """``name``, or with a number behind it: a copy of a task that was set aside earlier must not replace it."""
    candidate, number = name, 1
    while True:
        at, target = directory.place(part, candidate)
        try:
            os.stat(target, dir_fd=at, follow_symlinks=False)
        except FileNotFoundError:
            return candidate
        number += 1
        candidate = f"{name}~{number}"


def write_reason(directory: Directory, at: int, name: str, note: dict[str, Any]) -> None:
    """Writes the note beside a task (``name`` in the directory ``at``)."""
    tmp = directory.fd(TMP)
    name += REASON_SUFFIX
    draft = directory.drafts.name(os.path.basename(name))
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=tmp)
    try:
        with open(fd, "w", encoding="utf-8") as file:
            json.dump(note, file)
        os.rename(draft, name, src_dir_fd=tmp, dst_dir_fd=at)
    except OSError:
        os.unlink(draft, dir_fd=tmp)
        raise


def _remove_note(at: int, name: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name + REASON_SUFFIX, dir_fd=at)
