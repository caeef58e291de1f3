"""The table of verdicts, end to end: a program with a task for each row, and the expected end of each.

The test chooses what runs them: ``unspool run``, or uWSGI in any of its modes.
"""

from collections.abc import Callable
from itertools import pairwise

from unspool import inspection, wire
from unspool.backends.spool import SpoolBackend
from unspool.message import State

APP = '''
from unspool import ResultProcessed, ResultRescheduled, ResultSkipped, Spooler, SpoolerTask
from unspool.functions import call_message

mine = Spooler.get_by_basename("myspooler")
quick = dict(retry_delay=0.1, retry_backoff=1, retry_jitter=0)

@mine.task
def returns_true():
    note("returns_true")
    return True

@mine.task
def returns_a_value():
    note("returns_a_value")
    return "42"

@mine.task
def returns_processed():
    note("returns_processed")
    return ResultProcessed("done")

@mine.task
def returns_none():
    note("returns_none")

@mine.task
def returns_skipped():
    note("returns_skipped")
    return ResultSkipped()

@mine.task(max_attempts=3, **quick)
def raises():
    note("raises", time.time())
    raise ValueError("always")

@mine.task(max_attempts=2, **quick)
def returns_rescheduled():
    note("returns_rescheduled")
    return ResultRescheduled()

@mine.task(max_attempts=2, **quick)
def raises_once(n):
    note("raises_once")
    if lines_of("raises_once") < 2:
        raise ValueError("once")
    return True

@mine.task(max_attempts=1)
def exits():
    note("exits")
    sys.exit(1)

@mine.task
def kills_its_process():
    note("kills_its_process")
    os.kill(os.getpid(), signal.SIGKILL)

@mine.task(timeout=1, max_attempts=1)
def overruns():
    note("overruns")
    while True:
        pass

@mine.task
async def is_async(a):
    await asyncio.sleep(0)
    note("is_async", a)
    return True

@mine.task(timeout=1, max_attempts=1)
async def overruns_async():
    note("overruns_async")
    await asyncio.Event().wait()

@mine.task(release_skipped=True, max_attempts=2, **quick)
def left_for_another():
    note("left_for_another")

class Fax(SpoolerTask):
    type_id = "fax"
    def process(self):
        note("fax", self.payload, self.name.startswith("uwsgi_spoolfile_on_"))
        return True

def lines_of(name):
    with open(HERE + "/oracle") as file:
        return sum(line.split()[0] == name for line in file)

def send_all():
    """Sends one of each; their ids by name."""
    ids = {task.name.partition(":")[2]: task() for task in (
        returns_true, returns_a_value, returns_processed, returns_none, returns_skipped, raises, returns_rescheduled,
        exits, kills_its_process, overruns, overruns_async, left_for_another)}
    ids["raises_once"] = raises_once("x" * 100_000)
    ids["is_async"] = is_async("a")
    ids["fax"] = Spooler.send_message_raw("ucfg_fax", spooler=mine, payload="page")
    ids["unknown"] = Spooler.send_many([call_message("app:not_there", (), {})], spooler=mine)[0]
    ids["unknown_type"] = Spooler.send_message_raw("ucfg_telex", spooler=mine)
    return ids
'''

VERDICTS = {
    "returns_true": ["processed"],
    "returns_a_value": ["processed"],
    "returns_processed": ["processed"],
    "returns_none": ["skipped"],
    "returns_skipped": ["skipped"],
    "raises": ["rescheduled", "rescheduled", "dead"],
    "returns_rescheduled": ["rescheduled", "dead"],
    "raises_once": ["rescheduled", "processed"],
    "exits": ["dead"],
    "kills_its_process": ["crashed", "crashed", "crashed", "dead"],
    "overruns": ["dead"],
    "overruns_async": ["dead"],
    "is_async": ["processed"],
    "left_for_another": ["skipped", "dead"],
    "fax": ["processed"],
    "unknown": ["rescheduled"],
    "unknown_type": ["rescheduled"],
    "altered": ["corrupt"],
}
RUNS = {"raises": 3, "returns_rescheduled": 2, "raises_once": 2, "kills_its_process": 3, "left_for_another": 2}
_LENGTHS = {name: len(ends) for name, ends in VERDICTS.items()}
WAITING = {"unknown", "unknown_type"}
_IN_THE_QUEUE = (State.DEFERRED, State.READY, State.RUNNING)  # a worker may look at one just now
NEVER_RUN = WAITING | {"altered"}
ALTERED = bytearray(wire.dump({"msg": b"ucfg_fax"}, b"x" * 50, None))
ALTERED[-1] ^= 1


def verdicts(backend: SpoolBackend, ids: dict[str, str]) -> dict[str, list[str]]:
    """Return how the runs of each task ended, in order. For those that wait for a deploy, return only the first."""
    found = {name: [run.verdict for run in reversed(inspection.runs(backend, id=id))] for name, id in ids.items()}
    return {name: ends[: len(VERDICTS[name])] if name in WAITING else ends for name, ends in found.items()}


def wait_and_check(
    backend: SpoolBackend, ids: dict[str, str], lines: Callable[[], list[str]], wait: Callable[..., None]
) -> None:
    """Wait until every row has come to its end, and check what is left."""
    wait(lambda: {name: len(ends) for name, ends in verdicts(backend, ids).items()} == _LENGTHS, "the last verdict")
    # The files of what is done may still be about to be removed.
    wait(lambda: len(list(inspection.tasks(backend))) == 10, "the end")
    assert verdicts(backend, ids) == VERDICTS
    ran: dict[str, int] = {}
    for line in lines():
        name = line.split()[0]
        ran[name] = ran.get(name, 0) + 1
    assert ran == {name: RUNS.get(name, 1) for name in VERDICTS.keys() - NEVER_RUN}
    assert "fax page True" in lines()
    assert "is_async a" in lines()

    states = {name: entry.state if (entry := inspection.find(backend, id)) else None for name, id in ids.items()}
    dead = {name for name, ends in VERDICTS.items() if ends[-1] == "dead"}
    assert {name for name, state in states.items() if state is State.DEAD} == dead
    assert {name for name, state in states.items() if state is State.CORRUPT} == {"altered"}
    assert {name for name, state in states.items() if state in _IN_THE_QUEUE} == WAITING
    reasons = {name: entry.reason for name, id in ids.items() if (entry := inspection.find(backend, id))}
    assert reasons["kills_its_process"] == "killed its worker 3 times"
    assert reasons["raises"] == "ValueError: always"
    assert "checksum" in reasons["altered"]
    assert all("app:not_there" in run.error for run in inspection.runs(backend, id=ids["unknown"]))
    # The back-off is in the file's time, and no run came before it.
    begun = [float(line.split()[1]) for line in lines() if line.startswith("raises ")]
    assert all(second - first >= 0.1 for first, second in pairwise(begun))
