"""The console script.

It is outside the package, whose import takes a while, so that signals are handled from the start: Ctrl-C prints no
traceback, and HUP or TERM do not kill a supervisor before it handles them.
"""

import gc
import os
import signal
import sys
from types import FrameType

__all__ = ["main"]

INTERRUPTED = 130  # the status that a shell reports for SIGINT


def main() -> int:
    """Run the command line and return its exit status."""
    try:
        return _run()
    finally:
        gc.disable()
        gc.freeze()  # otherwise the interpreter visits all objects twice before it ends, which takes 10 ms


def _run() -> int:
    serves = sys.argv[1:2] == ["run"]
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)
    if serves and hasattr(signal, "SIGHUP"):  # until the supervisor handles them
        signal.signal(signal.SIGTERM, _leave)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # its first workers will be new anyway
    from unspool.cli import main as command

    if serves or signal.getsignal(signal.SIGINT) is not _leave:
        return command()
    try:
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)  # the command cleans up
            return command()
        finally:
            signal.signal(signal.SIGINT, _leave)
    except KeyboardInterrupt:
        return INTERRUPTED


def _leave(number: int, _frame: FrameType | None) -> None:
    """Exit at once: before the start and after the end of a command, there is nothing to clean up."""
    os._exit(INTERRUPTED if number == signal.SIGINT else 0)
