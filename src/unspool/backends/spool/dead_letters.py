"""Dead letters in a spool directory. A note beside each holds the reason."""

import contextlib
import errno
import json
import os
from typing import Any, NamedTuple

from ... import points
from ...printable import printable
from .attempts import Count
from .directory import Directory
from .file import open_private
from .layout import ASIDE, TMP

__all__ = [
    "REASON_SUFFIX",
    "Note",
    "bring_back",
    "discard",
    "discard_reason",
    "is_note",
    "read_note",
    "rename_hidden",
    "reprioritise",
    "set_aside",
    "write_reason",
]

REASON_SUFFIX = ".reason"
_REASON_SIZE = 2000
_LONGEST = 200  # bytes kept of a name that must be changed


class Note(NamedTuple):
    """The note beside a dead letter: the reason and the counts."""

    reason: str
    attempts: int
    crashes: int


def set_aside(
    directory: Directory, state: str, at: int, name: str, ref: str, reason: str, count: Count, now: float
) -> None:
    """Move a locked task (``name`` in the directory ``at``) to the dead letters of ``state``, after writing its note.

    A note that cannot be written, for example on a full disk, does not prevent the move.
    """
    part = _part(state, ref)
    directory.renew(TMP, part)
    target_at, target = directory.place(part, _free_name(directory, part, os.path.basename(ref)))
    points.reach("bury.begin")
    note = {"reason": reason[:_REASON_SIZE], "at": now, "attempts": count.attempts, "crashes": count.crashes}
    with contextlib.suppress(OSError):
        write_reason(directory, target_at, target, note)
    points.reach("bury.noted")
    os.rename(name, target, src_dir_fd=at, dst_dir_fd=target_at)
    points.reach("bury.moved")


def read_note(directory: Directory, state: str, ref: str) -> Note | None:
    """Return the note beside a dead letter, or None if it is missing or invalid."""
    try:
        with open(open_private(directory, f"{ASIDE[state]}/{ref}{REASON_SUFFIX}"), "rb") as file:
            note = json.loads(file.read(1 << 16))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(note, dict):
        return None
    reason = note.get("reason")
    return Note(printable(reason) if type(reason) is str else "", _count(note, "attempts"), _count(note, "crashes"))


def bring_back(directory: Directory, state: str, ref: str, target_ref: str, now: float) -> None:
    """Move a dead letter back to the waiting tasks, due now."""
    at, name = directory.at(f"{ASIDE[state]}/{ref}")
    part, _, base = target_ref.rpartition("/")
    target_at, target = directory.place(part, base) if part else (directory.fd(""), base)
    os.utime(name, (now, now), dir_fd=at, follow_symlinks=False)
    os.rename(name, target, src_dir_fd=at, dst_dir_fd=target_at)
    discard_reason(directory, state, ref)


def reprioritise(directory: Directory, state: str, ref: str, target_ref: str, now: float) -> str:
    """Move a dead letter to the directory of another priority. Return its new path within the spooler.

    Its note is written there before the move, as in ``set_aside``.
    """
    part = _part(state, target_ref)
    directory.renew(TMP, part)
    base = _free_name(directory, part, os.path.basename(ref))
    target_at, target = directory.place(part, base)
    if (note := read_note(directory, state, ref)) is not None:
        write_reason(directory, target_at, target, note._asdict() | {"at": now})
    at, name = directory.at(f"{ASIDE[state]}/{ref}")
    os.rename(name, target, src_dir_fd=at, dst_dir_fd=target_at)
    discard_reason(directory, state, ref)
    return f"{part}/{base}"


def discard(directory: Directory, state: str, ref: str) -> None:
    """Delete a dead letter and its note."""
    at, name = directory.at(f"{ASIDE[state]}/{ref}")
    os.unlink(name, dir_fd=at)
    discard_reason(directory, state, ref)


def discard_reason(directory: Directory, state: str, ref: str) -> None:
    """Delete the note of a task that is no longer a dead letter."""
    inside = f"{ASIDE[state]}/{ref}{REASON_SUFFIX}"
    with contextlib.suppress(OSError):
        if is_note(directory, inside):
            os.unlink(directory.path(inside))


def is_note(directory: Directory, inside: str) -> bool:
    """Return whether this file is a note, and not a task with the name of a note. The first byte differs.

    :raises OSError: if it cannot be opened.
    """
    with open(open_private(directory, inside), "rb") as file:
        return file.read(1) in (b"{", b"")


def rename_hidden(directory: Directory, part: str, name: str) -> None:
    """Rename a task that has the name of a note, so that it is listed."""
    os.rename(directory.path(f"{part}/{name}"), directory.path(f"{part}/{_free_name(directory, part, name)}"))


def _count(note: dict[str, Any], name: str) -> int:
    found = note.get(name)
    return found if type(found) is int and 0 <= found < 10**9 else 0


def _part(state: str, ref: str) -> str:
    priority, slash, _ = ref.rpartition("/")
    return f"{ASIDE[state]}/{priority}" if slash else ASIDE[state]


def _free_name(directory: Directory, part: str, name: str) -> str:
    """Return ``name``, or a shortened form with a number.

    The result replaces no task and no note of another task, is not the name of a note, and leaves room for the name of
    its own note.
    """
    candidate, number = name, 1
    start = os.fsdecode(os.fsencode(name)[:_LONGEST])
    while candidate.endswith(REASON_SUFFIX) or not _is_free(directory, f"{part}/{candidate}"):
        number += 1
        candidate = f"{start}~{number}"
    return candidate


def _is_free(directory: Directory, inside: str) -> bool:
    part, _, name = inside.rpartition("/")
    at, target = directory.place(part, name)
    try:
        os.stat(target, dir_fd=at, follow_symlinks=False)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENAMETOOLONG):
            raise
    else:
        return False
    try:
        return is_note(directory, f"{inside}{REASON_SUFFIX}")  # the note of a task that no longer exists is replaced
    except OSError as error:
        return error.errno == errno.ENOENT


def write_reason(directory: Directory, at: int, name: str, note: dict[str, Any]) -> None:
    """Write the note beside a task (``name`` in the directory ``at``)."""
    tmp = directory.fd(TMP)
    draft = directory.drafts.name(f"{os.urandom(8).hex()}{REASON_SUFFIX}")  # the task's name may be too long
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = directory.hand_over(os.open(draft, flags, 0o600, dir_fd=tmp))
    try:
        with open(fd, "w", encoding="utf-8") as file:
            json.dump(note, file)
        os.rename(draft, name + REASON_SUFFIX, src_dir_fd=tmp, dst_dir_fd=at)
    except OSError:
        os.unlink(draft, dir_fd=tmp)
        raise
