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

    :param until: when it runs again (unix seconds), or None.
    """
    id, task, verdict, attempt, _, duration, pid, _ = record
    level = _LEVELS[verdict]
    if not _log.isEnabledFor(level):
        return
    reason = printable(record.reason[:300])
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
        "traceback": record.traceback,
    }
    text, words = "%s %s %.1f ms", [task, verdict, duration * 1000]
    if level > logging.INFO:  # whatever formats it, and be it logging's last resort, it says what a person must know
        text = f"{text}, attempt %d: %s (%s)"
        words += [attempt, reason or "no reason given", printable(id)]
    _log.log(level, text, *words, extra={"unspool": fields})
