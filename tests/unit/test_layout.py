"""Names and directories of a spool directory."""

import errno
import itertools
import os
import re
import shutil
import stat
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unspool.backends.base import UNNUMBERED
from unspool.backends.spool.layout import (
    PREFIX,
    TMP,
    Directory,
    Names,
    hint,
    is_priority,
    priority_of,
    rank_of,
    renamed,
    spooler_of,
)
from unspool.errors import SpoolerUnusable

NOW = 1_900_000_000.25


@pytest.fixture
def directory(tmp_path: Path) -> Directory:
    """A spool directory that does not exist yet."""
    return Directory(str(tmp_path / "deep" / "mail"))


# --- names


def test_a_name_is_uwsgis() -> None:
    """A name consists of prefix, host, process, counter, random number, seconds and microseconds."""
    name = Names().next(NOW, None)
    assert re.fullmatch(rf"{PREFIX}[^/]+_{os.getpid()}_1_[0-9]+_1900000000_250000", name)
    assert Names().next(NOW, NOW + 3600.5).endswith("_1900003600_750000")


def test_names_are_unique_across_threads() -> None:
    """Eight threads make names at the same clock time, some with a due time."""
    names, found = Names(), [list[str]() for _ in range(8)]
    start = threading.Barrier(8)

    def make(mine: list[str]) -> None:
        start.wait()
        mine.extend(names.next(NOW, NOW if number % 2 else None) for number in range(2_000))

    threads = [threading.Thread(target=make, args=[mine]) for mine in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({name for mine in found for name in mine}) == 16_000
    for mine in found:
        undated = mine[::2]
        assert undated == sorted(undated, key=hint), "each thread's own keep their order"


def test_names_are_unique_across_forks() -> None:
    """Children that inherit the object make other names than it and each other, also if its lock was held."""
    names = Names()
    names.next(NOW, None)
    found = []
    for _ in range(3):
        reader, writer = os.pipe()
        with names._lock:
            pid = os.fork()
            if pid == 0:
                status = 1
                try:
                    os.write(writer, "\n".join(names.next(NOW, None) for _ in range(20)).encode())
                    status = 0
                finally:
                    os._exit(status)
        os.close(writer)
        with open(reader, "rb") as pipe:
            found += pipe.read().decode().split("\n")
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    found += [names.next(NOW, None) for _ in range(20)]
    assert len(set(found)) == 80


@given(st.lists(st.floats(0, 0.99), max_size=100))
def test_times_rise_within_a_process(steps: list[float]) -> None:
    """Whatever the clock does within a second, also if it stands still or goes back, the time of each name is later
    than the one before: first in, first out.
    """
    names = Names()
    times = [hint(names.next(NOW + step, None)) for step in steps]
    assert all(before < after for before, after in itertools.pairwise(times))


def test_a_clock_that_is_set_far_back_delays_nothing() -> None:
    """The time of a name is never more than a second ahead of the clock, because tasks would wait for the clock."""
    names = Names()
    names.next(NOW, None)
    for later in (0.0, 0.1, 0.2):
        assert NOW - 86_400 + later <= hint(names.next(NOW - 86_400 + later, None)) <= NOW - 86_400 + later + 1


def test_the_hint_of_a_name() -> None:
    """It is the time at the end; 0, which is always due, if the name of another program has none."""
    assert hint(f"{PREFIX}host_1_2_3_1900000000_250000") == NOW
    for name in (PREFIX, "x", "", "a_b_c", "a_1_x", "a__"):
        assert hint(name) == 0.0


def test_a_name_with_another_time() -> None:
    """The rest of the name stays, so it is unique, also in a priority."""
    assert renamed(f"5/{PREFIX}h_1_2_3_1700000000_000001", NOW) == f"5/{PREFIX}h_1_2_3_1900000000_250000"
    assert renamed(f"5/{PREFIX}a", NOW) == f"5/{PREFIX}a_1900000000_250000", "it has no time, and stays a task's name"


def test_priorities_and_ranks() -> None:
    """A directory named by up to nine digits is a priority. A task without one comes after all numbers."""
    assert [bool(is_priority(name)) for name in ("0", "007", "999999999", "1000000000", "", "-1", "a", "1 ", "٣")] == [
        True,
        True,
        True,
        *[False] * 6,
    ]
    assert (priority_of("5/name"), priority_of("name")) == (5, None)
    assert rank_of(999_999_999) < rank_of(None) == UNNUMBERED
    assert rank_of(0) == 0


def test_the_spooler_of_a_path(tmp_path: Path) -> None:
    """The path alone determines it: of a task, of one with a priority, of one set aside, and in a spooler named by a
    number.
    """
    for path in ("name", "5/name", ".unspool/dead/name", ".unspool/corrupt/5/name"):
        assert spooler_of(f"/srv/mail/{path}") == "/srv/mail"
    (tmp_path / "5" / ".unspool").mkdir(parents=True)
    assert spooler_of(f"{tmp_path}/5/name") == f"{tmp_path}/5"


# --- the directory


def test_it_is_made_private_on_first_use(directory: Directory) -> None:
    """They are created only then, with their parents, each with mode 0700."""
    assert not os.path.exists(directory.root)
    directory.fd(TMP)
    for part in ("", ".unspool", TMP):
        assert stat.S_IMODE(os.stat(directory.path(part)).st_mode) == 0o700
    assert directory.fd(TMP) == directory.fd(TMP)


def test_looking_for_a_ref_makes_nothing(directory: Directory) -> None:
    """``at`` finds a name in the root and in existing priorities. ``place`` creates a priority."""
    fd, name = directory.at("name")
    assert (os.fstat(fd).st_ino, name) == (os.stat(directory.root).st_ino, "name")
    with pytest.raises(FileNotFoundError):
        directory.at("5/name")
    assert os.listdir(directory.root) == []
    fd, name = directory.place("5", "name")
    assert (os.fstat(fd).st_ino, name) == (os.stat(directory.path("5")).st_ino, "name")
    assert directory.at("5/name") == (fd, "name")


def test_descriptors_are_bounded(directory: Directory) -> None:
    """Hundreds of priorities can be used with some dozens of descriptors."""
    for priority in range(200):
        fd, name = directory.place(str(priority), "name")
        os.close(os.open(name, os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=fd))
        directory.sync(str(priority))
    assert sorted(map(int, os.listdir(directory.root))) == list(range(200))
    assert all(os.path.exists(directory.path(f"{priority}/name")) for priority in range(200))
    links = (f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd"))
    assert sum(os.readlink(link).startswith(directory.root) for link in links if os.path.lexists(link)) <= 65


def test_a_file_in_its_place(tmp_path: Path) -> None:
    """The error says what it is and what to name instead."""
    (tmp_path / "mail").write_text("")
    for root in (tmp_path / "mail", tmp_path / "mail" / "below"):
        with pytest.raises(SpoolerUnusable, match="name a directory") as caught:
            Directory(str(root)).fd("")
        assert caught.value.errno == errno.ENOTDIR
        assert str(root) in str(caught.value)


def test_a_directory_that_everybody_may_write_to(tmp_path: Path) -> None:
    """Everyone could run code as its worker. The error says what to do, which helps."""
    place = tmp_path / "mail"
    place.mkdir()
    place.chmod(0o777)
    directory = Directory(str(place))
    with pytest.raises(SpoolerUnusable, match="chmod o-w"):
        directory.fd(TMP)
    place.chmod(0o770)
    directory.fd(TMP)


def test_the_spooler_may_be_a_link_and_its_parts_may_not(tmp_path: Path) -> None:
    """The owner chooses where a spooler is, but its content may belong to others."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "mail").symlink_to("disk")
    directory = Directory(str(tmp_path / "mail"))
    directory.fd(TMP)
    (tmp_path / "disk" / "5").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SpoolerUnusable):
        directory.place("5", "name")


def test_what_is_never_run(directory: Directory) -> None:
    """Links, directories, FIFOs and files with a second name may not, a plain file of this user may."""
    directory.fd("")
    root = Path(directory.root)
    (root / "plain").write_text("")
    (root / "link").symlink_to("plain")
    (root / "directory").mkdir()
    os.mkfifo(root / "fifo")
    (root / "twice").write_text("")
    (root / "twice again").hardlink_to(root / "twice")

    def objection(name: str) -> str | None:
        return directory.objection(os.lstat(root / name))

    assert objection("plain") is None
    assert "symbolic link" in (objection("link") or "")
    assert "a directory" in (objection("directory") or "")
    assert "FIFO" in (objection("fifo") or "")
    assert "2 hard links" in (objection("twice") or "")
    found = list(os.lstat(root / "plain"))
    found[stat.ST_UID] = 4_000_000
    assert "user 4000000" in (directory.objection(os.stat_result(found)) or "")


@pytest.mark.parametrize("removed", ["root", "all", "moved", "replaced"])
def test_a_directory_that_is_gone(directory: Directory, tmp_path: Path, removed: str) -> None:
    """If it is removed, moved away or replaced, this is noticed, and it can be used again after ``reopen``."""
    directory.fd(TMP)
    assert not directory.is_gone()
    root, aside = Path(directory.root), tmp_path / "aside"
    root.rename(aside)
    match removed:
        case "all":
            root.parent.rmdir()
        case "replaced":
            root.mkdir()
        case "root":
            shutil.rmtree(aside)
    assert directory.is_gone()
    directory.reopen()
    directory.fd(TMP)
    assert not directory.is_gone()
    assert (root / TMP).is_dir()
