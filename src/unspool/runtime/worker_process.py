"""The process of a worker, from its fork to its end."""

import atexit
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Sequence
from types import FrameType

from ..backends.base import Backend, Clock
from ..backends.registration import Registration
from ..errors import AppError
from ..seal import Seal
from ..tasks import defines_tasks
from . import report
from .app import load_app, own_files
from .events import Failed, Ready
from .limits import Limits
from .queue import Queue
from .terminal import is_foreground
from .worker import Worker

__all__ = ["main"]


def main(
    app: str,
    backends: Sequence[Backend],
    seals: Sequence[Seal],
    registrations: Sequence[Registration],
    queue: Queue,
    ahead: Queue | None,
    reports: report.Writer,
    limits: Limits,
    *,
    clock: Clock,
) -> int:
    """Run a worker after its fork, and return its exit status."""
    for registration in registrations:
        registration.running("", 0.0)  # the registration now carries this process's id
    supervisor = os.getppid()

    def interrupted(number: int, _frame: FrameType | None) -> None:
        if is_foreground() and os.getppid() == supervisor:  # input is meant for the supervisor
            os.kill(supervisor, number)

    # Programs that tasks start inherit SIG_IGN, but not a handler that does nothing.
    signal.signal(signal.SIGINT, interrupted)
    signal.signal(signal.SIGHUP, lambda *_: None)
    try:
        module = load_app(app, interruptible=False)
    except AppError as error:
        reports.write(Failed(str(error), error.traceback))
        return 2
    worker = Worker(backends, seals, registrations, queue, ahead, reports, limits, clock)
    reports.write(Ready(own_files(module), defines_tasks()))
    status = worker.run()
    _end()
    return status


def _end() -> None:
    """End the program as Python does: wait for threads and executors, then call the ``atexit`` handlers."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(BaseException):  # it may be None, closed, or any object of the application
            stream.flush()
