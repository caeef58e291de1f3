"""The time when a failed task runs again."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unspool.errors import OptionRefused
from unspool.retry import RetryPolicy, next_attempt

NOW = 1_900_000_000.0


def delays(policy: RetryPolicy, random: float = 0.0) -> list[float]:
    """Return the delays after each failed run except the last."""
    found = (next_attempt(policy, attempts, NOW, lambda: random) for attempts in range(1, policy.max_attempts))
    return [at - NOW for at in found if at is not None]


def test_each_delay_is_longer_by_the_factor() -> None:
    """The first is the delay itself, and each further one is longer by the factor."""
    assert delays(RetryPolicy(max_attempts=6, delay=5, backoff=2)) == [5, 10, 20, 40, 80]
    assert delays(RetryPolicy(max_attempts=4, delay=1, backoff=1)) == [1, 1, 1]
    assert delays(RetryPolicy(max_attempts=4, delay=0)) == [0, 0, 0]


def test_no_delay_grows_beyond_the_greatest() -> None:
    """Back-off ends at ``max_delay``."""
    assert delays(RetryPolicy(max_attempts=7, delay=100, backoff=10, max_delay=5_000)) == [
        100,
        1000,
        5000,
        5000,
        5000,
        5000,
    ]


def test_a_delay_that_was_asked_for_is_kept() -> None:
    """``max_delay`` limits the growth of a delay. A first delay that is longer is not shortened."""
    assert delays(RetryPolicy(max_attempts=4, delay=86_400)) == [86_400, 86_400, 86_400]


def test_attempts_are_used_up() -> None:
    """After the permitted number of runs, there is no other."""
    assert next_attempt(RetryPolicy(max_attempts=3), 2, NOW, lambda: 0) is not None
    assert next_attempt(RetryPolicy(max_attempts=3), 3, NOW, lambda: 0) is None
    assert next_attempt(RetryPolicy(max_attempts=3), 4, NOW, lambda: 0) is None
    assert next_attempt(RetryPolicy(max_attempts=1), 1, NOW, lambda: 0) is None


def test_jitter_only_lengthens() -> None:
    """A delay is lengthened by at most this fraction."""
    policy = RetryPolicy(max_attempts=3, delay=10, jitter=0.5)
    assert delays(policy, 0.0) == [10, 20]
    assert delays(policy, 0.5) == [12.5, 25]
    assert delays(policy, 1.0) == [15, 30]


@given(
    delay=st.floats(0, 365 * 86_400),
    backoff=st.one_of(st.integers(1, 10**400), st.floats(1, 1e308)),
    jitter=st.floats(0, 1),
    attempts=st.integers(0, 10**6),
    random=st.floats(0, 1),
)
def test_any_policy_gives_a_time(delay: float, backoff: float, jitter: float, attempts: int, random: float) -> None:
    """However large the factor and the number of attempts are: never early, never later than the limits, never an
    error.
    """
    policy = RetryPolicy(max_attempts=10**7, delay=delay, backoff=backoff, jitter=jitter)
    at = next_attempt(policy, attempts, 0.0, lambda: random)
    assert at is not None
    assert delay <= at <= max(delay, policy.max_delay) * (1 + jitter) * (1 + 1e-12)


@pytest.mark.parametrize(
    "option",
    [
        {"max_attempts": 0},
        {"max_attempts": -1},
        {"max_attempts": 1.5},
        {"max_attempts": True},
        {"max_attempts": "3"},
        {"max_attempts": None},
        {"delay": -0.1},
        {"delay": math.inf},
        {"delay": 366 * 86_400},
        {"delay": math.nan},
        {"delay": "5"},
        {"backoff": 0.9},
        {"backoff": True},
        {"backoff": math.inf},
        {"jitter": -0.1},
        {"jitter": 1.1},
        {"max_delay": -1},
    ],
)
def test_what_is_no_policy_is_refused(option: dict[str, Any]) -> None:
    """The error names the option and its value."""
    ((name, value),) = option.items()
    with pytest.raises(OptionRefused, match=f"{name} is") as caught:
        RetryPolicy(**option)
    assert repr(value) in str(caught.value)


def test_defaults() -> None:
    """Twenty runs, the first again after five seconds, doubled each time, a tenth of jitter, an hour at most."""
    assert RetryPolicy() == RetryPolicy(max_attempts=20, delay=5.0, backoff=2.0, jitter=0.1, max_delay=3600.0)
