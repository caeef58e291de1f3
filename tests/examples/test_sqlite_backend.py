"""The backend of the guide, as an installed package: workers find it by its URL, and programs also create it
themselves.
"""

import json
import re
import sys
import tomllib
from pathlib import Path

import pytest

from tests.docs.page import ROOT, Page
from unspool.backends.base import Backend, Feed
from unspool.backends.keyvalue import KeyValue

from .conftest import EXAMPLES, UNSPOOL, Run

PACKAGE = EXAMPLES / "sqlite_backend"
GUIDE = Page(ROOT / "docs" / "guide" / "write-a-backend.md")
APP = """
import os
import signal
from pathlib import Path

import unspool
from unspool_sqlite import SqliteBackend

mail = unspool.Spooler(backend=SqliteBackend("mail"))


@mail.task
def kill_worker_once(name):
    path = Path(name)
    if not path.exists():
        path.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return True


@mail.task(timeout=60, retry_delay=0.01)
def fail_once(name):
    path = Path(name)
    if not path.exists():
        path.touch()
        raise ValueError("on purpose")


if __name__ == "__main__":
    print(kill_worker_once("killed"), fail_once("failed"))
"""


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, env: dict[str, str]) -> None:
    """The package with its entry point, and the URL of its spooler in the environment."""
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    metadata = tmp_path / "packages" / "unspool_sqlite-0.1.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: 0.1\n")
    ((group, points),) = project["entry-points"].items()
    lines = [f"[{group}]", *(f"{name} = {value}" for name, value in points.items())]
    (metadata / "entry_points.txt").write_text("\n".join(lines))
    env["PYTHONPATH"] = f"{metadata.parent}:{PACKAGE}"
    env["UNSPOOL_SPOOLERS"] = f"sqlite://{tmp_path}/mail"


def test_a_worker_runs_what_an_instance_has_sent(run: Run, tmp_path: Path, env: dict[str, str]) -> None:
    """The program sends with its own object, the worker gets the URL, and the task of a killed worker runs again."""
    (tmp_path / "shop.py").write_text(APP)
    sent = run(sys.executable, "shop.py")
    assert sent.stdout.split() == [f"sqlite://{tmp_path}/mail/{number}" for number in (1, 2)], sent.stderr

    done = run(UNSPOOL, "run", "shop.py", "--burst")
    assert done.returncode == 0, done.stderr
    run(UNSPOOL, "retry", sent.stdout.split()[1])
    done = run(UNSPOOL, "run", "shop.py", "--burst")
    assert done.returncode == 0, done.stderr

    assert json.loads(run(UNSPOOL, "ls", "--json").stdout) == []
    runs = [(one["task"], one["verdict"]) for one in json.loads(run(UNSPOOL, "history", "--json").stdout)]
    assert sorted(runs) == [
        ("shop:fail_once", "rescheduled"),
        ("shop:fail_once", "skipped"),
        ("shop:kill_worker_once", "crashed"),
        ("shop:kill_worker_once", "processed"),
    ]
    assert run(UNSPOOL, "doctor").returncode == 0


def test_a_url_with_a_host(run: Run) -> None:
    """The error says how to write the URL."""
    done = run(UNSPOOL, "ls", "--spooler", "sqlite://srv/app/mail")
    assert done.returncode == 2
    assert "write sqlite:///DIRECTORY/NAME" in done.stderr


@pytest.mark.parametrize("protocol", [Backend, Feed, KeyValue])
def test_the_guide_names_all_members(protocol: type) -> None:
    """The guide explains each member."""
    members = {name for name in vars(protocol) if not name.startswith("_")}
    named = {span for row in GUIDE.rows() for span in re.findall("`([a-z_]+)`", row[0])}
    assert members <= named


def test_the_seam_is_small() -> None:
    """A backend consists of at most 30 members, as decision 14 says."""
    members = [name for part in (Backend, Feed, KeyValue) for name in vars(part) if not name.startswith("_")]
    assert len(members) <= 30


@pytest.mark.parametrize("name", sorted({block.info[1] for block in GUIDE.blocks if block.info[1:]}))
def test_the_guide_shows_the_example(name: str) -> None:
    """Each block that names a file is an excerpt of that file."""
    text = (PACKAGE / name.removeprefix("file=")).read_text(encoding="utf-8")
    for block in GUIDE.blocks:
        if block.info[1:] == [name]:
            assert block.text in text, f"the guide shows this, which is not in {name}:\n{block.text}"
