"""unspool with one feature turned off that uWSGI does not have, to measure its cost.

``python -m benchmarks.without attempts run APP …`` is ``unspool run APP …`` without counted attempts. With ``send`` as
the command, it is the caller of ``app_unspool``.
"""

import sys
from collections.abc import Callable
from typing import Any

from unspool import wire
from unspool.backends.spool import attempts, feed, lookahead
from unspool.runtime import recorder

__all__ = ["THINGS"]


def _attempts() -> None:
    attempts._Attributes.begin = lambda self, file, ref: attempts._FIRST  # type: ignore[method-assign]


def _history() -> None:
    recorder.Recorder.put_line = lambda self, line: None  # type: ignore[method-assign]


def _checksum() -> None:
    wire.crc32 = lambda data, value=0: 0  # type: ignore[assignment]


def _order() -> None:
    """Hand out tickets in the order in which they were found: from lists instead of heaps, without reading the times in
    names.
    """
    feed.hint = lambda name: 0.0

    class Lists:
        heappush = staticmethod(lambda heap, item: heap.append(item))
        heappop = staticmethod(lambda heap: heap.pop())

    lookahead.heapq = Lists  # type: ignore[assignment]


THINGS: dict[str, Callable[[], None]] = {
    "attempts": _attempts,
    "history": _history,
    "checksum": _checksum,
    "order": _order,
}
"""What can be turned off."""


def _main(things: str, command: str, *rest: str) -> Any:
    for thing in things.split(","):
        THINGS[thing]()
    if command == "send":
        from . import app_unspool, caller

        return caller.perform(app_unspool.noop, app_unspool.stamp, app_unspool.noop.enqueue_many)
    from unspool.cli import main

    sys.argv = ["unspool", command, *rest]
    return main()


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
