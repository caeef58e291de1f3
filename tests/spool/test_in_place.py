"""Tasks that need no sync are written under their final names, and are tasks only when they are complete."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from unspool import inspection, points, wire
from unspool.backends.spool import SpoolBackend
from unspool.message import Claim, Content, Envelope, Refusal, RefusalKind, State
from unspool.testing.exchange import claim_one, sealed

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere tasks are sent by way of drafts")

CONTENT = Content({"msg": b"good"}, b"", None, None)
ENVELOPE = sealed(CONTENT)
DIES = """
import os, sys
from unspool import points
from unspool.backends.spool import SpoolBackend
from unspool.message import Content
from unspool.testing.exchange import sealed
points.reach = lambda name: os._exit(0) if name == sys.argv[2] else None
SpoolBackend(sys.argv[1], durable=False).send([sealed(Content({"msg": b"good"}, b"", None, None))])
"""


@pytest.fixture
def backend(tmp_path: Path) -> SpoolBackend:
    """An empty spooler whose tasks are not synced."""
    return SpoolBackend(str(tmp_path / "mail"), durable=False)


def tasks(backend: SpoolBackend) -> list[Path]:
    """Return the files with the name of a task."""
    return [path for path in Path(backend.name).rglob("uwsgi_spoolfile_on_*") if path.is_file()]


def seen_while_sending(backend: SpoolBackend, envelopes: list[Envelope], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the directories below the spooler in which files were written."""
    found: list[str] = []

    def look(name: str) -> None:
        if name == "send.written":
            found.extend(sorted(str(path.parent.relative_to(backend.name)) for path in tasks(backend)))

    monkeypatch.setattr(points, "reach", look)
    backend.send(envelopes)
    return found


def test_nobody_takes_it_for_a_task_while_it_is_written(backend: SpoolBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither workers nor listings of any user see it. Afterwards, it is an ordinary task."""
    answers: list[Claim | Refusal] = []

    def look(name: str) -> None:
        if name in ("send.created", "send.written"):
            (path,) = tasks(backend)
            other = SpoolBackend(backend.name)
            answers.append(claim_one(other, path.name))
            assert list(inspection.tasks(other)) == []
            assert other.counts().tasks == dict.fromkeys(State, 0)
            assert inspection.find(other, str(path)) is None

    monkeypatch.setattr(points, "reach", look)
    (id,) = backend.send([ENVELOPE])
    assert [isinstance(answer, Refusal) and answer.kind for answer in answers] == [RefusalKind.EARLY] * 2
    assert stat.S_IMODE(os.stat(id).st_mode) == 0o600
    claim = claim_one(backend, os.path.basename(id))
    assert isinstance(claim, Claim)
    os.close(claim.token.file)


@pytest.mark.parametrize("point", ["send.created", "send.written"])
def test_what_a_dead_sender_left_is_removed(backend: SpoolBackend, point: str) -> None:
    """The worker that finds it removes it without a trace, because its send never returned."""
    subprocess.run([sys.executable, "-c", DIES, backend.name, point], check=True)
    (path,) = tasks(backend)
    answer = claim_one(backend, path.name)
    assert isinstance(answer, Refusal)
    assert (answer.kind, tasks(backend)) == (RefusalKind.GONE, [])


def test_what_a_person_made_unreadable_is_kept(backend: SpoolBackend) -> None:
    """A file without any mode is still a task. A sender leaves another mode."""
    subprocess.run([sys.executable, "-c", DIES, backend.name, "nowhere"], check=True)
    (path,) = tasks(backend)
    path.chmod(0)
    answer = claim_one(backend, path.name)
    if isinstance(answer, Claim):  # root may read it
        os.close(answer.token.file)
    assert tasks(backend) == [path]


@pytest.mark.parametrize(
    ("envelopes", "places"),
    [
        ([ENVELOPE], ["."]),
        ([ENVELOPE._replace(priority=5)], ["5"]),
        ([sealed(CONTENT._replace(body=bytes(5000)))], [".unspool/tmp"]),
        ([ENVELOPE._replace(due=2e9)], [".unspool/tmp"]),
        ([ENVELOPE, ENVELOPE._replace(priority=5)], [".", ".", "5"]),
        ([ENVELOPE, ENVELOPE._replace(due=2e9)], [".unspool/tmp"] * 3),
    ],
    ids=["plain", "priority", "more than a page", "postponed", "several", "several, one of them postponed"],
)
def test_which_ones(
    backend: SpoolBackend, envelopes: list[Envelope], places: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a task that one write completes, and that may run at once, is written in place."""
    assert seen_while_sending(backend, envelopes, monkeypatch) == places


def test_not_where_tasks_are_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut would leave an empty file under its name."""
    backend = SpoolBackend(str(tmp_path / "mail"))
    assert seen_while_sending(backend, [ENVELOPE], monkeypatch) == [".unspool/tmp"]


def test_a_full_disk_leaves_nothing_behind(backend: SpoolBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller gets an error, as always."""

    def fail(name: str) -> None:
        if name == "send.created":
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(points, "reach", fail)
    for count in (1, 3):
        with pytest.raises(OSError, match="the disk is full"):
            backend.send([ENVELOPE] * count)
        assert tasks(backend) == []


def test_of_several_none_is_seen_before_all_of_them_are_written(
    backend: SpoolBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many files are open at once as is possible. Each is then visible, in order."""
    seen: list[int] = []
    other = SpoolBackend(backend.name)
    monkeypatch.setattr(
        points, "reach", lambda name: seen.append(other.counts().tasks[State.READY]) if name == "send.written" else None
    )
    ids = backend.send([ENVELOPE] * 40)
    assert seen == [0] * 32 + [32] * 8
    assert [entry.id for entry in inspection.tasks(other)] == ids


def test_the_file_is_uwsgis_own_format(backend: SpoolBackend) -> None:
    """It is written at once, with the same bytes as in a draft."""
    (id,) = backend.send([ENVELOPE])
    assert Path(id).read_bytes() == wire.dump(CONTENT.vars, CONTENT.body, None)
