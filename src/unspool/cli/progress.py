"""The progress line of ``unspool run``: rewritten in place on a terminal's stderr, and cleared for log lines."""

import os
import sys
import time
from collections import deque
from typing import TYPE_CHECKING

from ..printable import counted

if TYPE_CHECKING:
    from ..runtime.listeners import Statistics

__all__ = ["ProgressLine"]

_WINDOW = 2.0  # seconds over which the rate is measured


class ProgressLine:
    """A progress line, which is called with the supervisor's ``Statistics``."""

    def __init__(self) -> None:
        self._past: deque[tuple[float, int]] = deque([(time.monotonic(), 0)])
        self._text = ""
        self._shown = False

    def __call__(self, stats: "Statistics") -> None:
        rate = self._rate(stats.done)
        parts = [f"{rate:,.0f}/s"] if stats.backlog and rate >= 1 else []
        parts.append(f"{stats.done:,} run")
        if stats.failed:
            parts.append(f"{stats.failed:,} failed")
        if stats.dead:
            parts.append(f"{stats.dead:,} dead")
        parts.append(f"{stats.backlog:,} waiting")
        parts.append(counted(stats.workers, "worker"))
        self._text = " | ".join(parts)
        self._show()

    def clear(self) -> None:
        """Clear the line."""
        if self._shown:
            self._shown = False
            self._write("\r\x1b[K")

    def restore(self) -> None:
        """Show the line again."""
        if self._text:
            self._show()

    def _show(self) -> None:
        self._write(f"\r{self._text[: _width() - 1]}\x1b[K")
        self._shown = True

    def _rate(self, done: int) -> float:
        now = time.monotonic()
        self._past.append((now, done))
        while len(self._past) > 2 and self._past[1][0] <= now - _WINDOW:
            self._past.popleft()
        then, before = self._past[0]
        return (done - before) / (now - then) if now > then else 0.0

    def _write(self, text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()


def _width() -> int:
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except (OSError, ValueError):
        return 80
