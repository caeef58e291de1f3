"""When a failed task runs again: pure arithmetic."""

import math
from collections.abc import Callable
from typing import NamedTuple, Self

from .errors import OptionRefused

__all__ = ["MAX_CRASHES", "RetryPolicy", "next_attempt"]

MAX_CRASHES = 3
"""A task that has ended its worker this many times is set aside."""

_YEAR = 365 * 86400


class _Policy(NamedTuple):
    max_attempts: int
    delay: float
    backoff: float
    jitter: float
    max_delay: float


class RetryPolicy(_Policy):
    """How often and how soon a failed task runs again.

    :param max_attempts: the number of runs, including the first; at least 1.
    :param delay: seconds before the second run; 0 or more, a year at most.
    :param backoff: the factor by which each further delay grows; 1 or more.
    :param jitter: a fraction from 0 to 1: a delay ``d`` becomes a random one between ``d`` and ``d * (1 + jitter)``, so
        that tasks that failed together do not run again together.
    :param max_delay: the seconds up to which ``backoff`` lengthens a delay.
    :raises OptionRefused: if a value is outside its range.
    """

    __slots__ = ()

    def __new__(
        cls,
        max_attempts: int = 20,
        delay: float = 5.0,
        backoff: float = 2.0,
        jitter: float = 0.1,
        max_delay: float = 3600.0,
    ) -> Self:
        _require("max_attempts", max_attempts, at_least=1, whole=True)
        _require("retry_delay", delay, at_least=0, at_most=_YEAR)
        _require("retry_backoff", backoff, at_least=1)
        _require("retry_jitter", jitter, at_least=0, at_most=1)
        _require("max_delay", max_delay, at_least=0)
        return super().__new__(cls, max_attempts, delay, backoff, jitter, max_delay)


def next_attempt(policy: RetryPolicy, attempts: int, now: float, random: Callable[[], float]) -> float | None:
    """Return the time (unix seconds) of the run after ``attempts`` failed ones; None if they are used up.

    :param random: returns a number from 0 to 1, such as ``random.random``.
    """
    if attempts >= policy.max_attempts:
        return None
    try:
        factor = float(policy.backoff) ** (max(attempts, 1) - 1)
    except OverflowError:
        factor = math.inf
    longest = max(policy.delay, policy.max_delay)
    delay = min(policy.delay * factor, longest) if policy.delay else 0.0
    return now + delay * (1 + policy.jitter * random())


def _require(name: str, value: object, *, at_least: float, at_most: float = math.inf, whole: bool = False) -> None:
    kinds = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not at_least <= value <= at_most or value == math.inf:
        kind = "a whole number" if whole else "a number"
        bound = "" if at_most == math.inf else f" and at most {at_most:.0f}"
        raise OptionRefused(f"{name} is {value!r}; it must be {kind} of at least {at_least:g}{bound}")
