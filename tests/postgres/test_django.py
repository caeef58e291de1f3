"""Django's database connections in tasks, also after restarts of the database."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ..runtime.conftest import Place
from ..uwsgi.conftest import require_uwsgi
from ..uwsgi.instance import Instance
from .server import Server, serving

TASKS = """
import django
from asgiref.sync import sync_to_async
from django.conf import settings
from unspool import Spooler

settings.configure(DATABASES={{"default": {{
    "ENGINE": "django.db.backends.postgresql", "NAME": "postgres", "USER": "postgres", "HOST": "127.0.0.1",
    "PORT": {port}, "CONN_MAX_AGE": {age},
}}}})
django.setup()

def query(name):
    from django.db import connection
    with connection.cursor() as cursor:
        cursor.execute("select 1")
    note(name)
    return True

@Spooler.task
def ask(name):
    return query(name)

@Spooler.task
async def ask_async(name):
    return await sync_to_async(query)(name)

def process():
    from django.db import connection
    with connection.cursor() as cursor:
        cursor.execute("select pg_backend_pid()")
        return cursor.fetchone()[0]

@Spooler.task
async def look():
    from django.db import connection
    note("kept", await sync_to_async(lambda: connection.connection is not None)())
    return True

@Spooler.task
async def block(gate):
    await sync_to_async(hold)(gate)
    return True

@Spooler.task
async def quick():
    return True

@Spooler.task
async def keep(gate):
    before = await sync_to_async(process)()
    await asyncio.to_thread(hold, gate)
    note("kept", before == await sync_to_async(process)())
    return True
"""


@pytest.fixture(scope="module")
def restarted() -> Iterator[Server]:
    """Yield a server that tests restart."""
    with serving() as server:
        yield server


@pytest.fixture
def worker(tmp_path: Path, restarted: Server) -> Iterator[Place]:
    """Return a place with a Django application that keeps its connections forever."""
    here = Place(tmp_path)
    here.write_app(TASKS.format(port=restarted.port, age=None))
    yield here
    here.close()


def test_tasks_go_on_after_a_restart_of_the_database(worker: Place, restarted: Server) -> None:
    """No run of a function or coroutine fails because the connection of the run before it was closed."""
    running = worker.run()
    for name in ("ask", "ask_async"):
        worker.call(f"{name}('before')")
        running.wait_for_verdict("processed", name)
    restarted.restart()
    for name in ("ask", "ask_async"):
        worker.call(f"{name}('first')")
        running.wait_for(lambda line, name=name: line.get("task") == f"tasks:{name}" and "verdict" in line)
        worker.call(f"{name}('second')")
        running.wait_for_verdict("processed", name)
    assert running.stop() == 0
    later = [line for line in running.seen if line.get("verdict") not in (None, "processed")]
    assert {line["reason"].partition(":")[0] for line in later} <= {"django.db.utils.OperationalError"}, later


def test_tasks_inside_uwsgi_go_on_after_a_restart_of_the_database(tmp_path: Path, restarted: Server) -> None:
    """No run in a spooler process of uWSGI fails because the connection of the run before it was closed."""
    require_uwsgi()
    here = Instance(tmp_path)
    here.write_app(TASKS.format(port=restarted.port, age=None))
    try:
        here.start()
        for name in ("ask", "ask_async"):
            here.do(f"{name}('before {name}')")
            here.wait_for_line(f"before {name}")
        restarted.restart()
        for name in ("ask", "ask_async"):
            first = here.do(f"{name}('first {name}')")
            here.wait(lambda first=first: here.verdicts(first))
            here.do(f"{name}('second {name}')")
            here.wait_for_line(f"second {name}")
    finally:
        here.close()


def test_old_connections_are_closed_unless_a_coroutine_uses_them(worker: Place, restarted: Server) -> None:
    """With CONN_MAX_AGE at 0, none is left after the runs of functions and coroutines; what ends beside a coroutine
    leaves it its connection."""
    worker.write_app(TASKS.format(port=restarted.port, age=0))
    running = worker.run()
    worker.gate("gate")
    worker.call("keep('gate')")
    worker.wait_for_line("begun gate")
    for name in ("ask", "ask_async"):
        worker.call(f"{name}('beside')")
        running.wait_for_verdict("processed", name)
    worker.open_gate("gate")
    running.wait_for_verdict("processed", "keep")
    worker.call("look()")
    running.wait_for_verdict("processed", "look")
    assert running.stop() == 0
    assert worker.lines()[-2:] == ["kept True", "kept False"]


def test_a_coroutine_does_not_wait_for_the_queries_of_others(worker: Place) -> None:
    """One whose thread of Django's is busy for long holds up none that makes no query."""
    running = worker.run()
    worker.gate("gate")
    worker.call("block('gate')")
    worker.wait_for_line("begun gate")
    worker.call("quick()")
    running.wait_for_verdict("processed", "quick")
    worker.open_gate("gate")
    running.wait_for_verdict("processed", "block")
    assert running.stop() == 0
    assert all(line.get("verdict") in (None, "processed") for line in running.seen)
