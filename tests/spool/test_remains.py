"""Descriptors of removed files, which a worker passes to the supervisor to close."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from unspool.backends.spool.deferred_close import DeferredClose

BATCH = 64


def removed(directory: Path, count: int) -> list[int]:
    """Return descriptors of files that have no name any more."""
    fds = []
    for number in range(count):
        fds.append(os.open(directory / str(number), os.O_RDWR | os.O_CREAT))
        os.unlink(directory / str(number))
    return fds


def is_open(fd: int) -> bool:
    """Return whether the number is an open descriptor."""
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


@pytest.fixture
def remains() -> Iterator[DeferredClose]:
    """A connection of which this process has both ends."""
    made = DeferredClose()
    yield made
    made.close()


def test_a_batch_is_closed_by_whoever_receives_it(remains: DeferredClose, tmp_path: Path) -> None:
    """The sender no longer has any of them, and the receiver closes them all."""
    before = len(os.listdir("/proc/self/fd"))
    fds = removed(tmp_path, BATCH)
    for fd in fds:
        remains.add(fd, os.fstat(fd).st_ino)
    assert not any(map(is_open, fds))
    assert remains.close_some()
    assert not remains.close_some()
    assert len(os.listdir("/proc/self/fd")) == before


def test_what_nobody_receives_is_closed_by_the_sender(remains: DeferredClose, tmp_path: Path) -> None:
    """Many batches are sent, and one when the other end is gone: nothing stays open, and nothing is raised."""
    before = len(os.listdir("/proc/self/fd"))
    for round in range(40):
        (place := tmp_path / str(round)).mkdir()
        for fd in removed(place, BATCH):
            remains.add(fd, os.fstat(fd).st_ino)
    assert len(os.listdir("/proc/self/fd")) == before
    remains.close()
    for fd in removed(place, BATCH):
        remains.add(fd, os.fstat(fd).st_ino)
    assert len(os.listdir("/proc/self/fd")) == before - 2


def test_less_than_a_batch_is_closed_when_passed_on(remains: DeferredClose, tmp_path: Path) -> None:
    """A worker does so before it waits."""
    (fd,) = removed(tmp_path, 1)
    remains.add(fd, os.fstat(fd).st_ino)
    assert is_open(fd)
    remains.pass_on()
    assert not is_open(fd)


def test_a_number_that_means_another_file_by_now_is_left_alone(remains: DeferredClose, tmp_path: Path) -> None:
    """A task has closed a descriptor that is not its own, and has opened a file that got the number."""
    (fd,) = removed(tmp_path, 1)
    remains.add(fd, os.fstat(fd).st_ino)
    own = os.open(tmp_path / "own", os.O_RDWR | os.O_CREAT)
    os.dup2(own, fd)
    remains.pass_on()
    assert is_open(fd)
    os.close(fd)
    os.close(own)


def test_threads_close_each_file_once(remains: DeferredClose, tmp_path: Path) -> None:
    """Several threads add and pass on descriptors: none stays open, and none is closed twice."""
    before = len(os.listdir("/proc/self/fd"))
    failures: list[OSError] = []

    def work(number: int) -> None:
        (place := tmp_path / str(number)).mkdir()
        try:
            for _ in range(300):
                for fd in removed(place, 5):
                    remains.add(fd, os.fstat(fd).st_ino)
                remains.pass_on()
                remains.close_some()
        except OSError as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=[number], daemon=True) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    while remains.close_some():
        pass
    assert not failures
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_fork_lets_go_of_what_its_parent_keeps(remains: DeferredClose, tmp_path: Path) -> None:
    """Otherwise a child that a task leaves behind would keep the files on the disk."""
    (fd,) = removed(tmp_path, 1)
    remains.add(fd, os.fstat(fd).st_ino)
    pid = os.fork()
    if pid == 0:
        try:
            remains.pass_on()
            os._exit(1 if is_open(fd) else 0)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert is_open(fd)
    remains.pass_on()
