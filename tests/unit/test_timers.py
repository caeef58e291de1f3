"""The times at which a supervisor must act."""

from unspool.runtime.timers import Interval, Timers
from unspool.testing import FakeClock


def test_the_first_timer_ends_the_wait() -> None:
    """Timers that are not set do not count, an overdue one ends the wait at once, and no wait is longer than an
    hour.
    """
    timers = Timers()
    assert timers.wait() is None
    waits: list[float | None] = [None, 9000.0, None]
    for index in range(len(waits)):
        timers.add(lambda index=index: waits[index])
    assert timers.wait() == 3600.0
    waits[0] = 2.5
    assert timers.wait() == 2.5
    waits[2] = -1.0
    assert timers.wait() == 0.0


def test_an_interval() -> None:
    """It is due at first, and again when its seconds have passed."""
    clock = FakeClock(100.0)
    interval = Interval(5.0, clock)
    assert interval.left() <= 0
    assert interval.begin()
    assert not interval.begin()
    clock.advance(4.0)
    assert interval.left() == 1.0
    clock.advance(1.0)
    assert interval.begin()
