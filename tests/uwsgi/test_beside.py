"""Real uWSGI and ``unspool run`` drain one directory at the same time."""

import collections
import os
import random
import signal
import threading

from unspool import inspection
from unspool.backends.change import RunNow
from unspool.message import State

from .instance import Instance

APP = """
from unspool import ResultRescheduled, Spooler

ORACLE = os.open(HERE + "/ran", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

@Spooler.task
def count(number):
    os.write(ORACLE, b"%d %d %d\\n" % (number, os.getpid(), "uwsgi" in sys.modules))
    return True

@Spooler.task(max_attempts=3, retry_delay=0.1, retry_backoff=1, retry_jitter=0)
def fails(where):
    note("fails", where, "uwsgi" in sys.modules)
    raise ValueError(where)

@Spooler.task
def late(where, due):
    note("late", where, time.time() >= due)
    return True

@Spooler.task
def ranked(rank):
    note("ranked", rank)
    return True

@Spooler.task
def held(gate):
    hold(gate)
    return True

def fill(start, end, step=100):
    '''Most of them in batches; each fiftieth alone and with a priority.'''
    for first in range(start, end, step):
        numbers = range(first, min(first + step, end))
        count.enqueue_many([n for n in numbers if n % 50])
        for n in numbers:
            if n % 50 == 0:
                count.using(priority=n % 3)(n)

def send(where):
    '''One of each kind; their ids.'''
    due = time.time() + 0.5
    return [
        fails(where),
        fails.using(priority=2)(where),
        late.using(postpone=timedelta(seconds=due - time.time()))(where, due),
        late.using(postpone=timedelta(seconds=due - time.time()), priority=7)(where, due),
    ]
"""
TASKS = 10_000
PATIENCE = 250.0  # seconds, for so many tasks on a machine with other work


def ran(instance: Instance) -> collections.Counter[int]:
    """Return how often each number ran."""
    path = instance.root / "ran"
    return (
        collections.Counter(int(line.split()[0]) for line in path.read_text().splitlines())
        if path.exists()
        else (collections.Counter())
    )


def waiting(instance: Instance) -> int:
    """Return the number of tasks, by their names alone."""
    names = (name for _, _, names in os.walk(instance.spool) for name in names)
    return sum(name.startswith("uwsgi_spoolfile_on_") and "bell" not in name for name in names)


def fill_from_three_sides(instance: Instance) -> None:
    """Send from a mule of uWSGI and two plain processes at once."""
    third = TASKS // 3
    sides = [
        threading.Thread(target=instance.do, args=(f"fill(0, {third})",)),
        threading.Thread(target=instance.call, args=(f"fill({third}, {2 * third})",)),
        threading.Thread(target=instance.call, args=(f"fill({2 * third}, {TASKS})",)),
    ]
    for side in sides:
        side.start()
    for side in sides:
        side.join()


def test_each_of_many_tasks_runs_once(instance: Instance) -> None:
    """Three senders send ten thousand tasks, which both drain at once: each runs exactly once."""
    instance.patience = PATIENCE
    instance.write_app(APP)
    instance.start("--spooler-processes=2")
    instance.start_unspool("--processes=2")
    fill_from_three_sides(instance)
    instance.wait(lambda: waiting(instance) == 0)
    numbers = ran(instance)
    assert len(numbers) == TASKS
    assert set(numbers.values()) == {1}
    sides = {line.split()[2] for line in (instance.root / "ran").read_text().splitlines()}
    assert sides == {"0", "1"}  # both took part


def test_nothing_is_lost_by_random_kills(instance: Instance) -> None:
    """The same holds while spooler processes and workers are killed at random: each task runs, and at most once more
    per kill, which can interrupt only one task.
    """
    seed = int(os.environ.get("KILL_SEED", random.randrange(1 << 30)))
    print(f"KILL_SEED={seed}")
    dice = random.Random(seed)
    instance.patience = PATIENCE
    instance.write_app(APP)
    instance.start("--spooler-processes=2")
    supervisor = instance.start_unspool("--processes=2")
    filling = threading.Thread(target=fill_from_three_sides, args=(instance,))
    filling.start()
    kills = 0
    for share in range(1, 32):  # a kill for each part of the tasks, wherever its victim then is
        instance.wait(lambda share=share: len(ran(instance)) >= TASKS * share // 32)
        victims = dice.choice([instance.pids(), children(supervisor.pid)])
        kills += kill(dice.choice(victims)) if victims else 0
    filling.join()
    instance.wait(lambda: waiting(instance) == 0)
    numbers = ran(instance)
    assert len(numbers) == TASKS
    duplicates = sum(numbers.values()) - TASKS
    print(f"{kills} kills, {duplicates} duplicates")
    assert kills > 0
    assert duplicates <= kills
    assert {line.split()[2] for line in (instance.root / "ran").read_text().splitlines()} == {"0", "1"}
    assert instance.backend.counts().tasks == dict.fromkeys(State, 0)


def children(pid: int) -> list[int]:
    """Return the children of a process: for a supervisor, its workers and its recorder."""
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(child) for child in file.read().split()]


def kill(pid: int) -> int:
    """Kill a process. Return 1 if it existed."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return 0
    return 1


def test_either_handles_all_kinds_alike(instance: Instance) -> None:
    """Postponed, prioritised and failing tasks from both have the same end, whichever runs them. Attempts are counted
    across both, and either runs a dead task that is retried.
    """
    instance.write_app(APP)
    instance.start("--spooler-processes=2")
    instance.start_unspool("--processes=2")
    ids = [*instance.do("send('mule')"), *instance.call("send('process')")]
    ends = [["rescheduled", "rescheduled", "dead"]] * 2 + [["processed"]] * 2
    instance.wait(lambda: [instance.verdicts(id) for id in ids] == ends * 2)
    assert sum(line.startswith("fails ") for line in instance.lines()) == 12
    assert sorted(line for line in instance.lines() if line.startswith("late ")) == (
        ["late mule True"] * 2 + ["late process True"] * 2
    )
    dead = [entry.id for entry in inspection.tasks(instance.backend) if entry.state is State.DEAD]
    assert len(dead) == 4
    for id in dead:
        instance.backend.change(id, RunNow())
    instance.wait(lambda: sum(line.startswith("fails ") for line in instance.lines()) == 24)


def test_attempts_are_shared(instance: Instance) -> None:
    """A task that failed under uWSGI continues under ``unspool run``, and is dead after its attempts in all."""
    instance.write_app(APP)
    instance.start()
    id, ranked = instance.do("send('mule')")[:2]
    instance.wait(lambda: instance.verdicts(id) and instance.verdicts(ranked))
    instance.stop()
    instance.start_unspool()
    instance.wait(lambda: all(instance.verdicts(one)[-1:] == ["dead"] for one in (id, ranked)))
    assert sum(line.startswith("fails ") for line in instance.lines()) == 6
