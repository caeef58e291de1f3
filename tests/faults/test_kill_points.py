"""Kills at each failpoint of enqueue, claim, run, settle and bury: nothing is lost, and nothing runs twice at once.

Tasks and producers append to a synced file outside of the spool, which decides. unspool's own records are only compared
with it.
"""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from unspool import inspection, points
from unspool.backends.spool import SpoolBackend
from unspool.message import State

from ..runtime.conftest import PATIENCE, Place

PRODUCER_POINTS = [name for name in points.NAMES if name.startswith("send.")]
_CARRIED = ("leave.", "accept.", "left.", "confirm.", "gone.", "carry.")
CARRIER_POINTS = [name for name in points.NAMES if name.startswith(_CARRIED)]  # see test_carrying
TABLE_POINTS = [name for name in points.NAMES if name.startswith(("put.", "drop."))]  # see test_keyvalue
CHANGE_POINTS = [name for name in points.NAMES if name.startswith("reprioritise.")]  # see test_changes
KEY_POINTS = [name for name in points.NAMES if name.startswith("key.")]  # see test_unique
_OTHERS = PRODUCER_POINTS + CARRIER_POINTS + TABLE_POINTS + CHANGE_POINTS + KEY_POINTS
WORKER_POINTS = [name for name in points.NAMES if name not in _OTHERS]

APP = """
    from unspool import points
    def _die(name):
        if name == os.environ["KILL_AT"] and (pid := os.getpid()):
            try:
                os.close(os.open(os.environ["ORACLE"] + ".killed", os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                return  # once is enough
            os.kill(pid, signal.SIGKILL)
    points.reach = _die
    def run(name):
        note("start", name, os.getpid())
        first = sum(line.startswith("start " + name) for line in open(os.environ["ORACLE"])) == 1
        note("end", name, os.getpid())
        return first
    @Spooler.task
    def done(): run("done"); return True
    @Spooler.task(retry_delay=0.01)
    def again():
        if run("again"): raise ValueError("the first time")
        return True
    @Spooler.task(max_attempts=1)
    def hopeless(): run("hopeless"); raise ValueError("hopeless")
"""


@pytest.mark.parametrize("point", WORKER_POINTS)
def test_a_worker_killed_at(place: Place, point: str) -> None:
    """Each task ends as expected, at most one run is repeated, and the crash is logged and recorded."""
    place.env["KILL_AT"] = "nowhere"
    place.write_app(APP)
    place.call("done(); again(); hopeless()")
    place.env["KILL_AT"] = point
    running = place.run()
    running.wait_for(lambda line: place.backend.counts().tasks == dict.fromkeys(State, 0) | {State.DEAD: 1})
    assert running.stop() == 0
    assert Path(f"{place.oracle}.killed").exists(), "the point was never reached"
    starts = Counter(line.split()[1] for line in place.lines() if line.startswith("start"))
    assert starts - Counter({"done": 1, "again": 2, "hopeless": 1}) in [Counter(), *[Counter({n: 1}) for n in starts]]
    assert set(starts) == {"done", "again", "hopeless"}
    assert overlapping(place.lines()) == []
    (dead,) = inspection.tasks(place.backend)
    reasons = {
        "ValueError: hopeless",
        "its only attempt ended with its worker",
    }
    assert (dead.task, dead.reason in reasons) == ("tasks:hopeless", True)
    crashes = [line for line in running.seen if line.get("verdict") == "crashed"]
    records = Counter(record.verdict for record in inspection.runs(place.backend))
    assert len(crashes) == records["crashed"] <= 1
    if point.startswith(("run.", "ack.begin", "retry.begin", "bury.begin", "bury.noted")):
        assert [crash["reason"] for crash in crashes] == ["its worker was killed by SIGKILL"]
    assert list((place.spool / ".unspool" / "tmp").iterdir()) == []


@pytest.mark.parametrize("call", ["done()", "done.using(priority=5)()", "done.enqueue_many([()] * 3)"])
@pytest.mark.parametrize(
    ("durability", "point"),
    [
        (durability, point)
        for durability in ("full", "relaxed")
        for point in PRODUCER_POINTS
        if (durability, point) != ("relaxed", "send.synced")
    ],
)
def test_a_producer_killed_at(place: Place, durability: str, point: str, call: str) -> None:
    """Each task is absent or complete, a complete one runs once, and leftovers are swept."""
    place.env |= {"KILL_AT": point, "UNSPOOL_DURABILITY": durability}
    place.write_app(APP)
    producer = subprocess.run(
        [sys.executable, "-c", f"from tasks import *\n{call}"],
        check=False,
        cwd=place.root,
        env=place.env,
        timeout=PATIENCE,
    )
    assert producer.returncode == -9
    counts = place.backend.counts().tasks
    present = counts[State.READY]
    assert sum(counts.values()) == present
    if point == "send.kept":
        assert present == (3 if "many" in call else 1)
    elif point != "send.renamed":
        assert present == 0
    running = place.burst()
    assert running.verdicts() == ["processed"] * present
    assert SpoolBackend(str(place.spool)).counts().tasks == dict.fromkeys(State, 0)
    assert [path for path in place.spool.rglob("uwsgi_spoolfile_on_*") if path.is_file()] == []


def test_each_point_is_named_once() -> None:
    """The code has exactly the points that ``NAMES`` lists."""
    source = "\n".join(path.read_text() for path in Path(points.__file__).parent.rglob("*.py"))
    import re

    assert set(re.findall(r'points\.reach\("([a-z.]+)"\)', source)) == set(points.NAMES)


def overlapping(lines: list[str]) -> list[str]:
    """Return the tasks that one process continued after another had begun them."""
    holder: dict[str, str] = {}
    found = []
    for line in lines:
        word, name, pid = line.split()
        if word == "start":
            holder[name] = pid
        elif holder.get(name) != pid:
            found.append(name)
    return found
