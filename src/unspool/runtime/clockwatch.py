"""The detection of changes of the system clock while a supervisor runs."""

import logging
import time

from ..backends.base import Clock

__all__ = ["ClockWatch"]

_log = logging.getLogger("unspool")
_SET = 10.0  # seconds by which the clock may drift against the time since the boot


class ClockWatch:
    """Compares a clock with the time since the boot, which is never set.

    :param clock: the clock by which tasks are due.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ahead = clock() - _since_boot()

    def look(self) -> None:
        """Log if the clock was set since the last call. Feeds notice that themselves."""
        ahead = self._clock() - _since_boot()
        moved, self._ahead = ahead - self._ahead, ahead
        if abs(moved) > _SET:
            effect = "deferred tasks are due that much earlier"
            if moved < 0:
                effect = "earlier tasks are due that much later; unspool retry makes a task due now"
            way = "forward" if moved > 0 else "back"
            _log.warning("the clock was set %s by %.0f s: %s", way, abs(moved), effect)


def _since_boot() -> float:
    """Return the seconds since the boot, including suspended time."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
