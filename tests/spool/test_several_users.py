"""One directory for several users: root beside the owner, and the members of a group that shares it."""

import os
import pickle
import signal
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from unspool import codec
from unspool.backends.spool import SpoolBackend
from unspool.backends.spool.directory import Directory
from unspool.errors import SpoolerUnusable
from unspool.message import Ack, Claim, Disposition, Message, Refusal, Retry
from unspool.seal import Seal
from unspool.signing import Signer
from unspool.testing.exchange import claim_one, content_of, sealed, settle_one

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="to be several users needs root")]

OWNER, OTHER, GROUP = 12345, 23456, 34567
SIGNED = Seal("mail", Signer(["k" * 32], "mail"))
UNSIGNED = Seal("mail")
CONTENT = codec.encode(Message("task"))
TASK = sealed(CONTENT)
KINDS = {
    "plain": CONTENT,
    "priority": CONTENT._replace(priority=5),
    "postponed": CONTENT._replace(due=time.time() + 3600),
    "large": CONTENT._replace(body=bytes(10_000)),
}


@pytest.fixture
def spool() -> Iterator[Path]:
    """A directory of ``OWNER``, which others can reach. pytest makes its own directories private at each start."""
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)
        path = Path(place, "mail")
        path.mkdir(mode=0o700)
        os.chown(path, OWNER, GROUP)
        yield path


@pytest.fixture(autouse=True, scope="module")
def _imported(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Import as this user everything that is imported late, because other users may not be able to read it."""
    warm = tmp_path_factory.mktemp("warm")
    for seal in (UNSIGNED, SIGNED):
        sent = SpoolBackend(str(warm), signed=seal is SIGNED).send([sealed(CONTENT, seal)] * 2)
        assert run(warm, sent[0], Ack(), seal) == "attempt 1"


def as_user(uid: int, work: Callable[[], Any], *, gid: int = GROUP, umask: int = 0o022) -> Any:
    """Return what the work returns, or raise what it raises, as this user in a separate process."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.alarm(30)
        try:
            os.umask(umask)
            if uid:
                os.setgroups([GROUP])
                os.setgid(gid)
                os.setuid(uid)
            answer = work()
        except BaseException as error:  # noqa: BLE001  it is the answer
            answer = error
        os.write(writer, pickle.dumps(answer))
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        answer = pickle.loads(pipe.read())
    os.waitpid(pid, 0)
    if isinstance(answer, BaseException):
        raise answer
    return answer


def run(spool: Path, id: str, disposition: Disposition, seal: Seal = UNSIGNED, late: float = 7200.0) -> str:
    """Claim and settle a task as a worker does. If it is refused, return the reason."""
    worker = SpoolBackend(str(spool), signed=seal is SIGNED, clock=lambda: time.time() + late)
    worker.feed().close()
    claim = claim_one(worker, os.path.relpath(id, spool), seal)
    if isinstance(claim, Refusal):
        return f"{claim.kind} {claim.detail}"
    settle_one(worker, claim, disposition)
    worker.close()
    return f"attempt {claim.attempts}"


@pytest.mark.parametrize("durable", [False, True], ids=["relaxed", "full"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_root_sends_is_run_by_the_owner(spool: Path, kind: str, durable: bool) -> None:
    """Also if root is the first to use the directory or a priority, everything that it creates belongs to the owner,
    who can run and postpone tasks, and send.
    """

    def send() -> str:
        (id,) = SpoolBackend(str(spool), durable=durable).send([sealed(KINDS[kind])])
        return id

    id = as_user(0, send)
    made = list(spool.rglob("*"))
    assert {(path.stat().st_uid, path.stat().st_gid) for path in made} == {(OWNER, GROUP)}
    assert {stat.S_IMODE(path.stat().st_mode) for path in made} == {0o600, 0o700}
    assert as_user(OWNER, lambda: run(spool, id, Retry(1.0))) == "attempt 1"
    assert as_user(OWNER, lambda: run(spool, id, Ack())) == "attempt 2"
    assert as_user(OWNER, lambda: run(spool, send(), Ack())) == "attempt 1"
    assert not any(path.name.startswith((".5", ".tmp")) for path in spool.rglob("*"))


@pytest.mark.parametrize("durable", [False, True], ids=["relaxed", "full"])
@pytest.mark.parametrize(("owner", "mode"), [(0, 0o2770), (OWNER, 0o770)], ids=["root's, setgid", "a user's"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_group_with_a_secret_key(spool: Path, kind: str, owner: int, mode: int, durable: bool) -> None:
    """Whichever member of the group is first, with any umask and group, the others can run and postpone its tasks, and
    send.
    """
    os.chown(spool, owner, GROUP)
    spool.chmod(mode)

    def send() -> str:
        (id,) = SpoolBackend(str(spool), signed=True, durable=durable).send([sealed(KINDS[kind], SIGNED)])
        return id

    id = as_user(OTHER, send, gid=OTHER, umask=0o077)
    assert as_user(OWNER, lambda: run(spool, id, Retry(time.time() + 3600), SIGNED)) == "attempt 1"
    assert os.stat(id).st_mtime == pytest.approx(time.time() + 3600, abs=60)
    assert as_user(OTHER, lambda: run(spool, id, Ack(), SIGNED), gid=OTHER, umask=0o077) == "attempt 2"
    assert as_user(OWNER, lambda: run(spool, send(), Ack(), SIGNED)) == "attempt 1"


def test_a_group_without_a_secret_key(spool: Path) -> None:
    """The owner's workers would not run a task of another member, so it is refused when it is sent."""
    spool.chmod(0o770)
    with pytest.raises(SpoolerUnusable, match=f"belongs to user {OWNER}, whose workers would not run a task of"):
        as_user(OTHER, lambda: SpoolBackend(str(spool)).send([TASK]))
    assert list(spool.rglob("uwsgi_spoolfile_on_*")) == []
    (id,) = as_user(OWNER, lambda: SpoolBackend(str(spool)).send([TASK]))
    assert as_user(OWNER, lambda: run(spool, id, Ack())) == "attempt 1"


def test_a_group_without_a_secret_key_runs_no_foreign_file(spool: Path) -> None:
    """A file of a member of the group does not run, because its sender is unknown."""
    spool.chmod(0o770)
    name = "uwsgi_spoolfile_on_host_1_1_1_1_1"

    def put() -> None:
        (spool / name).write_bytes(sealed(CONTENT, SIGNED).data)
        (spool / name).chmod(0o660)

    as_user(OTHER, put)
    assert f"a file of user {OTHER}" in as_user(OWNER, lambda: run(spool, f"{spool}/{name}", Ack()))
    assert as_user(OWNER, lambda: run(spool, f"{spool}/{name}", Ack(), SIGNED)) == "attempt 1"


def test_a_priority_of_roots_names_itself(spool: Path) -> None:
    """An earlier program has created it so: the error names the directory."""
    as_user(OWNER, lambda: SpoolBackend(str(spool)).send([TASK]))
    (spool / "5").mkdir(mode=0o700)
    with pytest.raises(SpoolerUnusable, match="this user may not use its directory 5; check"):
        as_user(OWNER, lambda: SpoolBackend(str(spool)).send([sealed(KINDS["priority"])]))


def test_what_was_there_is_not_given_away(spool: Path) -> None:
    """The owner could put another name of a file of root where root is about to write."""
    secret = spool.parent / "secret"
    secret.touch()
    os.link(secret, spool / "writers")
    directory = Directory(str(spool))
    directory.fd("")
    fd = directory.hand_over(os.open(spool / "writers", os.O_RDWR))
    os.close(fd)
    assert secret.stat().st_uid == 0


def test_a_claim_is_whole(spool: Path) -> None:
    """A task of another member of the group arrives unchanged, also after it was copied to be postponed."""
    spool.chmod(0o2770)
    body = os.urandom(3 << 20)

    def read(id: str) -> bytes:
        worker = SpoolBackend(str(spool), signed=True, clock=lambda: time.time() + 7200)
        claim = claim_one(worker, os.path.relpath(id, spool), SIGNED)
        assert isinstance(claim, Claim)
        return content_of(claim).body[-1000:]

    task = sealed(CONTENT._replace(body=body), SIGNED)
    (id,) = as_user(OTHER, lambda: SpoolBackend(str(spool), signed=True).send([task]))
    assert as_user(OWNER, lambda: run(spool, id, Retry(time.time() + 3600), SIGNED)) == "attempt 1"
    assert os.stat(id).st_uid == OWNER
    assert as_user(OWNER, lambda: read(id)) == body[-1000:]


# --- the key-value table


def test_items_that_root_puts_are_the_owners(spool: Path) -> None:
    """Root, who may be the first to use the table, and the owner of the directory read and replace each other's
    items.
    """

    def use(uid: int, value: bytes) -> bytes:
        def work() -> bytes:
            kv = SpoolBackend(str(spool)).kv
            (item,) = kv.get(["key"])
            assert kv.put("key", value, expect=item.version if item else 0)
            return item.value if item else b""

        found: bytes = as_user(uid, work)
        return found

    assert [use(0, b"1"), use(OWNER, b"2"), use(0, b"3"), use(OWNER, b"4")] == [b"", b"1", b"2", b"3"]
    made = [path.stat() for path in (spool / ".unspool").rglob("*")]
    assert {(found.st_uid, found.st_gid) for found in made} == {(OWNER, GROUP)}
    assert {stat.S_IMODE(found.st_mode) for found in made} == {0o600, 0o700}


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_items_of_a_group(spool: Path, umask: int) -> None:
    """The members of a group that shares the directory have one table, also without a secret key."""
    os.chmod(spool, 0o2770)

    def use(uid: int, value: bytes) -> bytes:
        def work() -> bytes:
            kv = SpoolBackend(str(spool)).kv
            (item,) = kv.get(["key"])
            assert kv.put("key", value, expect=item.version if item else 0)
            return item.value if item else b""

        found: bytes = as_user(uid, work, umask=umask)
        return found

    assert [use(OTHER, b"1"), use(OWNER, b"2"), use(OTHER, b"3"), use(0, b"4")] == [b"", b"1", b"2", b"3"]
    assert as_user(OWNER, lambda: SpoolBackend(str(spool)).kv.drop("key"))


def test_an_item_of_a_stranger(spool: Path) -> None:
    """A file of a user who is neither the owner nor in the group is not an item."""
    as_user(OWNER, lambda: SpoolBackend(str(spool)).kv.put("key", b"value"))
    os.chown(spool / ".unspool/kv/,key", OTHER, OTHER)
    assert SpoolBackend(str(spool)).kv.get(["key"]) == [None]
    assert as_user(OWNER, lambda: SpoolBackend(str(spool)).kv.put("key", b"new", expect=0))
