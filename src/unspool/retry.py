"""When a failed task runs again: pure arithmetic."""

from collections.abc import Callable
from dataclasses import dataclass

from .errors import OptionRefused

__all__ = ["MAX_CRASHES", "RetryPolicy", "next_attempt"]

MAX_CRASHES = 3
"""A task that was running this many times when its worker died is set aside without another try."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how soon a failed task runs again.

    :param max_attempts: runs in all, the first included; at least 1.
    :param delay: seconds before the second run; 0 or more.
    :param backoff: each further delay is the previous one times this; 1 or more.
    :param jitter: a fraction from 0 to 1: a delay ``d`` becomes a random one between ``d`` and ``d * (1 + jitter)``,
        so that tasks which failed together do not come back together.
    :param max_delay: seconds that no delay exceeds before jitter.
    :raises OptionRefused: when a value is outside its range.
    """

    max_attempts: int = 20
    delay: float = 5.0
    backoff: float = 2.0
    jitter: float = 0.1
    max_delay: float = 3600.0

    def __post_init__(self) -> None:
        _require("max_attempts", self.max_attempts, at_least=1, whole=True)
        _require("retry_delay", self.delay, at_least=0)
        _require("retry_backoff", self.backoff, at_least=1)
        _require("retry_jitter", self.jitter, at_least=0)
        _require("max_delay", self.max_delay, at_least=0)
        if self.jitter > 1:
            raise OptionRefused(f"retry_jitter is {self.jitter!r}; it is a fraction, from 0 to 1")


def next_attempt(policy: RetryPolicy, attempts: int, now: float, random: Callable[[], float]) -> float | None:
    """The time (unix seconds) of the run after ``attempts`` failed ones, or None when they are used up.

    :param random: a number from 0 to 1, such as ``random.random``.
    """
    if attempts >= policy.max_attempts:
        return None
    # 64 doublings are beyond any max_delay; more would overflow a float.
    delay = min(policy.delay * policy.backoff ** min(max(attempts, 1) - 1, 64), policy.max_delay)
    return now + delay * (1 + policy.jitter * random())


def _require(name: str, value: object, *, at_least: float, whole: bool = False) -> None:
    kinds = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not at_least <= value < float("inf"):
        kind = "a whole number" if whole else "a number"
        raise OptionRefused(f"{name} is {value!r}; it must be {kind} of at least {at_least:g}")
