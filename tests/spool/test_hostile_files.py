"""Files with the name of a task that are not tasks, or not ours: they never run, affect no other, and have a reason."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from unspool import inspection, wire
from unspool.backends.change import Remove
from unspool.backends.spool import SpoolBackend
from unspool.message import Claim, Content, Refusal, RefusalKind, Release, State
from unspool.testing.exchange import claim_one, content_of, sealed, settle_one

NAME = "uwsgi_spoolfile_on_host_1_1_1_1_1"


class Clock:
    """A time that the test sets."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        import time

        return time.time() + self.ahead


@pytest.fixture
def clock() -> Clock:
    """Ten seconds ahead of the files, so that they do not count as being written."""
    found = Clock()
    found.ahead = 10.0
    return found


@pytest.fixture
def backend(tmp_path: Path, clock: Clock) -> SpoolBackend:
    """A spooler with one good task."""
    found = SpoolBackend(str(tmp_path / "mail"), clock=clock)
    found.send([sealed(Content({"msg": b"good"}, b"", None, None))])
    return found


def claim_all(backend: SpoolBackend) -> tuple[list[Claim], list[Refusal]]:
    """Claim all tasks of the feed."""
    feed = backend.feed()
    while feed.refresh().more:
        pass
    answers = [claim_one(backend, ticket.ref) for ticket in feed.take(1000)]
    feed.close()
    claims = [answer for answer in answers if isinstance(answer, Claim)]
    for claim in claims:
        settle_one(backend, claim, Release())
    return claims, [answer for answer in answers if isinstance(answer, Refusal)]


def put(backend: SpoolBackend, data: bytes, name: str = NAME) -> Path:
    """Write a file in place, as another program does."""
    path = Path(backend.name, name)
    path.write_bytes(data)
    return path


GOOD = wire.dump({"msg": b"x"}, b"body", None)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x11",
        b"\x11\x05\x00",
        b"\x11\x05\x00\x00",
        GOOD[:-1],
        GOOD[:20],
        GOOD + b"x",
        b"garbage " * 100,
        b"\0" * 5000,
    ],
    ids=["empty", "1 byte", "3 bytes", "no variables", "body cut", "variables cut", "longer", "garbage", "zeros"],
)
def test_damaged_files_are_set_aside_undecoded(backend: SpoolBackend, data: bytes) -> None:
    """They are moved to corrupt with a reason and unchanged bytes. The good task is claimed."""
    put(backend, data)
    claims, refusals = claim_all(backend)
    assert [content_of(claim).vars["msg"] for claim in claims] == [b"good"]
    assert [refusal.kind for refusal in refusals] == [RefusalKind.CORRUPT]
    (entry,) = inspection.tasks(backend, frozenset({State.CORRUPT}))
    assert entry.reason == refusals[0].detail != ""
    assert Path(entry.id).read_bytes() == data
    assert "corrupt" in Path(entry.id).parts


def test_a_file_in_the_writing_is_waited_for(backend: SpoolBackend, clock: Clock) -> None:
    """A short file that is a few seconds old may still be written: the claim is refused as early, not as corrupt."""
    clock.ahead = 0.0
    path = put(backend, GOOD[:10])
    refusal = claim_one(backend, path.name)
    assert isinstance(refusal, Refusal)
    assert refusal.kind is RefusalKind.EARLY
    path.write_bytes(GOOD)
    assert isinstance(claim_one(backend, path.name), Claim)


@pytest.mark.parametrize("size", [1 << 43, 1 << 30, (1 << 28) + (1 << 17)])
def test_an_8_tib_sparse_file_allocates_nothing(backend: SpoolBackend, size: int) -> None:
    """It is set aside at once by a process that may use 200 MB; so is a file slightly larger than allowed."""
    path = put(backend, GOOD)
    os.truncate(path, size)
    code = (
        "import resource, sys, time\n"
        "resource.setrlimit(resource.RLIMIT_AS, (200 << 20,) * 2)\n"
        "from unspool.backends.spool import SpoolBackend\n"
        "print(SpoolBackend(sys.argv[1], clock=lambda: time.time() + 10).exchange([], [sys.argv[2]]).taken[0].kind)\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, backend.name, path.name], capture_output=True, text=True, check=True
    )
    assert found.stdout == "corrupt\n"


@pytest.mark.parametrize("kind", ["symlink", "dangling symlink", "fifo", "directory", "hard link", "socket"])
def test_what_is_no_regular_file_is_never_run(backend: SpoolBackend, tmp_path: Path, kind: str) -> None:
    """It is skipped with a reason, without blocking, stays where it is, and is listed. The good task is claimed."""
    outside = tmp_path / "outside"
    outside.write_bytes(GOOD)
    path = Path(backend.name, NAME)
    match kind:
        case "symlink":
            path.symlink_to(outside)
        case "dangling symlink":
            path.symlink_to("/nowhere/at/all")
        case "fifo":
            os.mkfifo(path)
        case "directory":
            path.mkdir()
        case "hard link":
            os.link(outside, path)
        case "socket":
            import socket

            here = os.open(backend.name, os.O_RDONLY)
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(f"/proc/self/fd/{here}/{NAME}")
            os.close(here)
    claims, refusals = claim_all(backend)
    assert [content_of(claim).vars["msg"] for claim in claims] == [b"good"]
    assert [refusal.kind for refusal in refusals] == [RefusalKind.UNUSABLE]
    assert refusals[0].detail
    assert os.path.lexists(path)
    shown = {entry.id: entry for entry in inspection.tasks(backend)}[str(path)]
    assert shown.state is State.CORRUPT
    assert shown.reason
    assert backend.counts().tasks[State.CORRUPT] == 1
    if kind != "directory":
        backend.change(str(path), Remove())
        assert not os.path.lexists(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="giving files away needs root")
@pytest.mark.root
def test_somebody_elses_file_is_never_run(tmp_path: Path, clock: Clock) -> None:
    """A file that belongs neither to the owner of the directory, nor to root or this user is skipped, and the user
    named.
    """
    backend = SpoolBackend(str(tmp_path / "mail"), clock=clock)
    backend.send([sealed(Content({"msg": b"good"}, b"", None, None))])
    path = put(backend, GOOD)
    os.chown(path, 12345, 12345)
    claims, refusals = claim_all(backend)
    assert [content_of(claim).vars["msg"] for claim in claims] == [b"good"]
    assert [(refusal.kind, "user 12345" in refusal.detail) for refusal in refusals] == [(RefusalKind.UNUSABLE, True)]


def test_an_unreadable_file_is_skipped(tmp_path: Path) -> None:
    """Mode 000, for an ordinary user: it has a reason, and does not end the worker."""
    spool = tmp_path / "mail"
    code = (
        "import os, sys\n"
        "from unspool.backends.spool import SpoolBackend\n"
        "if os.geteuid() == 0: os.setgid(65534); os.setuid(65534)\n"
        "path = sys.argv[1] + '/uwsgi_spoolfile_on_x'\n"
        "os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0))\n"
        "answer = SpoolBackend(sys.argv[1]).exchange([], [os.path.basename(path)]).taken[0]\n"
        "print(answer.kind, answer.detail)\n"
    )
    spool.mkdir()
    if os.geteuid() == 0:
        os.chown(spool, 65534, 65534)
        for folder in spool.parents[:4]:
            folder.chmod(folder.stat().st_mode | 0o011)
    found = subprocess.run([sys.executable, "-c", code, str(spool)], capture_output=True, text=True, check=True)
    assert found.stdout == "unusable not readable by this user\n"


def test_random_files_never_do_harm(backend: SpoolBackend) -> None:
    """Random bytes, and random changes of a good file: each is claimed unchanged or refused, and nothing raises."""
    seed = random.randrange(1 << 32)
    print("seed", seed)
    source = random.Random(seed)
    for number in range(300):
        data = bytearray(GOOD if number % 2 else source.randbytes(source.randrange(200)))
        for _ in range(source.randrange(4)):
            if data:
                data[source.randrange(len(data))] = source.randrange(256)
        name = f"{NAME}{number}"
        put(backend, bytes(data), name)
        answer = claim_one(backend, name)
        if isinstance(answer, Claim):
            content = content_of(answer)
            assert not content.sealed or content[:2] == ({"msg": b"x"}, b"body")
            settle_one(backend, answer, Release())
        else:
            assert answer.kind is RefusalKind.CORRUPT


def test_junk_names_are_ignored(backend: SpoolBackend) -> None:
    """Other names, dot names and directories with odd names are ignored."""
    for name in ("README", ".hidden", "uwsgi_spoolfile", "x.swp"):
        put(backend, b"junk", name)
    for folder in ("-1", "1e3", "²", "..5", "0x10", "1234567890"):
        Path(backend.name, folder).mkdir()
        Path(backend.name, folder, NAME).write_bytes(GOOD)
    claims, refusals = claim_all(backend)
    assert [content_of(claim).vars["msg"] for claim in claims] == [b"good"]
    assert refusals == []


def test_a_copied_queue_is_drained(backend: SpoolBackend, tmp_path: Path, clock: Clock) -> None:
    """The spool of a lost machine is copied with ``cp -r``, and its tasks exist."""
    backend.send([sealed(Content({"msg": b"five"}, b"", 5, None))])
    subprocess.run(["cp", "-r", backend.name, tmp_path / "copy"], check=True)
    claims, _ = claim_all(SpoolBackend(str(tmp_path / "copy"), clock=clock))
    assert [content_of(claim).vars["msg"] for claim in claims] == [b"five", b"good"]
