"""The hard limit of a run: the kernel kills the worker if the run overruns and no supervisor is left to kill it.

A kernel timer sends SIGKILL, so no thread has to run: C code may hold the interpreter forever.
"""

import logging
import signal
import struct
import sys
import time
from collections.abc import Callable
from typing import Any

from ..imports import late

__all__ = ["HardLimit"]

_log = logging.getLogger("unspool")
_LONGEST = 1e9  # seconds that fit into a field of 32 bits
_itimerspec = struct.Struct("4l")  # interval and value, each in seconds and nanoseconds
_STOPPED = _itimerspec.pack(0, 0, 0, 0)
_SIGEVENT = struct.pack("Pii48x", 0, signal.SIGKILL, 0)  # 0: SIGEV_SIGNAL


class HardLimit:
    """Timers that kill this process. They exist only on Linux; elsewhere, only the supervisor kills workers.

    The first timer costs an import of 10 ms. Timers are reused, so each run costs 2 µs.
    """

    def __init__(self) -> None:
        self._idle: list[Any] = []
        self._works = sys.platform == "linux"
        self._create: Callable[[], Any] | None = None
        self._set: Any = None

    def start(self, seconds: float) -> Any:
        """Return a timer that kills this process after this many seconds; None if the system has no timer left."""
        timer = self._idle.pop() if self._idle else self._new() if self._works else None
        if timer is not None:
            whole = int(seconds := min(seconds, _LONGEST))
            self._set(timer, 0, _itimerspec.pack(0, 0, whole, int((seconds - whole) * 1e9)), None)
        return timer

    def stop(self, timer: Any) -> None:
        """Stop a timer. This works in any thread."""
        if timer is not None:
            self._set(timer, 0, _STOPPED, None)
            self._idle.append(timer)

    def _new(self) -> Any:
        try:
            if self._create is None:
                self._create, self._set = _load()
            return self._create()
        except (ImportError, AttributeError, OSError) as error:
            self._works = False
            _log.warning("cannot create a kernel timer: %s; only the supervisor kills runs that overrun", error)
            return None


def _load() -> tuple[Callable[[], Any], Any]:
    """Return a function that creates a timer, and the C function that sets one.

    :raises ImportError: if this Python has no ctypes.
    :raises AttributeError: if the C library has no such timers.
    """
    with late:
        import ctypes
    library: Any = ctypes.PyDLL(None)  # keeps the interpreter lock during calls, which take less time than releasing it
    if not hasattr(library, "timer_create"):
        library = ctypes.PyDLL("librt.so.1")  # glibc before 2.34
    library.timer_create.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
    library.timer_settime.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)

    def create() -> Any:
        timer = ctypes.c_void_p()
        if library.timer_create(time.CLOCK_MONOTONIC, _SIGEVENT, ctypes.byref(timer)):
            raise OSError("timer_create failed")
        return timer

    return create, library.timer_settime
