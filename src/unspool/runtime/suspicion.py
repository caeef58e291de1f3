"""The decision whether a worker itself is the reason why its tasks fail, from counts alone."""

__all__ = ["Suspicion"]

_IN_A_ROW = 10
_USUAL = 0.1  # the share of earlier failures up to which they count as few


class Suspicion:
    """Counts the failures in one worker.

    If few tasks have failed in a worker and then all fail, a task may have changed the worker in a way that no other
    check detects. A worker in which all tasks have failed from its start is not suspected, because a new one would do
    the same.
    """

    def __init__(self) -> None:
        self._succeeded = 0  # before the current series of failures
        self._failed = 0
        self._row = 0

    def note_failure(self, succeeded: int) -> bool:
        """Count a failed run or a refused task, and return whether the worker should be replaced.

        :param succeeded: the runs that have succeeded in this worker until now.
        """
        if succeeded != self._succeeded:
            self._failed += self._row
            self._row = 0
            self._succeeded = succeeded
        self._row += 1
        few = succeeded > 0 and self._failed <= _USUAL * (succeeded + self._failed)
        return self._row >= _IN_A_ROW and few
