"""Sending tasks to a directory: each is complete or absent, from any process, whatever the disk does."""

import os
import signal
import stat
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from unspool import Message, Spooler, codec, configure, inspection, raw_message, wire
from unspool.backends.spool import SpoolBackend
from unspool.errors import NoSpooler, OptionRefused, PayloadRefused, SpoolerUnusable
from unspool.message import State
from unspool.testing.exchange import sealed


@Spooler.task
def add(a: object, b: object = 2) -> bool:
    """A task to send."""
    return True


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    """A configured spooler."""
    path = tmp_path / "mail"
    configure(spoolers=[path], durability="full")
    return path


def files(spool: Path) -> list[Path]:
    """Return the task files of a spooler."""
    return sorted(path for path in spool.rglob("uwsgi_spoolfile_on_*") if ".unspool" not in path.parts)


def leftovers(spool: Path) -> list[Path]:
    """Return the files of an unfinished send."""
    return list((spool / ".unspool" / "tmp").iterdir())


def test_a_call_returns_the_absolute_path_of_its_file(spool: Path) -> None:
    """The id is the path of the file. The directory and the file are private."""
    path = Path(add(1))
    assert path.is_absolute()
    assert path.parent == spool
    assert stat.S_IMODE(spool.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert files(spool) == [path]


def test_a_priority_is_a_directory_and_a_due_time_the_mtime(spool: Path) -> None:
    """They are where uWSGI puts them: a sub-directory with the number as its name, and an mtime in the future."""
    due = datetime.now(UTC) + timedelta(hours=1)
    path = Path(add.using(priority=7, postpone=due)(1))
    assert path.parent == spool / "7"
    assert path.stat().st_mtime == pytest.approx(due.timestamp(), abs=1e-6)


def test_a_datetime_in_the_past_runs_now(spool: Path) -> None:
    """It means at once."""
    path = Path(add.using(postpone=datetime(1999, 1, 1))(1))
    assert abs(path.stat().st_mtime - datetime.now().timestamp()) < 60
    assert [entry.state for entry in inspection.tasks(SpoolBackend(str(spool)))] == [State.READY]


def test_get_tasks_covers_all_in_the_order_of_running(spool: Path, tmp_path: Path) -> None:
    """The list has all spoolers and priorities, ready tasks before deferred ones."""
    other = tmp_path / "other"
    configure(spoolers=[spool, other])
    late = add.using(postpone=timedelta(hours=2))(1)
    later = add.using(postpone=timedelta(hours=3), priority=0)(1)
    plain = [add(n) for n in range(3)]
    five, one = add.using(priority=5)(1), add.using(priority=1)(1)
    elsewhere = add.using(spooler="other")(1)
    assert Spooler.get_tasks() == [one, five, *plain, late, later, elsewhere]
    assert Spooler.get_tasks(limit=2) == [one, five, elsewhere]


def test_read_task_file_tells_all_and_unpickles_nothing(spool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It accepts an absolute or relative path and a name. A payload that would run code when unpickled stays bytes."""
    path = Spooler.send_message_raw("hello", priority=3, payload={"k": 1})
    info = Spooler.read_task_file(path)
    assert info["msg"] == "hello"
    assert info["priority"] == 3
    assert info["spooler"] == str(spool)
    assert info["spooler_task_name"] == os.path.basename(path)
    assert (info["attempts"], info["state"], info["function"]) == (0, "ready", "hello")
    assert info["size"] == os.path.getsize(path)
    assert isinstance(info["body"], bytes)
    monkeypatch.chdir(spool)
    assert Spooler.read_task_file(os.path.relpath(path)) == info
    assert Spooler.read_task_file(os.path.basename(path)) == info
    assert Spooler.read_task_file("nothing") == {}
    assert Spooler.read_task_file("/no/such/uwsgi_spoolfile_on_x") == {}


def test_many_at_once_from_threads_processes_and_forks(spool: Path) -> None:
    """No task is lost or overwritten when threads, forks and other processes send together."""
    ids: list[str] = []
    threads = [threading.Thread(target=lambda: ids.extend(add(n) for n in range(50))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    children = []
    for _ in range(4):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                for n in range(50):
                    add(n)
                status = 0
            finally:
                os._exit(status)
        children.append(pid)
    code = "from unspool import Spooler\nfor n in range(50): Spooler.send_message_raw('x')"
    environment = os.environ | {"UNSPOOL_SPOOLERS": str(spool)}
    others = [subprocess.Popen([sys.executable, "-c", code], env=environment) for _ in range(2)]
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * 4
    assert [other.wait() for other in others] == [0, 0]
    assert len(set(ids)) == 400
    assert len(files(spool)) == 400 + 200 + 100
    assert leftovers(spool) == []


def test_a_fork_in_the_middle_of_another_threads_first_use(spool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is forked while another thread creates the directory of a priority can send."""
    add(1)
    children: list[int] = []
    make = os.mkdir

    def mkdir(*args: Any, **kwargs: Any) -> None:
        if not children:
            children.append(os.fork())
            if children[0] == 0:
                signal.alarm(20)
                worker = threading.Thread(target=lambda: add.using(priority=7)(2))
                worker.start()
                worker.join()
                os._exit(0)
        make(*args, **kwargs)

    monkeypatch.setattr(os, "mkdir", mkdir)
    add.using(priority=5)(3)
    assert os.waitpid(children[0], 0)[1] == 0
    assert len(files(spool)) == 3


def test_a_batch_returns_ids_in_order(spool: Path) -> None:
    """enqueue_many and send_many return ids in the order of the calls, and the tasks have the same order."""
    ids = add.enqueue_many([1, (2, 3), {"a": 4}])
    ids += Spooler.send_many([add.message(5), raw_message("raw", payload=1)])
    assert [Path(id).exists() for id in ids] == [True] * 5
    assert Spooler.get_tasks() == ids
    assert Spooler.send_many([]) == []


def test_a_batch_with_a_bad_argument_sends_nothing(spool: Path) -> None:
    """The refusal comes before anything is written."""
    with pytest.raises(PayloadRefused):
        add.enqueue_many([1, threading.Lock(), 3])
    assert not spool.exists()


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: add(1, threading.Lock()), "argument 2"),
        (lambda: add(1, b=threading.Lock()), "argument 'b'"),
        (lambda: Spooler.send_message_raw("x", payload=threading.Lock()), "the payload (a lock)"),
        (lambda: add.using(serializer="json")({1, 2}), "argument 1"),
    ],
)
def test_what_cannot_be_sent_is_named(spool: Path, call: object, named: str) -> None:
    """An argument that another process cannot rebuild is refused by the call, and named."""
    with pytest.raises(PayloadRefused, match=named.replace("(", r"\(").replace(")", r"\)")):
        call()  # type: ignore[operator]
    assert not spool.exists()


@pytest.mark.parametrize("priority", [-1, "3", "../../x", 1.5, True, 10**9])
def test_bad_priorities_are_refused(spool: Path, priority: object) -> None:
    """Negative, textual, path-like, fractional or huge priorities never become a directory."""
    with pytest.raises(OptionRefused, match="priority"):
        Spooler.send_message_raw("x", priority=priority)  # type: ignore[arg-type]
    with pytest.raises(OptionRefused, match="priority"):
        add.using(priority=priority)
    assert not spool.exists()


def test_no_spooler_configured() -> None:
    """The error says what to set."""
    with pytest.raises(NoSpooler, match="UNSPOOL_SPOOLERS"):
        add(1)
    with pytest.raises(NoSpooler, match="no spooler is named 'nobody'"):
        add.using(spooler="nobody")(1)
    assert Spooler.get_by_basename("nobody") is None
    assert Spooler.get_spoolers() == []
    assert Spooler.get_tasks() == []
    assert Spooler.get_pids() == []
    with pytest.raises(NoSpooler):
        Spooler.set_period(3)


def test_a_path_that_is_a_file(tmp_path: Path) -> None:
    """An error says so, and the file is left alone."""
    path = tmp_path / "mail"
    path.write_text("mine")
    configure(spoolers=[path])
    with pytest.raises(SpoolerUnusable, match="it is a file; name a directory"):
        add(1)
    assert path.read_text() == "mine"


def test_a_world_writable_directory_is_refused(tmp_path: Path) -> None:
    """Everyone could put code there."""
    path = tmp_path / "mail"
    path.mkdir()
    path.chmod(0o777)
    configure(spoolers=[path])
    with pytest.raises(SpoolerUnusable, match="may be written by everybody"):
        add(1)


def test_a_directory_that_is_not_writable(tmp_path: Path) -> None:
    """The directory of another user gives one clear error. This runs as an ordinary user, because root may write
    anywhere.
    """
    path = tmp_path / "mail"
    path.mkdir(mode=0o755)
    tmp_path.chmod(0o755)
    code = (
        "import os, sys, unspool, unspool.registry\n"
        "unspool.registry.backend(sys.argv[1])  # imports all that is needed, while this user may\n"
        "if os.geteuid() == 0: os.setgid(65534); os.setuid(65534)\n"
        "else: os.chmod(sys.argv[1], 0o500)\n"
        "try: unspool.Spooler.send_message_raw('x', spooler=sys.argv[1])\n"
        "except unspool.UnspoolError as error: print(type(error).__name__, error)\n"
    )
    for folder in [path, *path.parents]:  # the ordinary user must get as far as the directory itself
        if (
            folder.stat().st_mode & 0o001 == 0
            and os.geteuid() == 0
            and str(folder).startswith(str(tmp_path.parents[1]))
        ):
            folder.chmod(folder.stat().st_mode | 0o011)
    found = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert found.stdout.startswith("SpoolerUnusable"), found.stdout
    assert "not writable" in found.stdout or "may not use it" in found.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
@pytest.mark.root
def test_a_full_disk(tmp_path: Path) -> None:
    """Sending raises and leaves no files. Earlier tasks can still run, which makes room."""
    mount = tmp_path / "small"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k,nr_inodes=64,mode=700", "tmpfs", mount], check=True)
    try:
        backend = SpoolBackend(str(mount / "mail"))
        big = sealed(codec.encode(raw_message("hello", payload="x" * 20_000)))
        sent: list[str] = []

        def fill() -> None:
            while len(sent) < 64:
                sent.extend(backend.send([big]))

        with pytest.raises(SpoolerUnusable, match="the disk is full"):
            fill()
        with pytest.raises(SpoolerUnusable, match="the disk is full"):
            backend.send([big] * 20)
        assert leftovers(mount / "mail") == []
        assert [entry.id for entry in inspection.tasks(backend)] == sent
        assert len(sent) > 3
        from unspool.testing import run_all

        assert len(run_all(backend)) == len(sent)
        assert backend.counts().tasks[State.READY] == 0
        backend.send([big])
    finally:
        backend.close()
        subprocess.run(["umount", mount], check=True)


def test_the_directory_is_made_again_if_it_was_removed(spool: Path) -> None:
    """A producer that had it open sends to a new one."""
    import shutil

    add(1)
    shutil.rmtree(spool)
    path = Path(add(2))
    assert path.exists()


def test_messages_are_frozen() -> None:
    """The values at the time of the call are sent."""
    message = Message("x")
    with pytest.raises(AttributeError):
        message.message = "y"  # type: ignore[misc]


def test_looking_makes_nothing(tmp_path: Path) -> None:
    """Listings of a directory that only uWSGI has used do not change it, nor the attempts of its tasks."""
    mail = tmp_path / "mail"
    mail.mkdir(mode=0o700)
    task = mail / "uwsgi_spoolfile_on_host_1_1_1_1700000000_000001"
    task.write_bytes(wire.dump({"msg": b"hello"}, b"", None))
    before = mail.stat().st_mtime_ns
    configure(spoolers=[str(mail)])
    assert Spooler.get_tasks() == [str(task)]
    assert Spooler.read_task_file(str(task))["attempts"] == 0
    assert os.listdir(mail) == [task.name]
    assert mail.stat().st_mtime_ns == before
