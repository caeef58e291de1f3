"""The decision how many tickets wait for the workers of a supervisor, from counts and times alone."""

from collections.abc import Iterable, Sequence

__all__ = ["NAP", "SLOW", "Hopper", "is_slow"]

NAP = 0.002  # seconds to sleep when workers have enough to do, so that many reports are read at once
SLOW = 0.05  # seconds of a run after which other workers get the tasks that its worker has claimed ahead
_ENOUGH = 64  # the number of waiting tickets with which workers have enough to do for a nap
_SOON = 0.05  # seconds; tasks that workers begin in this time may be kept from other supervisors
_STUCK = 1.0  # seconds after which other supervisors get the tasks that no worker here has begun


class Hopper:
    """Decides how many tickets a queue gets, and when they are taken back.

    The cost of taking tickets back grows with the depth of the queue, so each time halves the depth. Otherwise, the
    depth grows again. A spooler that withholds its tickets from other supervisors gives only as many as workers begin
    soon.

    :param withholds: for each spooler, whether it withholds.
    :param now: seconds of a monotonic timer, like all times here.
    """

    def __init__(self, withholds: Sequence[bool], now: float) -> None:
        self._each = withholds
        self.withholds = any(withholds)
        """Whether any spooler withholds its tickets."""
        self.waiting = 0
        """The tickets that no worker had taken when they were last counted."""
        self._waiting_since = 0.0  # since when the number is the same
        self._depth = _ENOUGH
        self._last_rank = -1  # the greatest rank in the queue
        self._rate = 0.0  # ended tasks per second, recently
        self._done, self._rated = 0, now

    def note_done(self, done: int, now: float) -> None:
        """Note the number of tasks that have ended since the start."""
        if now - self._rated >= _SOON:
            self._rate = (self._rate + (done - self._done) / (now - self._rated)) / 2
            self._done, self._rated = done, now

    def note_taken(self, ranks: Iterable[int]) -> None:
        """Note the ranks of tickets that were put into the queue."""
        self._last_rank = max(self._last_rank, *ranks)

    def count(
        self, waiting: int, done: int, now: float, *, ranks: Iterable[int], paused: bool, workers: int, capacity: int
    ) -> bool:
        """Note how many tickets wait, and adapt the depth of the queue.

        :param done: the number of tasks that have ended since the start.
        :param ranks: the rank of the first ticket of each spooler that has one.
        :param paused: whether a spooler is paused.
        :param capacity: the number of tickets that fit into the queue.
        :returns: whether all waiting tickets must be taken back: one of them is less urgent than a task of ``ranks``, a
            spooler is paused, or no worker here begins tasks that other supervisors could run.
        """
        if waiting != self.waiting:
            self.waiting, self._waiting_since = waiting, now
        urgent = any(rank < self._last_rank for rank in ranks)
        stuck = self.withholds and waiting > 0 and now - self._waiting_since >= _STUCK
        recall = stuck or (waiting > 0 and (urgent or paused))
        if stuck:  # the earlier rate no longer predicts how many tasks begin soon
            self._rate, self._done, self._rated = 0.0, done, now
        if recall:
            self.waiting, self._waiting_since = 0, now  # tickets that are taken again may wait as long again
            self._depth = max(self._depth // 2, 2 * workers)
        elif waiting < self._depth // 4:
            self._depth = min(self._depth * 2, capacity)
        if recall or not waiting:
            self._last_rank = -1
        return recall

    def shares(self, waiting: int, idle: int) -> list[int]:
        """Return how many tickets to take from each spooler; 0 or less for none.

        :param idle: the number of idle workers.
        """
        room = self._depth - waiting
        if room <= 0:
            return [0] * len(self._each)
        share = max(1, room // len(self._each))
        soon = idle + int(self._rate * _SOON)
        return [min(share, soon - waiting) if withholds else share for withholds in self._each]

    def enough(self, workers: int) -> int:
        """Return the number of waiting tickets with which workers have enough to do for several naps."""
        naps = 2 * workers + int(8 * NAP * self._rate)
        return min(naps, _ENOUGH) if self.withholds else _ENOUGH

    def wait(self, waiting: int) -> float | None:
        """Return the seconds until ``count`` may take back tickets that no worker begins; None if never."""
        return _STUCK if self.withholds and waiting else None


def is_slow(since: Iterable[float], now: float) -> bool:
    """Return whether a worker must return the tasks that it has claimed ahead, because one of its runs takes long.

    :param since: the start times of its runs; 0 for none.
    :param now: the time of the same clock.
    """
    return any(0 < began < now - SLOW for began in since)
