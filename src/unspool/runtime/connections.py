"""Django's database connections, which the runs of a process share.

Around each web request, Django closes connections that are broken or older than ``CONN_MAX_AGE``. This module does it
around each run, in the thread of the run, so that a broken connection does not fail all later runs. An error is logged
and changes no verdict.
"""

import logging
import sys
from typing import Any

from .. import failure

__all__ = ["close_old", "close_old_of_coroutines"]

_log = logging.getLogger("unspool")


def close_old() -> None:
    """Close the old connections of this thread."""
    database = sys.modules.get("django.db")
    if database is not None:
        _close(database, others=False)


def close_old_of_coroutines(*, others: bool) -> None:
    """Close the old connections that coroutines use. Django has one thread for the queries of all coroutines.

    This thread closes the connections between its other work, so nothing waits for it.

    :param others: whether other coroutines are running. A connection that they may be using is closed only if it is
        broken.
    """
    database = sys.modules.get("django.db")
    if database is None:
        return
    try:
        from asgiref.sync import SyncToAsync

        SyncToAsync.single_thread_executor.submit(_close, database, others=others)
    except Exception as error:  # noqa: BLE001  of another library, and it must change no verdict
        _log_failure(error)


def _close(database: Any, *, others: bool) -> None:
    try:
        if not sys.modules["django.conf"].settings.configured:  # without settings, there are no connections
            return
        if not others:
            database.close_old_connections()
            return
        for connection in database.connections.all(initialized_only=True):
            if connection.errors_occurred and not connection.in_atomic_block and not connection.is_usable():
                connection.close()
    except Exception as error:  # noqa: BLE001  of a driver
        _log_failure(error)


def _log_failure(error: Exception) -> None:
    _log.warning("Django's database connections cannot be closed: %s", failure.reason(error))
