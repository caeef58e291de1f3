"""The meaning of the server's errors for the caller, by SQLSTATE."""

from enum import Enum

import psycopg

from ...errors import SpoolerUnreachable

__all__ = ["Away", "Kind", "ReadOnly", "Transient", "first_line", "kind_of"]


class Transient(SpoolerUnreachable):
    """The server did not carry out a statement for a temporary reason. The same statement may succeed later."""


class Away(Transient):
    """The server cannot be reached, or was lost during a statement. A retry may succeed."""


class ReadOnly(Away):
    """The server is a replica, or has become one. The primary may be elsewhere."""


class Kind(Enum):
    """The reaction that an error calls for."""

    RETRY = "the same statement again"
    AWAY = "a new connection"
    READ_ONLY = "a connection to the primary"
    DAMAGED = "a person to look at the server's files"
    REFUSED = "a person to correct what was asked for, or the rights to it"


_KINDS = {
    "08": Kind.AWAY,  # connection exceptions
    "25006": Kind.READ_ONLY,
    "25P03": Kind.AWAY,  # idle_in_transaction_session_timeout, which ends the session
    "25P04": Kind.AWAY,  # transaction_timeout, which ends the session
    "26000": Kind.AWAY,  # a missing prepared statement: another session than the one opened
    "40": Kind.RETRY,  # serialization failures and deadlocks
    "53": Kind.RETRY,  # no disk space, memory or connections
    "55006": Kind.RETRY,  # object in use
    "55P03": Kind.RETRY,  # lock_timeout
    "57014": Kind.RETRY,  # statement_timeout, pg_cancel_backend
    "57P": Kind.AWAY,  # the server or the session is shutting down
    "58": Kind.RETRY,  # system errors of the server
    "XX001": Kind.DAMAGED,
    "XX002": Kind.DAMAGED,
}
"""By SQLSTATE, or by its first characters."""
_MISTAKES = (
    "password authentication failed",
    "no password supplied",
    "does not exist",
    "pg_hba.conf",
    "invalid",
    "could not translate host name",
    "certificate",
)


def kind_of(error: psycopg.Error, *, lost: bool = False) -> Kind:
    """Return the reaction that an error calls for.

    :param lost: whether the connection was lost with it.
    """
    code, text = error.sqlstate, first_line(error)
    if code is None and "session is read-only" in text:  # target_session_attrs, while connecting
        return Kind.READ_ONLY
    for size in (5, 3, 2):
        if code is not None and (found := _KINDS.get(code[:size])) is not None:
            return Kind.AWAY if lost and found is Kind.RETRY else found
    if lost:
        return Kind.AWAY
    if code is not None or not isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        return Kind.REFUSED
    # Errors while connecting have no SQLSTATE.
    return Kind.REFUSED if any(mistake in text for mistake in _MISTAKES) else Kind.AWAY


def first_line(error: BaseException) -> str:
    """Return the first line of an error of the server or its client."""
    return " ".join(str(error).split())
