"""One log line for each end of a run, with the same fields in every format."""

import logging

from ..message import Record, Verdict
from ..printable import printable

__all__ = ["log_end"]

_log = logging.getLogger("unspool")
_LEVELS: dict[str, int] = {
    Verdict.PROCESSED: logging.INFO,
    Verdict.SKIPPED: logging.INFO,
    Verdict.RESCHEDULED: logging.WARNING,
    Verdict.TIMEOUT: logging.WARNING,
    Verdict.CRASHED: logging.ERROR,
    Verdict.DEAD: logging.ERROR,
    Verdict.CORRUPT: logging.ERROR,
}


def log_end(spooler: str, record: Record, until: float | None) -> None:
    """Log the end of a run.

    :param until: when the task runs again (unix seconds), or None.
    """
    id, task, verdict, attempt, _, duration, pid, error = record
    level = _LEVELS[verdict]
    if not _log.isEnabledFor(level):
        return
    reason = printable(record.reason[:300]) if error else ""
    fields = {
        "worker": pid,
        "spooler": spooler,
        "task": task,
        "verdict": str(verdict),
        "attempt": attempt,
        "duration": round(duration, 6),
        "id": id,
        "until": until,
        "reason": reason,
        "traceback": record.traceback if error else "",
    }
    text, words = "%s %s %.1f ms", [task, verdict, duration * 1000]
    if level > logging.INFO:  # every formatter then shows what a person must know, also logging's last resort
        text = f"{text}, attempt %d: %s (%s)"
        words += [attempt, reason or "no reason given", printable(id)]
    # ``Logger.log`` looks for its caller, and takes twice as long. There is a line for each task.
    _log.handle(_log.makeRecord(_log.name, level, __file__, 0, text, tuple(words), None, extra={"unspool": fields}))
