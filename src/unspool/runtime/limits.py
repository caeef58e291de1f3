"""When a worker is replaced, and how much it runs at once."""

import os
from dataclasses import dataclass

__all__ = ["Limits"]


@dataclass(frozen=True, slots=True)
class Limits:
    """When a worker is replaced, and how many coroutines it runs at once.

    :param max_tasks: the number of tasks after which it is replaced; None for no limit.
    :param max_memory: the megabytes of resident memory above which it is replaced; None for no limit. The memory is
        checked after each task.
    :param concurrency: the most coroutines that run at once.
    :param ending: the seconds that a worker may take to end after its last run, for example for ``atexit`` handlers.
    """

    max_tasks: int | None = None
    max_memory: float | None = None
    concurrency: int = 100
    ending: float = 5.0

    def are_reached(self, done: int) -> bool:
        """Return whether a worker must be replaced after this number of tasks."""
        return (self.max_tasks is not None and done >= self.max_tasks) or (
            self.max_memory is not None and _resident() > self.max_memory
        )


def _resident() -> float:
    """Return the megabytes of resident memory of this process."""
    try:
        with open("/proc/self/statm", encoding="ascii") as statm:
            pages = int(statm.read().split()[1])
    except OSError:  # not on Linux: the maximum so far
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)
    return pages * os.sysconf("SC_PAGESIZE") / (1 << 20)
