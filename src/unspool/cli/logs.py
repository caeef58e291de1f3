"""Log lines of ``unspool run`` on stderr: text for people, or one JSON object per line."""

import json
import logging
import sys
import time
from datetime import datetime
from typing import Any

from ..printable import printable
from .durations import span
from .progress import ProgressLine

__all__ = ["start"]


def start(
    form: str, level: str, progress: ProgressLine | None = None, *, quiet: bool = False, tracebacks: bool = False
) -> None:
    """Write unspool's log lines to stderr.

    :param form: ``text`` or ``json``.
    :param level: the lowest level that is shown.
    :param progress: the progress line, which is hidden while a log line is written.
    :param quiet: True to omit successful runs, which the progress line counts.
    :param tracebacks: True to show the traceback of an application that cannot be imported in text form too.
    """
    logger = logging.getLogger("unspool")
    handler = _Handler(progress)
    handler.setFormatter(_JsonFormatter() if form == "json" else _TextFormatter(tracebacks))
    if quiet:
        handler.addFilter(lambda record: record.levelno > logging.INFO or not hasattr(record, "unspool"))
    logger.handlers = [handler]
    logger.setLevel(level.upper())
    logger.propagate = False  # otherwise an application that configures logging would repeat each line


class _Handler(logging.StreamHandler[Any]):
    def __init__(self, progress: ProgressLine | None) -> None:
        super().__init__(sys.stderr)
        self._progress = progress

    def emit(self, record: logging.LogRecord) -> None:
        if self._progress is not None:
            self._progress.clear()
        super().emit(record)
        if self._progress is not None:
            self._progress.restore()


class _TextFormatter(logging.Formatter):
    """A line of time, level, pid and message. That of a run has spooler, task, id, verdict, duration and reason."""

    def __init__(self, tracebacks: bool) -> None:
        super().__init__()
        self._tracebacks = tracebacks

    def format(self, record: logging.LogRecord) -> str:
        run: dict[str, Any] | None = getattr(record, "unspool", None)
        pid = run["worker"] if run else record.process
        text = _describe_run(run) if run else record.getMessage()
        line = printable(f"{_time(record.created)} {record.levelname:<7} {pid} {text}")
        traceback = getattr(record, "traceback", "") if self._tracebacks else ""
        return "\n".join([line, *map(printable, traceback.split("\n"))]) if traceback else line


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": _time(record.created),
            "level": record.levelname.lower(),
            "pid": record.process,
            "message": record.getMessage(),
        }
        if traceback := getattr(record, "traceback", ""):
            fields["traceback"] = traceback
        run: dict[str, Any] = dict(getattr(record, "unspool", None) or {})
        if run:
            fields["pid"] = run.pop("worker")
        return json.dumps(fields | run)


def _describe_run(run: dict[str, Any]) -> str:
    spooler, id = run["spooler"], run["id"]
    parts = [
        spooler,
        run["task"],
        id.removeprefix(f"{spooler}/"),
        run["verdict"],
        f"in {span(run['duration'])}",
    ]
    if run["attempt"] > 1 or run["reason"]:
        parts.append(f"attempt {run['attempt']}")
    if run["until"] is not None and (wait := run["until"] - time.time()) > 0:
        parts.append(f"again in {span(wait)}")
    text = " ".join(parts)
    return f"{text}: {run['reason']}" if run["reason"] else text


_second = (0, "", "")


def _time(created: float) -> str:
    """Return local time in ISO 8601 with milliseconds. The rest of the text is computed once per second."""
    global _second  # noqa: PLW0603  the last second's text
    second = int(created)
    if second != _second[0]:
        text = datetime.fromtimestamp(second).astimezone().isoformat()
        _second = (second, text[:19], text[19:])
    return f"{_second[1]}.{int((created - second) * 1000):03d}{_second[2]}"
