"""The boundary of a directory without a secret key: owners and modes of the directory, its parts and each file."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from unspool import codec, inspection, wire
from unspool.backends.spool import SpoolBackend
from unspool.errors import SpoolerUnusable
from unspool.message import Claim, Message, Refusal, RefusalKind, State
from unspool.signing import Signer
from unspool.testing.exchange import claim_one, sealed

SOMEBODY, OTHER = 12345, 23456
NAME = "uwsgi_spoolfile_on_host_1_1_1_1_1"
CONTENT = codec.encode(Message("task"))
TASK = sealed(CONTENT)
SIGNER = Signer(["k" * 32], "mail")

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="giving files away needs root")


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    """A directory of this user, which others can reach."""
    path = tmp_path / "mail"
    path.mkdir(mode=0o700)
    for folder in path.parents[:4]:
        folder.chmod(folder.stat().st_mode | 0o011)
    return path


def put(path: Path, data: bytes = TASK.data, owner: int | None = None) -> None:
    """Write the file of a task."""
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    path.chmod(0o600)
    os.utime(path, (1, 1))
    if owner is not None:
        os.chown(path, owner, owner)


def refused(backend: SpoolBackend, ref: str = NAME) -> str:
    """Return why a task is not run. It stays, and a listing shows the same reason."""
    answer = claim_one(backend, ref)
    assert isinstance(answer, Refusal), "it would have been run"
    assert answer.kind is RefusalKind.UNUSABLE
    assert os.path.lexists(f"{backend.name}/{ref}")
    return answer.detail


def listed(backend: SpoolBackend, ref: str = NAME) -> str:
    """Return the reason in a listing. All listings show the task as corrupt."""
    (entry,) = inspection.tasks(backend)
    assert entry.id == f"{backend.name}/{ref}"
    assert entry.state is State.CORRUPT
    assert backend.counts().tasks[State.CORRUPT] == 1
    return entry.reason


@as_root
@pytest.mark.root
def test_somebody_elses_directory(spool: Path) -> None:
    """Its owner could run code as this user: a worker neither starts nor claims, but listings work. With a key, the
    owner cannot run unsigned code, and the directory is served.
    """
    put(spool / NAME, owner=SOMEBODY)
    os.chown(spool, SOMEBODY, SOMEBODY)
    backend = SpoolBackend(str(spool))
    with pytest.raises(SpoolerUnusable, match=f"belongs to user {SOMEBODY}.*as its owner, or set UNSPOOL_SECRET_KEY"):
        backend.feed()
    assert "belongs to user" in refused(backend)
    assert [entry.state for entry in inspection.tasks(backend)] == [State.READY]
    put(spool / NAME, wire.dump(CONTENT.vars, CONTENT.body, SIGNER), owner=SOMEBODY)
    signed = SpoolBackend(str(spool), signed=True)
    signed.feed().close()
    answer = claim_one(signed, NAME)
    assert isinstance(answer, Claim)
    os.close(answer.token.file)


@as_root
@pytest.mark.root
def test_a_directory_that_took_the_place_of_ours(spool: Path, tmp_path: Path) -> None:
    """Everyone who can write to the parent can replace the directory while workers run. The tasks in the new one are
    not run.
    """
    put(spool / NAME)
    backend = SpoolBackend(str(spool))
    backend.feed().close()
    spool.rename(tmp_path / "away")
    spool.mkdir()
    put(spool / "uwsgi_spoolfile_on_other", owner=SOMEBODY)
    os.chown(spool, SOMEBODY, SOMEBODY)
    assert "belongs to user" in refused(backend, "uwsgi_spoolfile_on_other")


@as_root
@pytest.mark.root
@pytest.mark.parametrize("part", [".unspool", "5"])
def test_a_part_that_somebody_else_made(spool: Path, part: str) -> None:
    """A member of a group with write access could create and own the directory of a priority, or ours: a task in it is
    not run, and nothing is sent through it.
    """
    backend = SpoolBackend(str(spool))
    (spool / part).mkdir()
    os.chown(spool / part, SOMEBODY, SOMEBODY)
    with pytest.raises(SpoolerUnusable, match=f"in {part}.*, a directory of user {SOMEBODY}"):
        backend.send([TASK._replace(priority=5)])
    if part == "5":
        put(spool / "5" / NAME)
        assert f"a directory of user {SOMEBODY}" in refused(backend, f"5/{NAME}")
        assert f"in 5, a directory of user {SOMEBODY}" in listed(backend, f"5/{NAME}")


def test_a_part_that_everybody_may_write_to(spool: Path) -> None:
    """A uWSGI with umask 0 creates such directories: everyone who reaches them could rename a file of ours to a
    task.
    """
    backend = SpoolBackend(str(spool))
    put(spool / "5" / NAME)
    (spool / "5").chmod(0o777)
    assert "everybody may write to; chmod o-w" in refused(backend, f"5/{NAME}")
    assert "everybody may write to" in listed(backend, f"5/{NAME}")
    with pytest.raises(SpoolerUnusable, match="everybody"):
        backend.send([TASK._replace(priority=5)])
    (spool / "5").chmod(0o755)
    answer = claim_one(backend, f"5/{NAME}")
    assert isinstance(answer, Claim)
    os.close(answer.token.file)


def test_parts_beyond_those_that_are_held_open(spool: Path) -> None:
    """With a hundred priorities, descriptors are not kept for all directories. The others are checked each time."""
    backend = SpoolBackend(str(spool), durable=False)
    for priority in range(100):
        backend.send([TASK._replace(priority=priority)])
    assert backend.counts().tasks[State.READY] == 100
    (spool / "99").chmod(0o777)
    (name,) = os.listdir(spool / "99")
    assert "everybody may write to" in refused(backend, f"99/{name}")
    (spool / "99").rename(spool.parent / "99")
    (spool / "99").symlink_to(spool.parent / "99")
    (spool.parent / "99").chmod(0o700)
    assert "a symbolic link, not a directory" in refused(backend, f"99/{name}")


@pytest.mark.parametrize(
    ("mode", "fine"), [(0o600, True), (0o644, True), (0o664, True), (0o602, False), (0o666, False)]
)
def test_a_file_that_everybody_may_write_to(spool: Path, mode: int, fine: bool) -> None:
    """Its content may be anyone's, if others can pass through the directory."""
    backend = SpoolBackend(str(spool))
    put(spool / NAME)
    (spool / NAME).chmod(mode)
    if fine:
        answer = claim_one(backend, NAME)
        assert isinstance(answer, Claim)
        os.close(answer.token.file)
    else:
        assert "everybody may write to" in refused(backend)
        assert "everybody may write to" in listed(backend)


def test_a_directory_that_its_group_may_write_to(spool: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is served, because the group often consists only of the user. The worker warns, unless there is a key."""
    spool.chmod(0o770)
    SpoolBackend(str(spool), signed=True).feed().close()
    assert caplog.text == ""
    SpoolBackend(str(spool)).feed().close()
    assert "may be written by its group" in caplog.text
    assert "UNSPOOL_SECRET_KEY" in caplog.text


INTRUDER = """
import os, sys
os.setgroups([]); os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[1]))
os.chdir(sys.argv[3])
{deed}
"""
Intrude = Callable[[str], None]


@pytest.fixture
def intrude(spool: Path) -> Intrude:
    """Do something in the directory as a member of its group who is not its owner."""

    def intrude(deed: str) -> None:
        code = INTRUDER.format(deed=deed)
        command = [sys.executable, "-c", code, str(SOMEBODY), str(OTHER), str(spool)]
        subprocess.run(command, check=True, cwd="/")

    os.chown(spool, os.geteuid(), OTHER)
    spool.chmod(0o2770)
    return intrude


@as_root
@pytest.mark.root
@pytest.mark.parametrize(
    "deed",
    [
        f"open({NAME!r}, 'wb').write(open('../task', 'rb').read())",
        f"os.symlink('../task', {NAME!r})",
        f"os.mkfifo({NAME!r})",
        f"os.mkdir('5'); open('5/{NAME}', 'wb').write(open('../task', 'rb').read())",
        f"os.symlink('..', '5'); os.path.exists('5/{NAME}') or exit(1)",
    ],
    ids=["file", "link", "fifo", "priority", "linked priority"],
)
def test_what_a_member_of_the_group_can_put_there(spool: Path, intrude: Intrude, deed: str) -> None:
    """A file, link, pipe or directory of another user never runs, and does not prevent others from running."""
    put(spool.parent / "task")
    put(spool.parent / NAME)
    (spool.parent / "task").chmod(0o644)
    intrude(deed)
    backend = SpoolBackend(str(spool))
    (good,) = backend.send([TASK])
    feed = backend.feed()
    while feed.refresh().more:
        pass
    answers = [claim_one(backend, ticket.ref) for ticket in feed.take(10)]
    feed.close()
    claims = [answer for answer in answers if isinstance(answer, Claim)]
    assert [claim.id for claim in claims] == [good]
    os.close(claims[0].token.file)
    assert all(answer.kind is RefusalKind.UNUSABLE for answer in answers if isinstance(answer, Refusal))
