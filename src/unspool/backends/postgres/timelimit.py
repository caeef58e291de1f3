"""A connection on which each statement has a time limit, also if the server or the path to it is silent.

The client counts the time, because a server that cannot be reached cannot. A statement that takes too long is cancelled
on the server: if it waits for a lock it would otherwise be carried out later, although its caller has been told that it
failed.
"""

import contextlib
import time
from collections.abc import Generator
from typing import Any

import psycopg

__all__ = ["PATIENCE", "Connection"]

PATIENCE = 60.0
"""Seconds within which the server must answer a statement of a sender or a command."""
_CANCEL = 5.0  # seconds within which it cancels one


class _NoAnswer(Exception):
    """The server has not answered in time."""


class Connection(psycopg.Connection[Any]):
    """A connection of psycopg whose statements raise after ``patience``."""

    patience: float | None = PATIENCE
    """Seconds within which the server must answer; None to wait as long as it takes."""

    def wait(self, gen: Generator[Any, Any, Any], *args: Any, **options: Any) -> Any:
        if self.patience is None:
            return super().wait(gen, *args, **options)
        try:
            return super().wait(_limited(gen, self.patience), *args, **options)
        except _NoAnswer:
            with contextlib.suppress(psycopg.Error):
                self.cancel_safe(timeout=_CANCEL)
        problem = f"no answer within {self.patience:g} s"
        try:
            return super().wait(_limited(gen, _CANCEL), *args, **options)
        except psycopg.errors.QueryCanceled as error:
            raise psycopg.errors.QueryCanceled(
                f"{problem}, so the statement was cancelled; pg_blocking_pids() shows who holds a lock that it needs"
            ) from error
        except _NoAnswer:
            self.close()
            raise psycopg.OperationalError(problem) from None


def _limited(gen: Generator[Any, Any, Any], seconds: float) -> Generator[Any, Any, Any]:
    """Pass a generator of psycopg through.

    :raises _NoAnswer: if it has not ended within these seconds.
    """
    end = time.monotonic() + seconds
    try:
        wanted = next(gen)
        while True:
            ready = yield wanted
            if not ready and time.monotonic() > end:
                raise _NoAnswer
            wanted = gen.send(ready)
    except StopIteration as done:
        return done.value
