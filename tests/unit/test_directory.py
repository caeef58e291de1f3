"""A spool directory held by descriptors, and who may own it."""

import errno
import os
import shutil
import stat
from pathlib import Path

import pytest

from unspool.backends.spool.directory import Directory
from unspool.backends.spool.layout import TMP
from unspool.errors import SpoolerUnusable


@pytest.fixture
def directory(tmp_path: Path) -> Directory:
    """A spool directory that does not exist yet."""
    return Directory(str(tmp_path / "deep" / "mail"))


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
