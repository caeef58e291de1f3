"""A connection on which each statement has a time limit, also if the server or the path to it is silent.

The client counts the time, because a server that cannot be reached cannot. A statement that takes too long is cancelled
on the server: if it waits for a lock it would otherwise be carried out later, although its caller has been told that it
failed.
"""

import contextlib
import os
import time
from collections.abc import Generator
from typing import Any

import psycopg
from psycopg import waiting

from ... import forks

__all__ = ["PATIENCE", "Connection"]

PATIENCE = 60.0
"""Seconds within which the server must answer a statement of a sender or a command."""
_LOOK = 0.1  # seconds between checks of the time
_CANCEL = 5.0  # seconds to wait for a cancellation


class _NoAnswer(Exception):
    """The server has not answered in time."""


_inherited: list["Connection"] = []  # kept forever, because collecting one would warn, or end the parent's session


class Connection(psycopg.Connection[Any]):
    """A connection of psycopg whose statements raise after ``patience``.

    It belongs to the process that opened it. A child only closes its copy of the socket, so that the server notices
    when the owner's connection ends.
    """

    patience: float | None = PATIENCE
    """Seconds within which the server must answer; None to wait as long as it takes."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        forks.register(after_in_child=self._leave_to_parent)

    def _leave_to_parent(self) -> None:
        _inherited.append(self)
        if not self.closed:
            with contextlib.suppress(OSError, psycopg.Error):
                os.close(self.fileno())

    def wait(self, gen: Generator[Any, Any, Any], *args: Any, **options: Any) -> Any:
        if self.patience is None:
            return super().wait(gen, *args, **options)
        try:
            return _wait(gen, self.pgconn.socket, self.patience)
        except _NoAnswer:
            self._cancel_in_time()
        except KeyboardInterrupt:
            self._cancel_in_time()
            self.close()
            raise
        problem = f"no answer within {self.patience:g} s"
        try:
            return _wait(gen, self.pgconn.socket, _CANCEL, begun=True)
        except psycopg.errors.QueryCanceled as error:
            raise psycopg.errors.QueryCanceled(
                f"{problem}, so the statement was cancelled; pg_blocking_pids() shows who holds a lock that it needs"
            ) from error
        except _NoAnswer:
            self.close()
            raise psycopg.OperationalError(problem) from None

    def _cancel_in_time(self) -> None:
        if psycopg.capabilities.has_cancel_safe():  # before libpq 17, nothing limits the time of a cancellation
            with contextlib.suppress(psycopg.Error):
                self.cancel_safe(timeout=_CANCEL)


def _wait(gen: Generator[Any, Any, Any], fileno: int, seconds: float, *, begun: bool = False) -> Any:
    """Run a generator of psycopg to its end, and return its result.

    :param begun: whether it has already run up to a wait.
    :raises _NoAnswer: if it waits for longer than these seconds.
    """
    # psycopg's own loop in C does not return before the server answers, in all supported versions.
    return waiting.wait_poll(_limited(gen, seconds, begun), fileno, _LOOK)


def _limited(gen: Generator[Any, Any, Any], seconds: float, begun: bool) -> Generator[Any, Any, Any]:
    end = time.monotonic() + seconds
    try:
        wanted = gen.send(waiting.Ready.NONE if begun else None)
        while True:
            ready = yield wanted
            if not ready and time.monotonic() > end:
                raise _NoAnswer
            wanted = gen.send(ready)
    except StopIteration as done:
        return done.value
