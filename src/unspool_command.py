"""The console script. It stands outside the package, which takes a while to import, to answer signals from the first
line on: no traceback for Ctrl-C, and no HUP or TERM that kills a supervisor before it can take them.
"""

import gc
import os
import signal
import sys
from types import FrameType

__all__ = ["main"]

INTERRUPTED = 130  # as a shell reports a command that SIGINT has ended


def main() -> int:
    """Run the command line and return its exit status."""
    try:
        return _run()
    finally:
        gc.disable()
        gc.freeze()  # otherwise the interpreter looks through all objects twice before it ends, which takes 10 ms


def _run() -> int:
    serves = sys.argv[1:2] == ["run"]
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)
    if serves and hasattr(signal, "SIGHUP"):  # until the supervisor takes them
        signal.signal(signal.SIGTERM, _leave)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # its workers will be fresh anyway
    from unspool.cli import main as command

    if serves or signal.getsignal(signal.SIGINT) is not _leave:
        return command()
    try:
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)  # what has begun is cleaned up
            return command()
        finally:
            signal.signal(signal.SIGINT, _leave)
    except KeyboardInterrupt:
        return INTERRUPTED


def _leave(number: int, _frame: FrameType | None) -> None:
    """Nothing has begun, or all has ended: there is nothing to clean up."""
    os._exit(INTERRUPTED if number == signal.SIGINT else 0)
