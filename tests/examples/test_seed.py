"""The example of the API that unspool implements, verbatim from the documentation of uwsgiconf."""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

from .conftest import PATIENCE, UNSPOOL, Run

_APP = """\
from datetime import timedelta
from uwsgiconf.runtime.spooler import Spooler

my_spooler = Spooler.get_by_basename('myspooler')

# @Spooler.task() to  run on first available or to run on `my_spooler`:
@my_spooler.task(postpone=timedelta(seconds=1))
def run_me(a, b='c'):
    # We do:
    # * return True if task processed
    # * return None if task was ignored
    # * raise an exception to force task retry
    return True
"""
_CALLER = """\
from seed import *

# Now call this function as usual and it'll run in a spooler.
...
run_me('some', b='other')
...
"""


def processed(command: list[str], cwd: Path, env: dict[str, str]) -> dict[str, object]:
    """Run a worker until its log has a processed task, and return this log line."""
    worker = subprocess.Popen(command, cwd=cwd, env=env, stderr=subprocess.PIPE, text=True)
    late = threading.Timer(PATIENCE, worker.kill)
    late.start()
    try:
        assert worker.stderr is not None
        for line in worker.stderr:
            told: dict[str, object] = json.loads(line)
            if told.get("verdict") == "processed":
                return told
        raise AssertionError("the worker ended without having processed the task")
    finally:
        late.cancel()
        worker.terminate()
        worker.communicate()


def test_it_runs_unchanged(run: Run, tmp_path: Path, env: dict[str, str]) -> None:
    """The call goes to `myspooler`, postponed by a second. A worker runs it then, and not before."""
    (tmp_path / "seed.py").write_text(_APP)
    (tmp_path / "caller.py").write_text(_CALLER)

    began = time.time()
    called = run(sys.executable, "caller.py")
    assert called.returncode == 0, called.stderr
    (entry,) = json.loads(run(UNSPOOL, "ls", "--json").stdout)
    assert entry["task"] == "seed:run_me"
    assert entry["due"] >= began + 1
    assert entry["state"] == "deferred" or time.time() >= entry["due"]
    assert entry["spooler"] == env["UNSPOOL_SPOOLERS"]

    told = processed([UNSPOOL, "run", "seed", "--log-format", "json"], tmp_path, env)

    assert told["id"] == entry["id"]
    assert json.loads(run(UNSPOOL, "ls", "--json").stdout) == []
    (past,) = json.loads(run(UNSPOOL, "history", "--json").stdout)
    assert past["verdict"] == "processed"
    assert past["started"] >= entry["due"]


def test_it_runs_as_one_program(run: Run, tmp_path: Path, env: dict[str, str]) -> None:
    """The whole example is one file with the call at its top level: a worker that imports it sends the task too, and
    runs it.
    """
    (tmp_path / "seed.py").write_text(_APP + _CALLER.partition("\n")[2])

    called = run(sys.executable, "seed.py")
    assert called.returncode == 0, called.stderr

    told = processed([UNSPOOL, "run", "seed.py", "--log-format", "json"], tmp_path, env)

    assert told["task"] == "seed:run_me"
