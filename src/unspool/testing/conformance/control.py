"""The switches of a queue."""

import pytest

from ...backends.base import Backend
from ...errors import OptionRefused
from .harness import BackendTests

__all__ = ["ControlTests"]


class ControlTests(BackendTests):
    """``Control``, as one process sees it."""

    def test_pause(self, backend: Backend) -> None:
        """A queue is paused until it is resumed. Repeating either is not an error."""
        assert not backend.control.paused
        for _ in range(2):
            backend.control.pause()
            assert backend.control.paused
        for _ in range(2):
            backend.control.resume()
            assert not backend.control.paused

    def test_period(self, backend: Backend) -> None:
        """The period is a number of seconds above 0, and keeps the value that was set last."""
        assert backend.control.period > 0
        for seconds in (7, 0.25):
            backend.control.set_period(seconds)
            assert backend.control.period == seconds

    @pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), "5", None, True])
    def test_refuses_what_is_no_period(self, backend: Backend, value: float) -> None:
        """Any other value is refused and changes nothing."""
        backend.control.set_period(7)
        with pytest.raises(OptionRefused):
            backend.control.set_period(value)
        assert backend.control.period == 7

    def test_no_live_processes(self, backend: Backend) -> None:
        """A queue without workers has no live processes."""
        assert backend.control.live() == []
