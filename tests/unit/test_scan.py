"""Reading the names in a spool directory."""

import os
from pathlib import Path

import pytest

from unspool.backends.spool import scan
from unspool.backends.spool.directory import Directory
from unspool.backends.spool.names import BELL, PREFIX


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The path of a spool directory with three tasks and other files."""
    root = tmp_path / "mail"
    for part in ("5", "07", ".unspool/dead/3"):
        (root / part).mkdir(parents=True)
    for name in (f"{PREFIX}a", BELL, f"{BELL}_9", "other", "12", f"5/{PREFIX}b", f".unspool/dead/3/{PREFIX}c"):
        (root / name).touch()
    return root


def read(root: Path, lead: str = "") -> list[str]:
    """Return the tasks of a directory and of its priorities."""
    batches = scan.read_all(Directory(str(root)), lead)
    return [f"{part}/{one.name}" for part, entries in batches for one in scan.tasks(entries)]


def test_tasks_and_priorities(root: Path) -> None:
    """Wakefiles and other files are no tasks, and a file is no priority. The root comes first."""
    assert read(root) == [f"/{PREFIX}a", f"5/{PREFIX}b"]
    assert read(root, ".unspool/dead") == [f"3/{PREFIX}c"]
    found = [name for entries in scan.read(Directory(str(root))) for name in scan.priorities(entries)]
    assert sorted(found) == ["07", "5"]


@pytest.mark.parametrize("link", ["5", ".unspool", ".unspool/dead", ".unspool/dead/3"])
def test_no_link_in_the_root_is_followed(root: Path, tmp_path: Path, link: str) -> None:
    """A link may lead to the files of others. The root itself may be a link."""
    where = tmp_path / "elsewhere"
    (root / link).rename(where)
    (root / link).symlink_to(where)
    (tmp_path / "root").symlink_to(root)
    assert read(tmp_path / "root") == ([f"/{PREFIX}a"] if link == "5" else [f"/{PREFIX}a", f"5/{PREFIX}b"])
    assert read(root, ".unspool/dead") == ([f"3/{PREFIX}c"] if link == "5" else [])


def test_what_cannot_be_read_is_empty(root: Path) -> None:
    """Missing parts, files, and a missing root have no entries, and reading creates nothing."""
    for part in ("none", "other", "other/deeper", ".unspool/none"):
        assert list(scan.read(Directory(str(root)), part)) == []
    assert read(root / "none") == []
    assert not (root / "none").exists()


def test_batches(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At most one batch is in memory. No descriptor stays open, also if the reader stops early."""
    monkeypatch.setattr(scan, "_BATCH", 3)
    for number in range(10):
        (root / f"{PREFIX}{number}").touch()
    before = os.listdir("/proc/self/fd")
    batches = [[one.name for one in entries] for entries in scan.read(Directory(str(root)))]
    assert {len(batch) for batch in batches[:-1]} == {3}
    assert sorted(name for batch in batches for name in batch) == sorted(os.listdir(root))
    stopped = scan.read(Directory(str(root)))
    next(stopped)
    del stopped
    assert os.listdir("/proc/self/fd") == before
