"""Tasks with a priority under a uWSGI that does not read their directories: none is left waiting."""

import os
import signal

import pytest

from unspool import inspection
from unspool.backends.change import RunNow
from unspool.message import State

from .instance import Instance, require

APP = """
from unspool import Spooler, registry

@Spooler.task
def mark(name):
    note("mark", name)
    return True

@Spooler.task
def held():
    hold("gate")
    return True

@Spooler.task(priority=4)
def held_urgent(gate="urgent"):
    hold(gate)
    note("through", gate)
    return True

@Spooler.task(priority=2, max_attempts=2, retry_delay=0.1)
def fails():
    note("fails")
    raise ValueError

@Spooler.task(priority=1)
def kills():
    note("kills")
    os.kill(os.getpid(), signal.SIGKILL)

@Spooler.task
def urges():
    mark.using(priority=1)("urgent")
    note("urges")
    return True

def send(*priorities):
    for priority in priorities:
        mark.using(priority=priority)(priority)
"""


def marks(instance: Instance) -> list[str]:
    """Return the marks, in order."""
    return [line.split()[1] for line in instance.lines() if line.startswith("mark ")]


@pytest.mark.parametrize("options", [(), ("--spooler-ordered",), ("--spooler-chdir=/",)])
def test_smaller_numbers_run_first_and_those_without_last(instance: Instance, options: tuple[str, ...]) -> None:
    """Tasks that were sent while the spooler was busy run by priority as soon as its task has ended, without a scan."""
    instance.write_app(APP)
    instance.gate("gate")
    instance.start(*options, frequency=3600)
    instance.do("held()")
    instance.wait_for_line("begun gate")
    instance.do("send(None, 7, 30, 0, None, 7)")
    instance.open_gate("gate")
    instance.wait(lambda: len(marks(instance)) == 6)
    if "--spooler-ordered" not in options:  # there one scan may have begun before they came
        assert marks(instance) == ["0", "7", "7", "30", "None", "None"]


def test_what_a_task_sends_with_a_priority_is_next(instance: Instance) -> None:
    """They run before all due tasks without a priority, although the process has just looked for a wakefile."""
    instance.write_app(APP)
    instance.start(frequency=3600)
    instance.backend.switch(paused=True)
    instance.do("mark('first')\nurges()\nmark('last')")
    instance.do("registry.backend().switch(paused=False)")
    instance.wait(lambda: len(instance.lines()) == 4)
    assert instance.lines() == ["mark first", "urges", "mark urgent", "mark last"]


def test_what_others_send_and_what_was_left_is_found(instance: Instance) -> None:
    """A task of a plain process wakes uWSGI. A task from before uWSGI's start is found."""
    instance.write_app(APP)
    instance.call("[send(5)]")
    instance.start(frequency=3600)
    instance.wait(lambda: marks(instance) == ["5"])
    instance.wait(lambda: not list((instance.spool / "5").glob("uwsgi_spoolfile_on_*")))  # or it would run again
    instance.stop()
    instance.start()
    instance.call("[send(6, 3)]")
    instance.wait(lambda: sorted(marks(instance)) == ["3", "5", "6"])
    instance.wait(lambda: not list(instance.spool.glob("uwsgi_spoolfile_on_*")))  # no bell rings for nothing


def test_failing_and_killing_and_deferred_tasks(instance: Instance) -> None:
    """A task that fails is found again at its time, one that kills its process by the next process, which also finds
    those behind it. A dead one that is retried by hand is found, too.
    """
    instance.write_app(APP)
    instance.start()
    failing = instance.do("fails()")
    instance.wait(lambda: instance.verdicts(failing)[-1:] == ["dead"])
    killing = instance.do("kills()")
    instance.do("send(8)")
    late = instance.do("mark.using(priority=9, postpone=timedelta(seconds=1))('late')")
    instance.wait(lambda: instance.verdicts(killing)[-1:] == ["dead"])
    instance.wait(lambda: instance.verdicts(late) == ["processed"])
    assert instance.verdicts(failing) == ["rescheduled", "dead"]
    assert instance.verdicts(killing) == ["crashed", "crashed", "crashed", "dead"]
    assert marks(instance) == ["8", "late"]
    found = inspection.find(instance.backend, failing)
    assert found is not None
    assert found.state is State.DEAD
    instance.backend.change(failing, RunNow())
    instance.wait_for_line("fails", 3)


def test_two_processes_run_them_side_by_side(instance: Instance) -> None:
    """A long task in one process delays neither later nor earlier tasks for the other process. When the first process
    is killed, the other one takes its task over.
    """
    instance.write_app(APP)
    instance.gate("urgent")
    instance.gate("second")
    instance.start("--spooler-processes=2", frequency=3600)
    instance.do("held_urgent()\nheld_urgent('second')")
    instance.wait_for_line("begun urgent")
    instance.wait_for_line("begun second")
    instance.open_gate("second")
    instance.wait_for_line("through second")
    instance.do("send(8)")
    instance.wait(lambda: marks(instance) == ["8"])
    (running,) = (entry.id for entry in inspection.tasks(instance.backend, frozenset({State.RUNNING})))
    victim = next(pid for pid in instance.pids() if has_open(pid, running))
    os.kill(victim, signal.SIGKILL)
    instance.wait_for_line("begun urgent", 2)
    instance.open_gate("urgent")
    instance.wait_for_line("through urgent")


def test_one_that_waits_in_line_keeps_no_other_from_being_run(instance: Instance) -> None:
    """While one process runs an urgent task, the other one can run the task that uWSGI had offered."""
    instance.write_app(APP)
    instance.gate("urgent")
    instance.start("--spooler-processes=2", frequency=3600)
    instance.backend.switch(paused=True)
    instance.do("send(*[None] * 6)\nheld_urgent()")
    instance.do("registry.backend().switch(paused=False)")
    instance.wait_for_line("begun urgent")
    instance.wait(lambda: len(marks(instance)) == 6)
    instance.open_gate("urgent")
    instance.wait_for_line("through urgent")


def test_what_uwsgi_itself_sent_is_found(instance: Instance) -> None:
    """A task with a priority that has no wakefile is found when the next task is run."""
    instance.write_app(APP)
    instance.start()
    message = (
        "b'ud_spool_func': b'mark', b'priority': b'4', b'args': pickle.dumps(('raw',)), b'kwargs': pickle.dumps({})"
    )
    instance.do(f"import pickle, uwsgi; uwsgi.spool({{{message}}})")
    instance.do("send(None)")
    instance.wait(lambda: sorted(marks(instance)) == ["None", "raw"])


def has_open(pid: int, path: str) -> bool:
    """Return whether the process has the file open."""
    links = f"/proc/{pid}/fd"
    return any(os.path.realpath(f"{links}/{fd}") == path for fd in os.listdir(links))


@pytest.mark.parametrize("options", [("--spooler-cheap",), ("--spooler-cheap", "--spooler-ordered")])
def test_a_cheap_spooler_is_started_for_them(instance: Instance, options: tuple[str, ...]) -> None:
    """uWSGI starts a process only for files among the tasks without a priority. The wakefile is one."""
    require(*options)
    instance.write_app(APP)
    instance.start(*options)
    instance.do("send(8, 2)\nmark.using(priority=3, postpone=timedelta(seconds=1))('late')")
    instance.wait(lambda: sorted(marks(instance)) == ["2", "8", "late"])


def test_priorities_that_are_none_are_refused(instance: Instance) -> None:
    """For a negative number, a fraction, text or a path, nothing is sent, and nothing is created outside of the
    spooler.
    """
    instance.write_app(APP)
    instance.start()
    for priority in ("-1", "1.5", "True", "'7'", "'../../x'", "10**9", "float('nan')"):
        for code in (f"mark.using(priority={priority})", f"Spooler.send_message_raw('m', priority={priority})"):
            with pytest.raises(RuntimeError, match="OptionRefused"):
                instance.do(code)
    assert sorted(os.listdir(instance.spool)) == [".unspool"]
