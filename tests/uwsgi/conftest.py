"""Real uWSGI, from the ``pyuwsgi`` wheel, started and stopped by each test."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import inotify_simple
import pytest

from .instance import PATIENCE, PROGRAM, Instance


@pytest.fixture
def run_uwsgi(tmp_path: Path) -> Callable[..., None]:
    """Run uWSGI with these options until its program has written the file ``done`` beside it."""
    require_uwsgi()

    def run(*options: str) -> None:
        done = tmp_path / "done"
        done.unlink(missing_ok=True)
        log = tmp_path / "uwsgi.log"
        command = [str(PROGRAM), "--master", "--die-on-term", f"--logto={log}", *options]
        with inotify_simple.INotify() as changes:
            changes.add_watch(str(tmp_path), inotify_simple.flags.CREATE | inotify_simple.flags.MOVED_TO)
            process = subprocess.Popen(command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path)})
            try:
                while not done.exists():
                    assert changes.read(timeout=PATIENCE * 1000), log.read_text()
            finally:
                process.terminate()
                process.wait(PATIENCE)

    return run


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[Instance]:
    """A uWSGI that the test starts, and that is stopped at its end."""
    require_uwsgi()
    here = Instance(tmp_path)
    yield here
    here.close()


def require_uwsgi() -> None:
    if not PROGRAM.exists():
        if os.environ.get("CI"):
            pytest.fail(f"there is no {PROGRAM}, and CI must have it")
        pytest.skip("pyuwsgi is not installed; there may be no wheel of it for this Python")
