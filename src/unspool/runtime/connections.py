"""Django's database connections, which the runs of a process share: a broken one must not fail all later runs.

Django closes connections that are broken, or older than ``CONN_MAX_AGE``, around each web request. This does it around
each run, in the thread that runs it. An error is logged and changes no verdict.
"""

import logging
import sys
from typing import Any

from .. import failure

__all__ = ["close_old", "close_old_of_coroutines"]

_log = logging.getLogger("unspool")


def close_old() -> None:
    """Close those of this thread."""
    database = sys.modules.get("django.db")
    if database is not None:
        _close(database, others=False)


def close_old_of_coroutines(*, others: bool) -> None:
    """Close those that coroutines use: Django has one thread for the queries of all of them.

    That thread does it between what it was given before and what it is given from now on, so nothing waits for it.

    :param others: whether other coroutines are on their way. What they may be using is then closed only if it is
        broken.
    """
    database = sys.modules.get("django.db")
    if database is None:
        return
    try:
        from asgiref.sync import SyncToAsync

        SyncToAsync.single_thread_executor.submit(_close, database, others=others)
    except Exception as error:  # noqa: BLE001  of another library, and it must change no verdict
        _complain(error)


def _close(database: Any, *, others: bool) -> None:
    try:
        if not sys.modules["django.conf"].settings.configured:  # there can be no connection
            return
        if not others:
            database.close_old_connections()
            return
        for connection in database.connections.all(initialized_only=True):
            if connection.errors_occurred and not connection.in_atomic_block and not connection.is_usable():
                connection.close()
    except Exception as error:  # noqa: BLE001  of a driver
        _complain(error)


def _complain(error: Exception) -> None:
    _log.warning("Django's database connections cannot be closed: %s", failure.reason(error))
