"""When a worker itself is suspected of being why its tasks fail: a decision on counts alone."""

__all__ = ["Suspicion"]

_IN_A_ROW = 10
_USUAL = 0.1  # the share of failures up to which those before the row count as few


class Suspicion:
    """Counts the failures in one worker.

    A worker in which nothing fails, or little, and then everything, may have been changed by a task in a way that
    nothing else notices. One in which everything fails from its start is not suspected: a fresh one would do no better.
    """

    def __init__(self) -> None:
        self._succeeded = 0  # before the present row of failures
        self._failed = 0
        self._row = 0

    def note_failure(self, succeeded: int) -> bool:
        """Counts a run that failed, or a task that was refused; returns whether the worker should be replaced.

        :param succeeded: the runs that have succeeded in this worker until now.
        """
        if succeeded != self._succeeded:
            self._failed += self._row
            self._row = 0
            self._succeeded = succeeded
        self._row += 1
        few = succeeded > 0 and self._failed <= _USUAL * (succeeded + self._failed)
        return self._row >= _IN_A_ROW and few
