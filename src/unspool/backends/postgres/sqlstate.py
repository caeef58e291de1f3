"""What an error of the server's means for its caller, told once, by its SQLSTATE."""

from enum import Enum

import psycopg

from ...errors import SpoolerUnusable

__all__ = ["Away", "Kind", "ReadOnly", "Transient", "first_line", "kind_of"]


class Transient(SpoolerUnusable):
    """The server did not carry out a statement, for a reason that may pass: the same statement may be tried again."""


class Away(Transient):
    """The server cannot be reached now, or was lost while it carried out a statement; trying again may help."""


class ReadOnly(Away):
    """The server that was reached is a replica, or has become one; the primary may be elsewhere."""


class Kind(Enum):
    """What an error calls for."""

    RETRY = "the same statement again"
    AWAY = "a new connection"
    READ_ONLY = "a connection to the primary"
    DAMAGED = "a person to look at the server's files"
    REFUSED = "a person to correct what was asked for, or the rights to it"


_KINDS = {
    "08": Kind.AWAY,  # connection exceptions
    "25006": Kind.READ_ONLY,
    "25P03": Kind.AWAY,  # idle_in_transaction_session_timeout, which ends the session
    "25P04": Kind.AWAY,  # transaction_timeout, too
    "26000": Kind.AWAY,  # a prepared statement is gone: the session is not the one that was opened
    "40": Kind.RETRY,  # serialization failures and deadlocks
    "53": Kind.RETRY,  # no disk space, memory or connections
    "55006": Kind.RETRY,  # object in use
    "55P03": Kind.RETRY,  # lock_timeout
    "57014": Kind.RETRY,  # statement_timeout, pg_cancel_backend
    "57P": Kind.AWAY,  # the server or the session is being ended
    "58": Kind.RETRY,  # errors of the server's system
    "XX001": Kind.DAMAGED,
    "XX002": Kind.DAMAGED,
}
"""By SQLSTATE, or what it begins with."""
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
    """What an error calls for.

    :param lost: whether the connection went with it.
    """
    code, text = error.sqlstate, first_line(error)
    if code is None and "session is read-only" in text:  # target_session_attrs, at connecting
        return Kind.READ_ONLY
    for size in (5, 3, 2):
        if code is not None and (found := _KINDS.get(code[:size])) is not None:
            return Kind.AWAY if lost and found is Kind.RETRY else found
    if lost:
        return Kind.AWAY
    if code is not None or not isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        return Kind.REFUSED
    # An error at connecting has no SQLSTATE.
    return Kind.REFUSED if any(mistake in text for mistake in _MISTAKES) else Kind.AWAY


def first_line(error: BaseException) -> str:
    """What the server or its client says, in one line."""
    return " ".join(str(error).split())
