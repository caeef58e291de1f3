"""Prepared statements that are sent together, without psycopg's conversions, which cost a worker more than the rest.

Values are text, as the server reads it; rows are in its binary form.
"""

import select
from collections.abc import Sequence
from typing import cast

import psycopg
from psycopg import pq
from psycopg.errors import error_from_result

from .connection import Connection

__all__ = ["Row", "prepare", "run"]

Row = Sequence[bytes | None]


def prepare(connection: Connection, name: bytes, text: str) -> None:
    """Prepare a statement under a name.

    :raises psycopg.Error: if the server refuses it.
    """
    result = connection.pgconn.prepare(name, text.encode())
    if result.status != pq.ExecStatus.COMMAND_OK:
        raise error_from_result(result)


def run(connection: Connection, statements: Sequence[tuple[bytes, Row]]) -> list[list[Row]]:
    """Run prepared statements by one transaction in one round trip. Return the rows of each.

    :param statements: their names on the server, and their values; None means null.
    :raises psycopg.Error: if the server refuses one of them. It has then carried out none.
    """
    pgconn = connection.pgconn
    try:
        pgconn.enter_pipeline_mode()
        for name, values in statements:
            pgconn.send_query_prepared(name, cast(list[bytes], values), None, 1)
        pgconn.pipeline_sync()
        while pgconn.flush():
            _wait(connection, select.POLLIN | select.POLLOUT)
            pgconn.consume_input()
        answers: list[list[Row]] = []
        problem: psycopg.Error | None = None
        for _ in statements:
            while (result := _result(connection)) is not None:
                if result.status == pq.ExecStatus.TUPLES_OK:
                    answers.append(_rows(result))
                elif problem is None:  # what follows it was not carried out
                    problem = error_from_result(result)
        _result(connection)  # of the synchronisation
        pgconn.exit_pipeline_mode()
    except BaseException:
        connection.close()  # it may still be in use
        raise
    if problem is not None:
        raise problem
    return answers


def _result(connection: Connection) -> pq.abc.PGresult | None:
    """Return the next result, or None at the end of a statement. Other threads run while it waits.

    :raises psycopg.Error: if the connection is lost.
    """
    pgconn = connection.pgconn
    while pgconn.is_busy():
        _wait(connection, select.POLLIN)
        pgconn.consume_input()
    result = pgconn.get_result()
    if result is None and pgconn.status == pq.ConnStatus.BAD:
        raise psycopg.OperationalError("the connection is lost")
    return result


def _wait(connection: Connection, events: int) -> None:
    poller = select.poll()
    poller.register(connection.fileno(), events)
    poller.poll()


def _rows(result: pq.abc.PGresult) -> list[Row]:
    columns = range(result.nfields)
    return [[result.get_value(row, column) for column in columns] for row in range(result.ntuples)]
