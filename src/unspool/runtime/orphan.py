"""The log lines and records of an orphan: a worker whose supervisor is dead."""

import logging

from ..backends.base import Backend
from ..message import Record
from .log import log_end

__all__ = ["keep_end"]

_log = logging.getLogger("unspool")


def keep_end(backend: Backend, record: Record, until: float | None) -> None:
    """Log the end of a run that no supervisor receives, and store it for history.

    :param until: when the task runs again (unix seconds), or None.
    """
    log_end(backend.name, record, until)
    if backend.capabilities.records:  # ``settle`` has written the record
        return
    try:
        backend.record([record], journal=True)
    except Exception as error:  # noqa: BLE001  an error of a database affects only history
        _log.warning("history of %s cannot be written: %s; tasks continue", backend.name, error)
