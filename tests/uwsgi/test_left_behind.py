"""One directory for two programs: tasks that real uWSGI has left are drained, and real uWSGI runs tasks of unspool."""

import textwrap
from collections.abc import Callable
from pathlib import Path

from unspool import Spooler, SpoolerTask, TaskResult, codec, configure, inspection, spooler_task_types, wire
from unspool.backends.spool import SpoolBackend
from unspool.message import State
from unspool.testing import run_all

Run = Callable[..., None]
ran: list[object] = []


@Spooler.task
def with_arguments(a: int, b: str = "b") -> None:
    """A function for a message of ``@spool(pass_arguments=True)``. Its result does not matter."""
    ran.append(("with_arguments", a, b))


@Spooler.task
def with_message(message: dict[str, str]) -> None:
    """A function for a message of plain ``@spool``, which takes the message itself."""
    ran.append(("with_message", message["name"], message["body"]))


@Spooler.task
def raw(message: dict[str, str]) -> int:
    """A function for a message of ``@spoolraw``, which returns uWSGI's own codes."""
    ran.append(("raw", message["name"]))
    return -2


@Spooler.task
def of_uwsgiconf(a: str, *, b: int) -> bool:
    """A function for a call of uwsgiconf, which names functions without their module."""
    ran.append(("of_uwsgiconf", a, b))
    return True


def test_what_uwsgidecorators_and_uwsgiconf_left_is_drained(
    tmp_path: Path, run_uwsgi: Run, only_own_tasks: None
) -> None:
    """Messages of @spool with and without arguments, of @spoolraw, and of uwsgiconf's layout, with their priorities."""
    spool = tmp_path / "mail"
    spool.mkdir(mode=0o700)
    (tmp_path / "sender.py").write_text(
        textwrap.dedent("""
        import pickle
        import uwsgi
        uwsgi.opt.setdefault("spooler", b"")
        from uwsgidecorators import spool, spoolraw

        @spool(pass_arguments=True)
        def with_arguments(a, b="b"): pass
        @spool
        def with_message(message): pass
        @spoolraw
        def raw(message): pass

        with_arguments(1, b="two")
        with_message({"name": "plain"}, body="a body")
        raw({"name": "raw", "priority": "3"})
        call = {"spooler": None, "priority": None, "postpone": None}
        call |= {"func": "of_uwsgiconf", "arg": ("x",), "kwg": {"b": 1}}
        uwsgi.spool({b"msg": b"ucfg_fcall", b"body": pickle.dumps({"payload": call})})
        uwsgi.spool({b"colour": b"blue"})
        open("done", "w").close()
        uwsgi.mule_get_msg()
        """)
    )
    run_uwsgi(f"--spooler-external={spool}", f"--mule={tmp_path / 'sender.py'}")
    backend = SpoolBackend(str(spool))
    assert [entry.task for entry in inspection.tasks(backend)] == [
        "raw",
        "with_arguments",
        "with_message",
        "fcall",
        "?",
    ]
    ran.clear()
    run_all(backend)
    assert ran == [
        ("raw", "raw"),
        ("with_arguments", 1, "two"),
        ("with_message", "plain", "a body"),
        ("of_uwsgiconf", "x", 1),
    ]
    (kept,) = inspection.tasks(backend)  # no function here handles a bare message, so it waits
    assert kept.state is State.DEFERRED


def test_real_uwsgi_runs_what_unspool_sent(tmp_path: Path, run_uwsgi: Run) -> None:
    """Its handler gets our variables and body, with every priority, and uWSGI removes the files."""
    spool = tmp_path / "mail"
    configure(spoolers=[spool])
    with_arguments(1, "x" * 100_000)
    with_arguments.using(priority=4)(2)
    Spooler.send_message_raw("hello", payload=[1, 2])
    (tmp_path / "handler.py").write_text(
        textwrap.dedent("""
        import os, pickle
        import uwsgi
        seen = []
        here = os.path.dirname(__file__)  # a spooler works in its directory
        def handle(env):
            body = pickle.loads(env["body"])["payload"]
            seen.append((env[b"msg"].decode(), body["func"] + " %d %d" % (body["arg"][0], len(body["arg"])))
                        if env[b"msg"] == b"ucfg_fcall" else (env[b"msg"].decode(), str(body)))
            if len(seen) == 3:
                with open(here + "/seen", "w") as file:
                    file.write(repr(seen))
                open(here + "/done", "w").close()
            return uwsgi.SPOOL_OK
        uwsgi.spooler = handle
        """)
    )
    run_uwsgi(f"--spooler={spool}", "--spooler-ordered", "--spooler-import=handler", "--spooler-frequency=1")
    seen = eval((tmp_path / "seen").read_text(), {})  # noqa: S307  written by the test's own program
    assert seen == [("ucfg_fcall", "with_arguments 2 1"), ("ucfg_fcall", "with_arguments 1 2"), ("hello", "[1, 2]")]


def test_the_format_is_uwsgis_own(tmp_path: Path, run_uwsgi: Run) -> None:
    """A file of uWSGI can be read. With the same variables, unspool's file differs only by the seal."""
    spool = tmp_path / "mail"
    spool.mkdir(mode=0o700)
    (tmp_path / "sender.py").write_text(
        "import uwsgi\n"
        "uwsgi.spool({b'msg': b'x' * 300, b'k': b'', b'body': b'BODY'})\n"
        "open('done', 'w').close()\n"
        "uwsgi.mule_get_msg()\n"
    )
    run_uwsgi(f"--spooler-external={spool}", f"--mule={tmp_path / 'sender.py'}")
    (path,) = spool.glob("uwsgi_spoolfile_on_*")
    data = path.read_bytes()
    envelope = wire.load(data, None)
    assert dict(envelope.vars) == {"msg": b"x" * 300, "k": b""}
    assert (envelope.body, envelope.sealed) == (b"BODY", False)
    ours = wire.dump(envelope.vars, envelope.body, None)
    seal = ours.index(b"\x0b\x00unspool_sum")
    variables = data[4 : -len(b"BODY")]
    assert ours[4:seal] == variables
    assert (ours[0], data[0]) == (17, 17)
    assert ours.endswith(b"BODY")


def test_registries_are_the_seeds() -> None:
    """The names that programs for uwsgiconf use exist."""
    assert spooler_task_types["fcall"].type_id == "fcall"
    assert issubclass(SpoolerTask.mark_processed, TaskResult)
    assert codec.FCALL == "ucfg_fcall"
