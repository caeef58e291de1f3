"""The workers that are suspected to be the reason why their tasks fail."""

from unspool.runtime.suspicion import Suspicion


def rows(*counts: int) -> bool:
    """Return whether a worker is suspected after a number of successes, of failures, of successes, and so on."""
    suspicion = Suspicion()
    succeeded, suspected = 0, False
    for at, count in enumerate(counts):
        if at % 2 == 0:
            succeeded += count
            continue
        for _ in range(count):
            suspected = suspicion.note_failure(succeeded)
    return suspected


def test_everything_fails_that_did_not_before() -> None:
    """Ten in a row are enough, and nine are not."""
    assert rows(1, 10)
    assert not rows(1, 9)
    assert not rows(1, 9, 1, 9)


def test_few_failures_before_do_not_excuse_it() -> None:
    """A tenth of the earlier runs may have failed, in any order."""
    assert rows(90, 10, 1, 10)
    assert rows(45, 5, 45, 5, 1, 10)
    assert not rows(90, 11, 1, 10)


def test_a_worker_in_which_everything_fails_from_its_start_is_not_suspected() -> None:
    """A database may be away, for example: a new worker would do no better."""
    assert not rows(0, 1_000)
    assert not rows(0, 100, 1, 100)
