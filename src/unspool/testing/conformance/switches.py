"""The switches of a queue, and its live processes."""

from ...backends.base import Backend
from .harness import BackendTests

__all__ = ["SwitchTests"]


class SwitchTests(BackendTests):
    """``switch`` and ``live``, as one process sees them."""

    def test_pause(self, backend: Backend) -> None:
        """A queue is paused until it is resumed. Repeating either is not an error."""
        assert not backend.switch().paused
        for paused in (True, True, False, False):
            assert backend.switch(paused=paused).paused is paused
            assert backend.switch().paused is paused

    def test_period(self, backend: Backend) -> None:
        """The period is a number of seconds above 0, and keeps the value that was set last."""
        assert backend.switch().period > 0
        for seconds in (7, 0.25):
            assert backend.switch(period=seconds).period == seconds
            assert backend.switch().period == seconds

    def test_one_switch_leaves_the_other(self, backend: Backend) -> None:
        """A change of one switch does not change the other one, and one call can change both."""
        former = backend.switch().period
        assert backend.switch(paused=True) == (True, former)
        assert backend.switch(period=7) == (True, 7)
        assert backend.switch(paused=False) == (False, 7)
        assert backend.switch(paused=True, period=8) == (True, 8)
        assert backend.switch() == (True, 8)

    def test_no_live_processes(self, backend: Backend) -> None:
        """A queue without workers has no live processes."""
        assert backend.live() == []
