"""Leaving uWSGI: programs that real uWSGI has run, and their remaining tasks, in a worker without uWSGI."""

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from unspool import inspection
from unspool.backends.spool import SpoolBackend
from unspool.message import State

from .instance import Instance

Run = Callable[..., None]
PATIENCE = 100
UWSGICONF = "uwsgiconf>=2.4,<3"
START = """
import os
import uwsgi
here = os.path.dirname(os.path.abspath(__file__))

def note(*words, end=None):
    with open(here + "/ran", "a+") as file:
        file.write(repr(words) + "\\n")
        file.flush()
        file.seek(0)
        if len(set(file)) == end:
            open(here + "/done", "w").close()
"""
DECORATED = (
    START
    + """
from uwsgidecorators import spool, spoolforever, spoolraw

@spool
def plain(message):
    note("plain", message["name"], message["body"], message["spooler_task_name"][:18], end=10)

@spool(pass_arguments=True)
def with_arguments(a, b="b"):
    note("with_arguments", a, b, end=10)

@spoolraw
def raw(message):
    note("raw", message["name"], message.get("priority"), end=10)
    return uwsgi.SPOOL_OK

@spoolraw(pass_arguments=True)
def returning(code):
    note("returning", code, end=10)
    return code

@spoolforever()
def forever(message):
    note("forever", message["name"], end=10)

@spoolforever(pass_arguments=True)
def forever_with_arguments(n):
    note("forever_with_arguments", n, end=10)
"""
)
SEND = """
import uwsgi
import shop
shop.plain({"name": "Ann"}, body="BODY")
shop.plain.spool({b"name": b"the old way"}, body=b"x" * 100_000)
shop.with_arguments(1, b="two")
shop.with_arguments("later", at="4000000000")
shop.raw({"name": "Bob", "priority": "3"})
shop.raw(name="Cleo")
for code in (uwsgi.SPOOL_OK, uwsgi.SPOOL_RETRY, uwsgi.SPOOL_IGNORE):
    shop.returning(code)
shop.forever({"name": "Dan"})
shop.forever_with_arguments(7)
"""
RAN = sorted(
    [
        ("plain", "Ann", "BODY", "uwsgi_spoolfile_on"),
        ("plain", "the old way", "x" * 100_000, "uwsgi_spoolfile_on"),
        ("with_arguments", 1, "two"),
        ("raw", "Bob", "3"),
        ("raw", "Cleo", None),
        ("returning", -2),
        ("returning", -1),
        ("returning", 0),
        ("forever", "Dan"),
        ("forever_with_arguments", 7),
    ],
    key=str,
)


def left(program: str) -> str:
    """Return the program with only its imports changed."""
    return program.replace("import uwsgi\n", "from unspool.compat import uwsgi\n").replace(
        "from uwsgidecorators", "from unspool.compat.uwsgidecorators"
    )


class Shop:
    """A program, the directory of its tasks, and what they have noted."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.spool = root / "mail"
        self.spool.mkdir(mode=0o700)
        (root / "empty").mkdir(mode=0o700)
        self.external = (f"--spooler-external={self.spool}", f"--spooler={root / 'empty'}")
        self.backend = SpoolBackend(str(self.spool))

    def write(self, shop: str, send: str) -> None:
        """Write the program: its tasks, and the code that sends them."""
        (self.root / "shop.py").write_text(textwrap.dedent(shop))
        (self.root / "send.py").write_text(textwrap.dedent(send))

    def send_in_uwsgi(self, run: Run, *options: str) -> None:
        """Send from a mule of real uWSGI, in which no process runs tasks."""
        (self.root / "mule.py").write_text("import uwsgi, send\nopen('done', 'w').close()\nuwsgi.mule_get_msg()\n")
        run(*self.external, f"--mule={self.root / 'mule.py'}", *options)

    def run(self, *command: str) -> None:
        """Run a command of this Python with the spooler configured."""
        env = os.environ | {"UNSPOOL_SPOOLERS": str(self.spool), "UNSPOOL_DURABILITY": "relaxed"}
        done = subprocess.run(
            [sys.executable, *command],
            cwd=self.root,
            env=env,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, done.stderr

    def drain(self) -> None:
        """Run all ready tasks in a real worker."""
        self.run("-m", "unspool", "run", "shop.py", "--burst")

    def run_inside(self, instance: Instance, then: list[tuple[str, State]]) -> None:
        """Send and run in one real uWSGI, until these tasks are waiting."""
        instance.write_app("import shop")
        instance.start(spoolers=(self.spool.name,))
        instance.do("import send")
        instance.wait(lambda: self.waiting() == then, str(then))

    def lines(self) -> list[str]:
        """Return what tasks have noted since the last call."""
        path = self.root / "ran"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return lines

    def ran(self) -> list[tuple[object, ...]]:
        """Return the same, sorted."""
        return sorted((eval(line, {}) for line in self.lines()), key=str)  # noqa: S307  the test's own program wrote it

    def waiting(self) -> list[tuple[str, State]]:
        """Return the remaining tasks and their states."""
        return sorted((entry.task.rpartition(":")[2], entry.state) for entry in inspection.tasks(self.backend))


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    """A program of its own."""
    here = Shop(tmp_path)
    yield here
    here.backend.close()


AGAIN = [
    ("forever", State.DEFERRED),
    ("forever_with_arguments", State.DEFERRED),
    ("returning", State.DEFERRED),
    ("with_arguments", State.DEFERRED),
]


def test_uwsgidecorators_left_by_changed_imports(shop: Shop, run_uwsgi: Run) -> None:
    """Tasks of each decorator that were sent in real uWSGI run afterwards, and so do those that the changed program
    sends.
    """
    shop.write(DECORATED, SEND)
    shop.send_in_uwsgi(run_uwsgi)
    assert len(shop.waiting()) == len(RAN) + 1
    shop.write(left(DECORATED), left(SEND))
    shop.drain()
    assert shop.ran() == RAN
    assert shop.waiting() == AGAIN  # tasks that asked for it, one that runs forever, and one that is not due
    shop.run("send.py")
    shop.drain()
    assert shop.ran() == RAN
    assert shop.waiting() == sorted(AGAIN * 2)


def test_real_uwsgidecorators_run_what_the_changed_program_sends(shop: Shop, run_uwsgi: Run) -> None:
    """The way back works: the unchanged program in real uWSGI runs the tasks of the changed one."""
    shop.write(left(DECORATED), left(SEND))
    shop.run("send.py")
    shop.write(DECORATED, SEND)
    run_uwsgi(f"--spooler={shop.spool}", "--spooler-ordered", "--spooler-import=shop", "--spooler-frequency=1")
    assert sorted(set(shop.ran()), key=str) == RAN
    assert {task for task, _ in shop.waiting()} >= {"forever", "forever_with_arguments", "returning"}


def test_the_changed_program_runs_inside_uwsgi(shop: Shop, instance: Instance) -> None:
    """Imports can be changed first, and uWSGI left later."""
    shop.write(left(DECORATED), left(SEND))
    shop.run_inside(instance, AGAIN)
    assert shop.ran() == RAN


def test_what_uwsgi_could_not_finish(shop: Shop, run_uwsgi: Run) -> None:
    """Tasks that uWSGI's spooler ran in vain, or runs forever, continue where it was stopped."""
    program = (
        START
        + """
from uwsgidecorators import spool, spoolforever

@spool
def deliver(message):
    note("tried", message["to"], end=2)
    with open(here + "/network"):
        note("delivered", message["to"])

@spoolforever(pass_arguments=True)
def tick(name):
    note("tick", name, end=2)
"""
    )
    shop.write(program, "import shop\nshop.deliver({'to': 'ann'})\nshop.tick('tock')\n")
    shop.send_in_uwsgi(run_uwsgi)
    run_uwsgi(f"--spooler={shop.spool}", "--spooler-import=shop", "--spooler-frequency=1")
    assert set(shop.ran()) == {("tried", "ann"), ("tick", "tock")}
    (shop.root / "network").touch()
    shop.write(left(program), "")
    shop.drain()
    assert shop.ran() == [("delivered", "ann"), ("tick", "tock"), ("tried", "ann")]
    assert shop.waiting() == [("tick", State.DEFERRED)]


def test_a_bare_spooler_function(shop: Shop, run_uwsgi: Run, instance: Instance) -> None:
    """A program's own ``uwsgi.spooler`` gets the same dict from uWSGI, from the worker, and from unspool inside
    uWSGI.
    """
    program = (
        START
        + """
def handle(env):
    name = env.pop("spooler_task_name")
    note(type(name), env, end=5)
    if b"again" in env:
        return uwsgi.SPOOL_RETRY
    return uwsgi.SPOOL_OK

uwsgi.spooler = handle
"""
    )
    changed = left(program).replace("uwsgi.spooler = handle", "uwsgi.spooler_handler(handle)")
    send = """
    import uwsgi
    uwsgi.spool({b"to": b"ann"})
    uwsgi.spool({b"to": b"ann", b"body": b"not a pickle" * 10_000})
    uwsgi.spool({b"msg": b"of its own", b"body": b"not a pickle", b"priority": b"4"})
    uwsgi.spool({b"k\\xff": b"\\xff\\x00", b"at": b"1"})
    uwsgi.spool({b"again": b""})
    """
    shop.write(program, send)
    shop.send_in_uwsgi(run_uwsgi)
    run_uwsgi(f"--spooler={shop.spool}", "--spooler-ordered", "--spooler-import=shop", "--spooler-frequency=1")
    in_uwsgi = sorted(set(shop.lines()))
    assert len(in_uwsgi) == 5
    for path in shop.spool.rglob("uwsgi_spoolfile_on_*"):
        path.unlink()  # the one that asked to be run again

    shop.send_in_uwsgi(run_uwsgi)
    shop.write(changed, left(send))
    shop.drain()
    assert sorted(shop.lines()) == in_uwsgi
    assert shop.waiting() == [("?", State.DEFERRED)]

    shop.run("send.py")
    shop.drain()
    assert sorted(shop.lines()) == in_uwsgi
    assert shop.waiting() == [("?", State.DEFERRED)] * 2

    shop.run_inside(instance, [("?", State.DEFERRED)] * 3)
    lines = shop.lines()
    again = [line for line in lines if "again" in line]  # on a slow machine it may have been run again by now
    assert sorted([line for line in lines if line not in again] + again[:1]) == in_uwsgi


@pytest.fixture(scope="session")
def uwsgiconf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with uwsgiconf itself, which cannot be installed beside unspool's module of the same name."""
    place = tmp_path_factory.mktemp("uwsgiconf")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", f"--target={place}", UWSGICONF]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250, check=False)
    if done.returncode and os.environ.get("CI"):
        pytest.fail(f"{UWSGICONF} cannot be installed, and CI must have it: {done.stderr}")
    if done.returncode:
        pytest.skip(f"{UWSGICONF} cannot be installed: {done.stderr.splitlines()[-1:]}")
    return place


def test_uwsgiconf_itself(shop: Shop, run_uwsgi: Run, uwsgiconf: Path) -> None:
    """Functions, subclasses of ``SpoolerTask`` and raw messages that uwsgiconf sends in real uWSGI run with the
    unchanged program.
    """
    program = """
    import os
    from uwsgiconf.runtime import spooler
    from uwsgiconf.runtime.spooler import Spooler, SpoolerTask
    here = os.path.dirname(os.path.abspath(__file__))

    def note(*words):
        with open(here + "/ran", "a") as file:
            file.write(repr(words) + "\\n")

    @Spooler.task()
    def add(a, b="b"):
        note("add", a, b)

    @Spooler.task(priority=2)
    def urgent(text):
        note("urgent", len(text))
        return True

    class Cleanup(SpoolerTask):
        type_id = "cleanup"
        __slots__ = ()

        def process(self):
            note(self.message, self.payload["days"], self.name[:18])
            return self.mark_processed()
    """
    send = """
    import shop
    assert shop.spooler.__file__.startswith(PLACE), shop.spooler.__file__
    shop.add(1, b=[2, 3])
    shop.urgent("x" * 200_000)
    call = shop.Cleanup.build_message(None, None, None, payload={"days": 30})
    shop.Spooler.send_message_raw(**call)
    shop.Spooler.send_message_raw("hello", payload=[1])
    shop.Spooler.send_message_raw("y" * 70_000)
    """
    shop.write(program, send.replace("PLACE", repr(str(uwsgiconf))))
    shop.send_in_uwsgi(run_uwsgi, f"--pythonpath={uwsgiconf}")
    assert len(shop.waiting()) == 5
    shop.drain()
    assert shop.ran() == [("add", 1, [2, 3]), ("ucfg_cleanup", 30, "uwsgi_spoolfile_on"), ("urgent", 200_000)]
    assert shop.waiting() == []
    runs = sorted((record.task, record.verdict) for record in inspection.runs(shop.backend))
    assert runs == [
        ("?", "processed"),  # a text of 64 KiB or more is in the body
        ("cleanup", "processed"),
        ("fcall", "processed"),
        ("fcall", "skipped"),
        ("hello", "processed"),
    ]
