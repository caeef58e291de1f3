"""A program forks while one of its threads imports what a first send needs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PATIENCE = 30

TASKS = """
import importlib.abc, os, sys, threading
from unspool import Spooler, imports, raw_message

class Watch(importlib.abc.MetaPathFinder):
    \"\"\"Sees each import that is not made yet, with Python's lock of that module held.\"\"\"
    def find_spec(self, name, path, target=None):
        seen(name)

def send():
    Spooler.send_message_raw("x", priority=3)
    Spooler.send_many([raw_message("x"), raw_message("y")])

sys.meta_path.insert(0, Watch())
"""
FORK = """
wanted = {module!r}
importing, forking = threading.Event(), threading.Event()

def seen(name):
    if name == wanted and threading.current_thread() is thread:
        importing.set()
        forking.wait()

thread = threading.Thread(target=send)
thread.start()
assert importing.wait({patience}), "never imported"
forking.set()
pid = os.fork()
if pid == 0:
    import faulthandler
    faulthandler.dump_traceback_later({patience}, exit=True)
    send()
    os._exit(0)
thread.join()
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, "the child could not send"
"""
GUARDED = """
bare = []

def seen(name):
    if not imports.late._is_owned():
        bare.append(name)

send()
assert {"ctypes", "tomllib", "itsdangerous", "unspool.backends.spool"} <= sys.modules.keys()
assert not bare, bare
"""


def run(place: Path, program: str) -> None:
    (place / "pyproject.toml").write_text('[tool.unspool]\nspoolers = ["mail"]\n')
    env = {name: value for name, value in os.environ.items() if not name.startswith("UNSPOOL_")}
    env["UNSPOOL_SECRET_KEY"] = "a secret key for the tests alone"
    # Python 3.12 and later warn of any fork beside threads, which is what this is about.
    command = [sys.executable, "-W", "ignore:This process:DeprecationWarning", "-c", TASKS + program]
    done = subprocess.run(
        command, cwd=place, env=env, capture_output=True, text=True, timeout=4 * PATIENCE, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("module", ["tomllib", "unspool.backends.spool.uwsgi", "unspool.backends.spool", "ctypes"])
def test_a_fork_in_the_middle_of_a_first_send(tmp_path: Path, module: str) -> None:
    """A child that is forked while another thread imports this module can send."""
    run(tmp_path, FORK.format(module=module, patience=PATIENCE // 3))


def test_whatever_a_first_send_imports_is_waited_for(tmp_path: Path) -> None:
    """A fork waits for each import that a first send makes."""
    run(tmp_path, GUARDED)
