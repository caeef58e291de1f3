"""The decision to kill a worker, without processes."""

from unspool.runtime.watchdog import LOST, Watchdog

RUN, OTHER = (0, "run"), (0, "other")
IDLE: frozenset[tuple[int, str]] = frozenset()
LATE = "did not end in time and was killed"
MUTE = "was killed: it did not report the end of a run"


def look(
    watchdog: Watchdog,
    now: float,
    shown: frozenset[tuple[int, str]] = IDLE,
    begun: frozenset[tuple[int, str]] = IDLE,
    *,
    to_end: bool = False,
    away: bool = False,
    closed: bool = False,
) -> str | None:
    """Check a worker of which all is well except for the given values."""
    return watchdog.look(now, shown, begun, to_end=to_end, away=away, closed=closed)


def test_a_worker_that_works_is_left_alone() -> None:
    """Idle or busy, for any time: it is checked regularly while it runs something, and otherwise never."""
    watchdog = Watchdog(5.0)
    for now in (0.0, 1e6, 2e6):
        assert look(watchdog, now) is None
        assert watchdog.deadline is None
        assert look(watchdog, now + 1, frozenset({RUN})) is None
        assert look(watchdog, now + 1e5, frozenset({RUN})) is None
        assert watchdog.deadline == now + 1e5 + 5
        watchdog.told(RUN)


def test_a_worker_that_is_to_end_and_runs_nothing() -> None:
    """It has this many seconds after its last run. The runs may take any time."""
    watchdog = Watchdog(5.0)
    assert look(watchdog, 0.0, frozenset({RUN}), to_end=True) is None
    assert look(watchdog, 1e6, IDLE, frozenset({RUN}), to_end=True) is None
    watchdog.told(RUN)
    assert look(watchdog, 2e6, to_end=True) is None
    assert watchdog.deadline == 2e6 + 5
    assert look(watchdog, 2e6 + 4.9, to_end=True) is None
    assert look(watchdog, 2e6 + 5, to_end=True) == LATE


def test_a_worker_that_is_to_end_while_a_spooler_is_away() -> None:
    """It may have to store the ends of its runs, so it has more time, but not forever."""
    watchdog = Watchdog(5.0)
    assert look(watchdog, 0.0, to_end=True, away=True) is None
    assert look(watchdog, 59.9, to_end=True, away=True) is None
    assert look(watchdog, 60.0, to_end=True, away=True) == LATE


def test_a_worker_whose_pipe_has_ended() -> None:
    """It is dead, or about to be. If it is not, it has lost the pipe, and is killed during any run."""
    watchdog = Watchdog(5.0)
    assert look(watchdog, 0.0, frozenset({RUN}), closed=True) is None
    assert watchdog.deadline == 1.0
    assert look(watchdog, 1.0, frozenset({RUN}), closed=True) == LOST


def test_a_worker_that_does_not_tell_the_end_of_a_run() -> None:
    """Its registration has shown a run, and no longer does. With current coroutines, there may be a reason."""
    watchdog = Watchdog(5.0)
    assert look(watchdog, 0.0, frozenset({RUN})) is None
    assert look(watchdog, 1.0, frozenset({OTHER})) is None
    assert watchdog.deadline == 6.0
    assert look(watchdog, 2.0, IDLE, frozenset({OTHER})) is None
    assert look(watchdog, 100.0, IDLE, frozenset({OTHER})) is None
    assert look(watchdog, 103.0, frozenset({OTHER})) is None
    assert look(watchdog, 108.0, frozenset({OTHER})) == MUTE
    watchdog.told(RUN)
    assert look(watchdog, 109.0, frozenset({OTHER})) is None
