"""No query reads all tasks to find the first ones, even if many are waiting."""

import re

import psycopg
import pytest

from unspool import inspection
from unspool.backends.postgres import sql
from unspool.backends.postgres.names import Names
from unspool.backends.postgres.session import _MANNERS, CLAIMS, PROCESSES
from unspool.message import State

from .conftest import look_at, queue_in

LISTED = {"clock": 2e9, "whole": False, "moving": "", "limit": 10, "rank": 5, "due": 1e9 + 25_000, "id": 75_000}


@pytest.mark.parametrize(
    ("statement", "values"),
    [
        ("look", {"owner": 1}),
        ("take", {"owner": 1, "limit": 10}),
        ("promote", {}),
        ("page", {**LISTED, "shown": -1}),
        ("page", {**LISTED, "shown": 0}),
        ("page", {**LISTED, "shown": 1}),
        ("page", {**LISTED, "shown": 2}),
        ("task", LISTED),
    ],
)
def test_the_first_of_many(database: str, statement: str, values: dict[str, object]) -> None:
    """Among fifty thousand ready, deferred and dead tasks each, indexes lead to what is asked for."""
    address = queue_in(database)
    backend = look_at(address)
    with psycopg.connect(database, autocommit=True, cursor_factory=psycopg.ClientCursor) as connection:
        connection.execute(
            "INSERT INTO unspool.task (spooler, rank, due, state, data) "
            "SELECT %s, 5, 1e9 + 1e9 * (state = 1)::int * 3 + n, state, '' "
            "FROM generate_series(1, 50000) AS n, generate_series(0, 2) AS state",
            [address.spooler],
        )
        try:
            connection.execute("VACUUM ANALYZE unspool.task")
            given = {"clock": None, "claims": CLAIMS, "processes": PROCESSES, **Names(address).values(), **values}
            if statement in ("look", "take", "promote"):
                connection.execute(_MANNERS)
            if statement == "page":
                connection.execute("SET enable_seqscan = off")  # as the listing does
            rows = connection.execute(f"EXPLAIN {sql.statement(statement)}", given).fetchall()
            plan = "\n".join(line for (line,) in rows)
            assert "Seq Scan on task" not in plan, plan
            assert backend.counts().tasks[State.DEFERRED] == 50_000
            assert [entry.state for entry in inspection.tasks(backend, limit=2)] == [State.READY, State.READY]
            dead = list(inspection.tasks(backend, frozenset({State.DEAD}), limit=2))
            assert [entry.due for entry in dead] == [1e9 + 1, 1e9 + 2]
        finally:
            connection.execute("DELETE FROM unspool.task WHERE spooler = %s", [address.spooler])
            backend.close()


@pytest.mark.parametrize("statement", ["acknowledge", "return", "claim", "withdraw"])
def test_tasks_by_their_numbers(database: str, statement: str) -> None:
    """A worker's plans are made once, perhaps while there are few tasks. They read only the tasks that they change."""
    text = sql.statement(statement)
    count = max(map(int, re.findall(r"\$(\d+)", text)))
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(_MANNERS)
        connection.execute(f"PREPARE planned AS {text}")
        rows = connection.execute(f"EXPLAIN EXECUTE planned ({', '.join(['NULL'] * count)})").fetchall()
    plan = "\n".join(line for (line,) in rows)
    assert "Scan using task_pkey on task" in plan or "Bitmap Index Scan on task_pkey" in plan, plan
    assert "Seq Scan on task" not in plan, plan


@pytest.mark.parametrize(
    ("statement", "values"),
    [
        ("items", {"keys": ["k/1", "none"], "grace": 15.0}),
        ("item_keys", {"prefix": "k/5", "after": "k/500", "limit": 10}),
        ("put_item", {"key": "k/1", "value": b"", "until": None, "holder": None, "local": 0.0, "absent": False}),
        ("drop_item", {"key": "k/1", "expect": None, "mine": None, "known": False}),
        ("end_items", {"ended": [1]}),
    ],
)
def test_an_item_of_many(database: str, statement: str, values: dict[str, object]) -> None:
    """Among fifty thousand items, half of which have a time, indexes lead to one, to a page, and to the past ones."""
    address = queue_in(database)
    names = Names(address)
    with psycopg.connect(database, autocommit=True, cursor_factory=psycopg.ClientCursor) as connection:
        connection.execute(
            "INSERT INTO unspool.item (spooler, key, value, until) "
            "SELECT %s, 'k/' || n, '', CASE WHEN n %% 2 = 0 THEN 1e10 + n END FROM generate_series(1, 50000) AS n",
            [address.spooler],
        )
        try:
            connection.execute("VACUUM ANALYZE unspool.item")
            given = {"clock": None, "processes": PROCESSES, "spooler": names.spooler, "channel": names.item_channel}
            rows = connection.execute(f"EXPLAIN {sql.statement(statement)}", given | values).fetchall()
            plan = "\n".join(line for (line,) in rows)
            assert "Seq Scan on item" not in plan, plan
        finally:
            connection.execute("DELETE FROM unspool.item WHERE spooler = %s", [address.spooler])
