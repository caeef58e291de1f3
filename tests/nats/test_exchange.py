"""Ends and claims that a worker exchanges with a backend in one call."""

from tests.nats.conftest import Open, crash
from unspool import codec
from unspool.backends.nats import NatsBackend
from unspool.message import (
    Ack,
    Bury,
    Claim,
    DeferOnCrash,
    End,
    Interrupted,
    Message,
    Refusal,
    RefusalKind,
    Release,
    Retry,
    State,
)


def send(backend: NatsBackend, number: int) -> list[str]:
    """Send tasks, and return their refs."""
    return [id.rpartition("/")[2] for id in backend.send([codec.encode(Message("task")) for _ in range(number)])]


def claims(backend: NatsBackend, refs: list[str]) -> list[Claim]:
    """Claim tasks in one exchange."""
    taken = backend.exchange([], refs).taken
    claimed = [one for one in taken if isinstance(one, Claim)]
    assert len(claimed) == len(refs), taken
    return claimed


def test_ends_and_claims(backend: NatsBackend) -> None:
    """Each end is settled, and each ref is claimed or refused. All of this is done when the call returns."""
    refs = send(backend, 6)
    first, second, third, fourth = claims(backend, refs[:4])
    at = backend._clock() + 1000
    ends = [End(first, Ack()), End(second, Retry(at)), End(third, Release()), End(fourth, Bury("hopeless"))]
    done = backend.exchange(ends, [refs[4], first.ref, refs[5], "no such task"])
    assert (done.ended[0], done.ended[1], done.ended[3]) == (None, at, None)
    assert done.ended[2] is not None
    assert done.ended[2] <= backend._clock()
    assert [one.ref if isinstance(one, Claim) else one.kind for one in done.taken] == [
        refs[4],
        RefusalKind.GONE,
        refs[5],
        RefusalKind.GONE,
    ]
    counts = {State.RUNNING: 2, State.DEFERRED: 1, State.READY: 1, State.DEAD: 1}
    assert backend.counts() == dict.fromkeys(State, 0) | counts
    (again,) = claims(backend, [third.ref])
    assert (again.attempts, again.crashes) == (1, 0)


def test_marks(backend: NatsBackend, opened: Open) -> None:
    """A task whose worker dies is deferred until the time of its mark. The death of an interrupted run counts as no
    crash."""
    refs, other = send(backend, 2), opened(backend.name)
    claims(backend, refs)
    at = backend._clock() + 1000
    backend.mark(refs[0], DeferOnCrash(at))
    backend.mark(refs[1], Interrupted())
    for ref in refs:
        crash(backend, ref)
    deferred, again = other.exchange([], refs).taken
    assert deferred == Refusal(RefusalKind.EARLY, at)
    assert isinstance(again, Claim)
    assert (again.attempts, again.crashes) == (2, 0)
