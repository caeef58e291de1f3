"""What an orphan, a worker whose supervisor is gone, does with the ends of its runs: it logs and records them."""

import logging

from ..backends.base import Backend, Journals
from ..message import Record
from .log import log_end

__all__ = ["keep_end"]

_log = logging.getLogger("unspool")


def keep_end(backend: Backend, record: Record, until: float | None) -> None:
    """Logs the end of a run of which no supervisor hears, and puts it where history finds it.

    :param until: when the task runs again (unix seconds), or None.
    """
    log_end(backend.name, record, until)
    if backend.capabilities.records:  # ``settle`` has written it
        return
    try:
        if isinstance(backend, Journals):
            backend.jot([record])
        else:
            backend.record([record])
    except Exception as error:  # noqa: BLE001  whatever a database may raise costs history, and nothing else
        _log.warning("history of %s cannot be written: %s; tasks go on", backend.name, error)
