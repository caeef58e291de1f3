"""The owners of unfinished files in a directory, and the proof that a writer is dead."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from unspool.backends.spool import lock
from unspool.backends.spool.drafts import _LOOKS, Drafts


@pytest.fixture
def place(tmp_path: Path) -> Iterator[int]:
    """A descriptor of an empty directory."""
    fd = os.open(tmp_path, os.O_RDONLY)
    yield fd
    os.close(fd)


@pytest.fixture
def drafts(place: int) -> Callable[[], Drafts]:
    """Create the drafts that another process would have."""
    return lambda: Drafts(lambda: place)


def descriptors(path: Path) -> set[int]:
    """This process's descriptors of a file."""
    links = [link for name in os.listdir("/proc/self/fd") if os.path.exists(link := f"/proc/self/fd/{name}")]
    return {int(os.path.basename(link)) for link in links if os.path.samefile(link, path)}


def test_a_writer_is_dead_when_its_lock_is_gone(drafts: Callable[[], Drafts], tmp_path: Path) -> None:
    """It is not considered dead while it lives, not even while it sends nothing, and never by itself."""
    device = tmp_path.stat().st_dev
    writer, judge = drafts(), drafts()
    number, draft = writer.number, writer.name("x")
    assert number not in (0, judge.number)
    assert not judge.is_dead(number, device)
    assert not judge.abandoned(draft, device)
    assert not writer.is_dead(number, device)
    del writer
    assert judge.is_dead(number, device)
    assert judge.abandoned(draft, device)


@pytest.mark.parametrize("other", ["file", "device"])
def test_another_file_proves_nothing(drafts: Callable[[], Drafts], tmp_path: Path, other: str) -> None:
    """A process with another ``writers`` file than the writer does not see its lock, and so does not decide."""
    device = tmp_path.stat().st_dev
    writer = drafts()
    number = writer.number
    if other == "file":
        (tmp_path / "writers").unlink()
    else:
        device += 1
    judge = drafts()
    assert judge.number
    assert not judge.is_dead(number, device)
    del writer
    assert not judge.is_dead(number, device)


def test_a_judge_that_has_lost_its_file_proves_nothing(drafts: Callable[[], Drafts], tmp_path: Path) -> None:
    """The number of its descriptor may belong to any file, which no process has locked."""
    writer, judge = drafts(), drafts()
    number = writer.number
    before = descriptors(tmp_path / "writers")
    assert judge.number
    (fd,) = descriptors(tmp_path / "writers") - before
    other = os.open(tmp_path / "other", os.O_RDWR | os.O_CREAT)
    os.dup2(other, fd)
    os.close(other)
    assert not judge.is_dead(number, tmp_path.stat().st_dev)


@pytest.mark.parametrize("what", ["closed", "another file", "removed"])
def test_a_number_that_is_lost(drafts: Callable[[], Drafts], tmp_path: Path, what: str) -> None:
    """A process that has closed the descriptor, and so has lost the lock, notices this at once. A removed file is
    noticed after a while.
    """
    writer = drafts()
    number = writer.current
    assert number
    assert {writer.current for _ in range(2 * _LOOKS)} == {number}
    assert not writer.lost
    (fd,) = descriptors(tmp_path / "writers")
    match what:
        case "closed":
            os.close(fd)
        case "another file":
            other = os.open(tmp_path / "other", os.O_RDWR | os.O_CREAT)
            os.dup2(other, fd)
            os.close(other)
        case "removed":
            (tmp_path / "writers").unlink()
            assert any(not writer.current for _ in range(_LOOKS))
    assert writer.lost
    assert writer.current == 0
    if what == "removed":
        return
    del writer
    if what == "another file":
        os.close(fd)  # is still open: it is not the writer's


def test_the_number_of_a_fork(drafts: Callable[[], Drafts], tmp_path: Path) -> None:
    """A child has its own number, and its end does not affect the parent."""
    writer = drafts()
    number = writer.number
    pid = os.fork()
    if pid == 0:
        os._exit(writer.number == number)
    assert os.waitpid(pid, 0)[1] == 0
    assert not drafts().is_dead(number, tmp_path.stat().st_dev)


def test_without_locks_there_is_no_number(tmp_path: Path) -> None:
    """Then no draft is judged, and tasks are sent by drafts."""

    def place() -> int:
        raise OSError

    drafts = Drafts(place)
    assert (drafts.number, drafts.lost, drafts.name("x")) == (0, False, "x.0")
    assert not drafts.is_dead(5, tmp_path.stat().st_dev)


def test_another_program_has_locked_the_whole_file(drafts: Callable[[], Drafts], tmp_path: Path) -> None:
    """Without a number, there is no proof of death. Nothing waits for the lock."""
    held = os.open(tmp_path / "writers", os.O_RDWR | os.O_CREAT, 0o600)
    assert lock.acquire(held)
    writer = drafts()
    assert writer.number == 0
    assert not writer.lost
    os.close(held)
