"""Where the time of a task goes in unspool: each step of sending and running one, measured alone in one process.

Nothing else runs, so the sum is less than the time of a task in a drain: it lacks the supervisor, its reports and the
history. The cost of reading the clock is subtracted from each step. ``python -m benchmarks.split DIRECTORY TASKS``
prints JSON.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from time import perf_counter_ns
from typing import Any

from unspool import Spooler, codec, dispatch
from unspool.backends.spool import SpoolBackend
from unspool.message import Claim, End

from .filesystem import Ground
from .processes import running, wait_until

__all__ = ["steps"]

_TIMEOUT = 120.0
_CLOCK = "clock"


@Spooler.task
def nothing(number: int) -> bool:
    """Do nothing."""
    return True


def steps(ground: Ground, tasks: int) -> dict[str, float]:
    """Return the microseconds per task by step, measured in a separate process."""
    with ground.place() as place:
        log = place.scratch / "log"
        command = [sys.executable, "-m", __name__, str(place.spool), str(tasks)]
        with running(command, {}, log) as process:
            wait_until(process.ended, process, _TIMEOUT)
            if process.status:
                raise process.failure("failed")
        found: dict[str, float] = json.loads(log.read_text(encoding="ascii"))
        return found


class _Stopwatch:
    """A stopwatch that adds up the time of each step."""

    def __init__(self) -> None:
        self._total: dict[str, int] = {}

    def __call__(self, step: str, work: Callable[..., Any], *args: Any) -> Any:
        begun = perf_counter_ns()
        result = work(*args)
        self._total[step] = self._total.get(step, 0) + perf_counter_ns() - begun
        return result

    def microseconds(self, tasks: int) -> dict[str, float]:
        """Return the microseconds per task by step."""
        clock = self._total.pop(_CLOCK)
        return {step: max(total - clock, 0) / tasks / 1000 for step, total in self._total.items()}


def _measure(directory: str, tasks: int) -> dict[str, float]:
    watch = _Stopwatch()
    backend = SpoolBackend(directory, durable=False)
    for number in range(tasks):
        message = watch("send: make the message", nothing.message, number)
        envelope = watch("send: pickle it", codec.encode, message)
        watch("send: write in place, close", backend.send, [envelope])
        watch(_CLOCK, int)
    feed = backend.feed()
    watch("hand out: read the directory", _refresh, feed)
    while tickets := feed.take(64):
        for ticket in tickets:
            (claim,) = watch("run: open, lock, check, read, count", backend.exchange, (), (ticket.ref,)).taken
            assert isinstance(claim, Claim)
            call = watch("run: unpickle, find the function", dispatch.prepare, claim, time.time())
            assert isinstance(call, dispatch.Call)
            result = watch("run: the call itself", dispatch.run, call)
            outcome = watch("run: verdict", dispatch.conclude, call, claim, result, None, time.time())
            watch("run: unlink, close", backend.exchange, (End(claim, outcome.disposition),), ())
            feed.done(ticket.ref, None)
    return watch.microseconds(tasks)


def _refresh(feed: Any) -> None:
    while feed.refresh().more:
        pass


if __name__ == "__main__":
    print(json.dumps(_measure(str(Path(sys.argv[1]).resolve()), int(sys.argv[2]))))
