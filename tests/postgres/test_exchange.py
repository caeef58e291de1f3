"""One transaction settles runs and claims tasks. No failure makes the counts of attempts and crashes wrong."""

import contextlib
import logging
import os
import threading
import time
from collections.abc import Iterator, Sequence

import psycopg
import pytest

from unspool import inspection
from unspool.address import Address, parse
from unspool.backends.postgres import PostgresBackend
from unspool.backends.postgres.session import CLAIMS
from unspool.errors import Damaged, SpoolerUnreachable, SpoolerUnusable
from unspool.message import (
    Ack,
    Bury,
    Claim,
    Content,
    DeferOnCrash,
    Disposition,
    End,
    Interrupted,
    Record,
    Refusal,
    RefusalKind,
    Release,
    Retry,
    State,
)
from unspool.seal import Seal, end_of_damaged
from unspool.testing.exchange import sealed

from ..runtime.conftest import PATIENCE
from .conftest import look_at, url_of, wait_until
from .proxy import Proxy
from .server import Server
from .test_ahead import send
from .test_sessions import end_session

Two = tuple[PostgresBackend, PostgresBackend]


@pytest.fixture
def two(address: Address) -> Iterator[Two]:
    """Yield the backends of a worker and of another process on one queue."""
    with contextlib.closing(look_at(address)) as worker, contextlib.closing(look_at(address)) as other:
        yield worker, other


def claim(backend: PostgresBackend, refs: Sequence[str], ends: Sequence[End] = ()) -> list[Claim]:
    """Claim tasks. Fail if any is refused."""
    taken = backend.exchange(ends, refs).taken
    assert not [one for one in taken if isinstance(one, Refusal)]
    return [one for one in taken if isinstance(one, Claim)]


def end(claim: Claim, disposition: Disposition = Ack(), *, repeated: bool = False) -> End:  # noqa: B008
    """Return the end of a run with its record."""
    return End(claim, disposition, Record(claim.id, "task", "processed", claim.attempts, 1.0, 0.1, 1), repeated)


def counts_of(backend: PostgresBackend, ref: str) -> tuple[int, int, int]:
    """Return the attempts, crashes and fence of a task."""
    query = "SELECT attempts, crashes, fence FROM unspool.task WHERE id = %s"
    with backend.connector.lend() as control:
        found: tuple[int, int, int] | None = control.execute(query, [int(ref)]).fetchone()
    assert found is not None
    return found


def locks_of(backend: PostgresBackend) -> int:
    """Return the number of claims whose locks the session of a backend holds."""
    connection = backend.session.connection
    assert connection is not None
    query = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = %s AND classid::int8 = %s"
    with backend.connector.lend() as control:
        row = control.execute(query, [connection.info.backend_pid, CLAIMS >> 32]).fetchone()
    assert row is not None
    return int(row[0])


def test_ends_and_claims_in_one_call(two: Two) -> None:
    """Each ref has a claim or refusal, and each end a time. Everything is stored when the call returns."""
    worker, other = two
    refs = send(worker, 9)
    first = claim(worker, refs[:5])
    assert [(one.ref, one.attempts, one.crashes) for one in first] == [(ref, 1, 0) for ref in refs[:5]]
    at = time.time() + 60
    dispositions = (Ack(), Retry(at), Release(), Bury("no good"), Ack())
    ends = [end(one, disposition) for one, disposition in zip(first, dispositions, strict=True)]
    assert other.exchange((), [refs[0]]).taken == [Refusal(RefusalKind.BUSY)]
    asked = [refs[5], "4000000000", refs[6], refs[6], "no number", refs[2]]
    ended, taken = worker.exchange(ends, asked)
    assert ended[:2] + ended[3:] == [None, at, None, None]
    assert [one.ref if isinstance(one, Claim) else one.kind for one in taken] == [
        refs[5], RefusalKind.GONE, refs[6], refs[6], RefusalKind.GONE, refs[2],
    ]  # fmt: skip
    assert other.counts().tasks == {
        State.READY: 2, State.DEFERRED: 1, State.RUNNING: 3, State.DEAD: 1, State.CORRUPT: 0,
    }  # fmt: skip
    (refused,) = worker.exchange((), [refs[1]]).taken
    assert isinstance(refused, Refusal)
    assert refused.kind is RefusalKind.EARLY
    assert refused.until == pytest.approx(at, abs=1)
    assert {run.id.rpartition("/")[2] for run in inspection.runs(other)} == set(refs[:5])
    assert locks_of(worker) == 3


@pytest.mark.parametrize(
    "text", ['a "quoted" \\ and {a, b}', "NULL", "", "two\nlines\t", "\N{SNOWMAN}", "a\0b", "\ud83d"]
)
@pytest.mark.parametrize("disposition", [Ack(), Retry(0.0), Bury("")])
def test_texts_of_several_runs(two: Two, text: str, disposition: Disposition) -> None:
    """Labels, errors and reasons are stored unchanged, or with escapes if no column can store them."""
    worker, other = two
    claims = claim(worker, send(worker, 2))
    given = Bury(text) if isinstance(disposition, Bury) else disposition
    ends = [End(one, given, Record(one.id, text, "processed", 1, 1.5, 0.25, 7, text)) for one in claims]
    worker.exchange([*ends[:1], ends[1]._replace(record=None)], ())
    escaped = text.replace("\0", "\\x00").replace("\ud83d", "\\ud83d")
    assert inspection.runs(other) == [Record(claims[0].id, escaped, "processed", 1, 1.5, 0.25, 7, escaped)]
    reasons = {Ack: set(), Retry: {""}, Bury: {escaped}}[type(disposition)]
    assert {entry.reason for entry in inspection.tasks(other)} == reasons


@pytest.mark.parametrize(
    ("disposition", "repeated", "ended", "logged"),
    [
        (Ack(), False, False, True), (Ack(), False, True, True), (Ack(), True, False, True), (Ack(), True, True, False),
        (Retry(0.0), False, False, True), (Retry(0.0), True, False, False), (Release(), True, False, False),
    ],
)  # fmt: skip
def test_an_end_whose_claim_was_lost(
    two: Two, disposition: Disposition, repeated: bool, ended: bool, logged: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """An end without its claim changes nothing, and the lock is free.

    It is logged unless an earlier call may have settled it.
    """
    worker, other = two
    lost, kept = claim(worker, send(worker, 2))
    with other.connector.lend() as control:
        control.execute("UPDATE unspool.task SET begun = NULL, owner = NULL, fence = 0 WHERE id = %s", [int(lost.ref)])
    (taken,) = claim(other, [lost.ref])
    if ended:
        other.exchange([end(taken)], ())
    with caplog.at_level(logging.ERROR, "unspool"):
        worker.exchange([end(lost, disposition, repeated=repeated), end(kept)], ())
    assert [lost.id in message and "claim was lost" in message for message in caplog.messages] == [True] * logged
    if not ended:
        assert counts_of(other, lost.ref) == (2, 0, taken.fence)
    assert (locks_of(worker), locks_of(other)) == (0, int(not ended))
    assert worker.session.tasks == {}


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("retrying", [False, True])
def test_a_call_whose_answer_is_lost(server: Server, address: Address, count: int, retrying: bool) -> None:
    """A call whose answer was lost can be repeated.

    Its end is settled once, and its claims count no attempt and no crash.
    """
    proxy = Proxy(server.port)
    with (
        contextlib.closing(look_at(parse(url_of(address, proxy.port)))) as worker,
        contextlib.closing(look_at(address)) as other,
        psycopg.connect(address.url) as locker,
    ):
        refs = send(other, 1 + count)
        first = claim(worker, refs[:1])[0]
        locker.execute("SELECT 1 FROM unspool.task WHERE id = %s FOR UPDATE", [int(refs[-1])])
        failures: list[SpoolerUnusable] = []

        def exchange() -> None:
            try:
                worker.exchange([end(first)], refs[1:])
            except SpoolerUnusable as error:
                failures.append(error)

        thread = threading.Thread(target=exchange)
        thread.start()
        waiting = "SELECT 1 FROM pg_locks WHERE NOT granted AND locktype IN ('tuple', 'transactionid')"
        with other.connector.lend() as control:
            wait_until(lambda: control.execute(waiting).fetchone())
        proxy.cut()
        thread.join(PATIENCE)
        assert isinstance(failures[0], SpoolerUnreachable)
        locker.rollback()
        wait_until(lambda: counts_of(other, refs[-1])[0] == 1)
        proxy.restore()
        if retrying:
            claims = claim(worker, refs[1:], [end(first, repeated=True)])
            assert [(one.attempts, one.crashes) for one in claims] == count * [(1, 0)]
        else:  # the refs have gone to other workers
            worker.exchange([end(first, repeated=True)], ())
            assert [(one.attempts, one.crashes) for one in claim(other, refs[1:])] == count * [(1, 0)]
            assert worker.registrations.claims == set()
        assert len(inspection.runs(other)) == 1
    proxy.close()


def test_a_task_that_must_run_alone(two: Two) -> None:
    """No claim beside it is made in the same call, so that the end of a worker concerns one of them. The other tasks
    lose nothing, and are claimed by further calls."""
    worker, other = two
    refs = send(worker, 4)
    with other.connector.lend() as control:
        control.execute("UPDATE unspool.task SET fence = -1 WHERE id = ANY(%s)", [[int(ref) for ref in refs[1:3]]])
    order = []
    left = list(refs)
    while left:
        taken = worker.exchange((), left).taken
        claims = [one for one in taken if isinstance(one, Claim)]
        assert {one.kind for one in taken if isinstance(one, Refusal)} <= {RefusalKind.EARLY}
        order.append([one.ref for one in claims])
        assert all(one.attempts == 1 for one in claims)
        assert [one.fence & 1 for one in claims] == ([0] if claims[0].ref in refs[1:3] else [1, 1])
        worker.exchange([end(one) for one in claims], ())
        left = [ref for ref in left if ref not in order[-1]]
    assert order == [[refs[1]], [refs[2]], [refs[0], refs[3]]]
    assert locks_of(worker) == 0


def test_a_damaged_task_among_others(two: Two) -> None:
    """A damaged task is claimed with the others, and becomes a dead letter when its seal is found to be invalid."""
    worker, other = two
    refs = send(worker, 3)
    with other.connector.lend() as control:
        control.execute("UPDATE unspool.task SET data = '\\x00' WHERE id = %s", [int(refs[1])])
    taken = [one for one in worker.exchange((), refs).taken if isinstance(one, Claim)]
    assert [one.ref for one in taken] == refs
    with pytest.raises(Damaged, match="cut short") as caught:
        Seal().open(taken[1].envelope)
    assert worker.exchange([end_of_damaged(taken[1], caught.value)], ()).ended == [None]
    (entry,) = inspection.tasks(other, frozenset({State.CORRUPT}))
    assert (entry.reason, entry.attempts) == (str(caught.value), 0)
    assert locks_of(worker) == 2


def test_a_task_that_does_not_fit_into_memory(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that does not fit into memory counts a crash, and the tasks claimed with it do not."""
    worker, other = two
    (large,) = (
        id.rpartition("/")[2] for id in other.send([sealed(Content({"msg": b"task"}, b"x" * 300_000, None, None))])
    )
    refs = [*send(other, 2), large]

    def read(*_: object, **__: object) -> bytes:
        raise MemoryError

    monkeypatch.setattr(worker._exchange._content, "_read", read)  # noqa: SLF001  one task only
    with pytest.raises(SpoolerUnusable, match=f"/{large} does not fit into the memory of process {os.getpid()}"):
        worker.exchange((), refs)
    assert [counts_of(other, ref)[:2] for ref in refs] == [(0, 0), (0, 0), (1, 1)]
    assert (locks_of(worker), worker.session.tasks, worker.registrations.claims) == (0, {}, set())
    assert len(claim(other, refs)) == 3


def test_a_claim_without_its_lock(two: Two, address: Address) -> None:
    """If another session has the lock of a claim, the claim is withdrawn. The claims beside it are kept."""
    worker, other = two
    refs = send(worker, 2)
    with psycopg.connect(address.url, autocommit=True) as control:
        control.execute("SELECT pg_advisory_lock(%s + 8)", [CLAIMS])
        control.execute(
            "CREATE FUNCTION unspool.eight() RETURNS trigger LANGUAGE plpgsql AS "
            "$$BEGIN IF NEW.begun IS NOT NULL THEN NEW.fence := 8; END IF; RETURN NEW; END$$"
        )
        control.execute(
            f"CREATE TRIGGER eight BEFORE UPDATE ON unspool.task FOR EACH ROW WHEN (NEW.id = {int(refs[0])}) "
            "EXECUTE FUNCTION unspool.eight()"
        )
        try:
            taken = worker.exchange((), refs).taken
        finally:
            control.execute("DROP FUNCTION unspool.eight CASCADE")
    assert taken[0] == Refusal(RefusalKind.BUSY)
    assert isinstance(taken[1], Claim)
    assert counts_of(other, refs[0])[:2] == (0, 0)
    assert isinstance(worker.exchange((), refs[:1]).taken[0], Claim)


def test_claims_that_the_supervisor_has_taken_back(two: Two, address: Address) -> None:
    """They are nobody's any more, also in the worker's shared memory, while the worker still runs another task. Its own
    release of them, which comes later, leaves the claims of other workers alone."""
    worker, other = two
    refs = send(worker, 3)
    with contextlib.closing(look_at(address)) as supervisor:
        registration = supervisor.register("worker")
        worker.registrations.claims = registration.claims
        feed = supervisor.feed()
        feed.refresh()
        tickets = feed.take(3)
        claims = claim(worker, refs)
        assert supervisor.registrations.running_here() == set(refs)
        feed.release(ticket._replace(token=one.fence) for ticket, one in zip(tickets[1:], claims[1:], strict=True))
        assert supervisor.registrations.running_here() == {refs[0]}
        feed.refresh()
        (second,) = claim(other, [refs[1]])
        worker.exchange([End(one, Release(), None, True) for one in claims[1:]], ())
        assert counts_of(other, refs[1]) == (1, 0, second.fence)
        assert locks_of(worker) == 1
        (third,) = claim(worker, [refs[2]])
        assert third.attempts == 1
        assert supervisor.registrations.running_here() == {refs[0], refs[2]}
        worker.exchange([end(claims[0]), end(third)], ())
        other.exchange([end(second)], ())
        assert sum(supervisor.counts().tasks.values()) == 0
        feed.close()


def test_two_threads(two: Two) -> None:
    """One thread claims while others settle, also if the session is lost meanwhile."""
    worker, other = two
    refs = send(worker, 60)
    threads = []
    for start in range(0, 60, 6):
        claims = claim(worker, refs[start : start + 6])
        if start == 30:
            end_session(worker)

        def settle(claims: Sequence[Claim] = claims) -> None:
            repeated = False
            while True:
                try:
                    worker.exchange([end(one, repeated=repeated) for one in claims], ())
                    return
                except SpoolerUnreachable:
                    repeated = True

        threads.append(threading.Thread(target=settle))
        threads[-1].start()
        if start == 30:
            threads[-1].join(PATIENCE)
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert sum(other.counts().tasks.values()) == 0
    assert {run.id.rpartition("/")[2] for run in inspection.runs(other)} == set(refs)
    assert (worker.session.tasks, worker.registrations.claims, locks_of(worker)) == ({}, set(), 0)


def test_marks(two: Two, caplog: pytest.LogCaptureFixture) -> None:
    """Marks apply to a running task until its run has a verdict.

    An unreachable server is logged, and no error is raised.
    """
    worker, other = two
    refs = send(worker, 2)
    claims = claim(worker, refs)
    at = time.time() + 60
    other.mark(refs[0], DeferOnCrash(at))
    other.mark(refs[1], Interrupted())
    with other.connector.lend() as control:
        rows = control.execute("SELECT due, worker < 0 FROM unspool.task ORDER BY id DESC LIMIT 2").fetchall()
    assert [row[1] for row in rows] == [True, False]
    assert rows[1][0] == pytest.approx(at, abs=1)
    worker.exchange([end(one, Retry(0.0)) for one in claims], ())
    assert other.counts().tasks[State.READY] == 2
    end_session(other)
    with caplog.at_level(logging.WARNING, "unspool"):
        other.mark(refs[0], Interrupted())
    assert ["cannot be reached" in message for message in caplog.messages] == [True]
