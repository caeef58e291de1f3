"""What a program can ask about its spoolers inside real uWSGI, from a mule and from a running task."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from unspool import inspection, wire
from unspool.message import State

from .instance import Instance

APP = """
import json, uwsgi
from unspool import Spooler, configure

@Spooler.task
def mark(name):
    note("mark", name)
    return True

def see():
    return {
        "spoolers": [spooler.name for spooler in Spooler.get_spoolers()],
        "named": Spooler.get_by_basename("second").name,
        "none": Spooler.get_by_basename("third"),
        "pids": Spooler.get_pids(),
        "tasks": Spooler.get_tasks(),
    }

@Spooler.task
def looks(gate):
    with open(HERE + "/seen", "w") as file:
        json.dump(see(), file)
    hold(gate)
    return True

@Spooler.task
def careful(text):
    path, = (task for task in Spooler.get_tasks() if Spooler.read_task_file(task)["state"] == "running")
    name = os.path.basename(path)
    by_link = HERE + "/link/" + name
    infos = [Spooler.read_task_file(one) for one in (path, name, by_link)]
    configure(durability="full")  # which forgets all that was open
    infos += [Spooler.read_task_file(one) for one in (path, name, by_link)]
    assert all(info["state"] == "running" and text.encode() in info["body"] for info in infos), infos
    Spooler.get_tasks()
    hold("gate")
    return True

@Spooler.task
def careless():
    path, = (task for task in Spooler.get_tasks() if Spooler.read_task_file(task)["state"] == "running")
    open(path).close()
    hold("gate")
    return True

def its_own(env):
    if b"careful" in env:
        info, = (info for info in map(Spooler.read_task_file, Spooler.get_tasks()) if info["state"] == "running")
        assert info["colour"] == "blue", info
    hold("gate")
    return uwsgi.SPOOL_OK

uwsgi.spooler = its_own
"""


def test_what_there_is(instance: Instance) -> None:
    """A mule and a task get the same answers: all spoolers, their processes, and their tasks including those with
    priorities.
    """
    instance.write_app(APP)
    instance.gate("gate")
    instance.start("--spooler-processes=2", spoolers=("myspooler", "second"), frequency=3600)
    running = instance.do("looks('gate')")
    instance.wait_for_line("begun gate")
    second = instance.root / "second"
    late = "postpone=timedelta(hours=1)"
    deferred = [
        instance.do(f"mark.using({late})('')"),
        instance.do(f"mark.using({late}, priority=3)('')"),
        instance.do(f"mark.using({late}, priority=2, spooler='{second}')('')"),
    ]
    assert Path(deferred[2]).parent == second / "2"
    seen = instance.do("see()")
    assert seen["spoolers"] == [str(instance.spool), str(second)]
    assert seen["named"] == str(second)
    assert seen["none"] is None
    assert seen["tasks"] == [running, *deferred]
    assert seen["pids"] == sorted(instance.pids())
    assert len(seen["pids"]) == 4
    from_task = json.loads((instance.root / "seen").read_text())
    assert from_task == {**seen, "tasks": [running]}
    info = instance.do(f"Spooler.read_task_file({running!r})")
    assert (info["state"], info["function"], info["attempts"]) == ("running", "app:looks", 1)
    assert instance.do("[type(pid).__name__ for pid in Spooler.get_pids()]") == ["int"] * 4
    os.kill(seen["pids"][0], signal.SIGKILL)
    instance.wait(lambda: len(instance.pids()) == 4 and instance.do("Spooler.get_pids()") != seen["pids"])
    instance.open_gate("gate")


@pytest.mark.parametrize(
    "send",
    ["careful('x' * 10)", "careless()", "uwsgi.spool({b'colour': b'blue', b'careful': b'yes'})"],
    ids=["careful", "careless", "of the program's own"],
)
def test_a_task_that_reads_its_own_file_runs_once(instance: Instance, send: str) -> None:
    """A lock of uWSGI would end when any descriptor of the file is closed in its process, and the other spooler process
    would run the task too. Ours does not, whether unspool reads the file, or the task itself with ``open``.
    """
    instance.write_app(APP)
    (instance.root / "link").symlink_to(instance.spool)
    instance.gate("gate")
    instance.start("--spooler-processes=2")
    instance.do(send)
    instance.wait_for_line("begun gate")
    (entry,) = inspection.tasks(instance.backend)
    assert entry.state is State.RUNNING  # as the kernel tells this process
    for n in range(3):
        instance.do(f"mark({n})")
        instance.wait_for_line(f"mark {n}")  # by the other process, which has seen the file then
    assert instance.lines().count("begun gate") == 1
    instance.open_gate("gate")
    instance.wait(lambda: not list(inspection.tasks(instance.backend)))
    assert instance.lines().count("begun gate") == 1


def test_the_period_is_uwsgis_frequency(instance: Instance) -> None:
    """It applies at once, in spoolers that would still wait for an hour, and stays: a file that is added without a
    wake-up is found, and so is the next.
    """
    instance.write_app(APP)
    instance.start(frequency=3600)
    assert instance.do("Spooler.set_period(1)") is True
    for n in range(2):
        vars = {"msg": b"ucfg_fcall", "unspool_task": b"app:mark"}
        body = {"payload": {"func": "mark", "arg": [n], "kwg": {}}}
        file = wire.dump({**vars, "unspool_codec": b"json"}, json.dumps(body).encode(), None)
        instance.drop(f"foreign_{n}", file)
        instance.wait_for_line(f"mark {n}")
    with pytest.raises(RuntimeError, match="OptionRefused"):
        instance.do("Spooler.set_period(0)")


def test_a_directory_that_cannot_be_used(instance: Instance) -> None:
    """The program starts, and logs once what is wrong. Each send raises it. The spooler process lives on, and leaves
    the offered tasks alone.
    """
    instance.write_app(APP)
    instance.spool.mkdir()
    (instance.spool / ".unspool").write_text("in the way")
    instance.start("--spooler-ordered", quiet=False)
    pids = instance.pids()
    for _ in range(2):
        with pytest.raises(RuntimeError, match=f"SpoolerUnusable.*{instance.spool}.*its directory .unspool is a file"):
            instance.do("mark(1)")
    foreign = instance.drop("foreign", wire.dump({"msg": b"ucfg_fcall"}, b"", None))
    instance.wait(lambda: instance.log.read_text().count("managing request") > 2)
    assert foreign.exists()
    assert instance.pids() == pids
    log = instance.log.read_text()
    assert log.count("its directory .unspool is a file; move it away") == 1
    assert "OOOPS" not in log
    assert "Traceback" not in log


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount a file system")
def test_a_directory_that_becomes_read_only(instance: Instance) -> None:
    """Sending raises with the reason. The spooler process lives on, and continues when the directory is
    writable again.
    """
    instance.write_app(APP)
    instance.spool.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "none", instance.spool], check=True)
    try:
        instance.start(quiet=False)
        pids = instance.pids()
        subprocess.run(["mount", "-o", "remount,ro", instance.spool], check=True)
        with pytest.raises(RuntimeError, match=f"SpoolerUnusable.*{instance.spool}.*read-only"):
            instance.do("mark('not')")
        subprocess.run(["mount", "-o", "remount,rw", instance.spool], check=True)
        instance.do("mark('after')")
        instance.wait_for_line("mark after")
        assert instance.lines() == ["mark after"]
        assert instance.pids() == pids
    finally:
        instance.close()
        subprocess.run(["umount", "--lazy", instance.spool], check=True)
