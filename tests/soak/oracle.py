"""The log of a soak, stored outside of the spool: what was sent, begun, ended, killed and removed.

A line has a time, a word and its arguments. The time is in seconds since the boot, so that setting a clock does not
change the order. Each line is appended with one write, which survives the death of any process. Lines are not synced,
because the power of the log's own disk is never cut.

| line | by | meaning |
| --- | --- | --- |
| ``ack KEY ID`` | producers, tasks that send | the call that sent the task has returned |
| ``refused REASON KEY...`` | producers, tasks that send | a call has raised, and has not sent these tasks |
| ``unsure REASON KEY...`` | producers, tasks that send | as ``refused``, but it has sent some that have ended by now |
| ``start KEY PID``, ``end KEY PID`` | tasks | a run has begun; it has succeeded |
| ``fail KEY PID ERROR`` | tasks | a run has ended with this exception |
| ``twice KEY PID`` | tasks | a run has begun while another one holds the lock of its task |
| ``kill PID`` | the soak, tasks that end their process | written before and after the kill |
| ``cutoff PID`` | the soak | the connection of this process to the server is cut; written before and after |
| ``crash`` | the soak | the server was killed; written before and after |
| ``error PID`` | the soak | system calls of this process fail with EIO; written before and after |
| ``cut`` | the soak | the power of the directory's disk was cut; written before and after |
| ``clock`` | the soak | a supervisor's clock is set; written before and after |
| ``carry`` | operators | tasks are moved between two directories; written before and after |
| ``forgot`` | the soak | ``.unspool``, which says what has arrived, was removed or replaced |
| ``retry KEY`` | operators | a command that retries the task, or all dead tasks if ``*``; written before and after |
| ``remove KEY`` | operators | a command begins that may remove the task |
| ``kept KEY`` | operators | the command that should remove the task has left it alone, or the task is listed after it |
| ``removed ID`` | operators | the command says that it has removed the task of this id |
| ``survived NAME PID`` | the soak | a process of a supervisor that has stopped goes on |
| ``traceback``, ``odd``, ``hung``, ``gaveup``, ``fault``, ``operation`` | the soak | see :mod:`tests.soak.account` |
"""

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Line", "append", "append_all", "now", "read"]


def now() -> float:
    """Return the seconds since the boot."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def append(path: str, *words: object) -> None:
    """Add a line."""
    append_all(path, [words])


def append_all(path: str, lines: Iterable[tuple[object, ...]]) -> None:
    """Add lines with one write."""
    at = f"{now():.6f}"
    text = "".join(" ".join([at, *map(str, words)]) + "\n" for words in lines)
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a log."""

    at: float
    word: str
    rest: tuple[str, ...]


def read(path: Path) -> list[Line]:
    """Return all lines in the order of time."""
    lines = []
    for text in path.read_text().splitlines() if path.exists() else []:
        at, word, *rest = text.split(" ")
        lines.append(Line(float(at), word, tuple(rest)))
    return sorted(lines, key=lambda line: line.at)
