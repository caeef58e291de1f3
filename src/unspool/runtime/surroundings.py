"""What a task may have changed for those after it in the same process, put back as it was: 4 µs a task.

Working directory, umask, signal handlers and mask, alarm, locale: kept when the application has been imported, and
put back after each run without a word, since setting them costs no more than looking. What cannot be put back, such
as descriptors that a task closed, ends the worker instead; see ``worker``. Left to the task's own care: environment
variables, threads, and the state of modules.
"""

import importlib
import locale
import os
import signal
import threading

__all__ = ["Surroundings"]

# Those of the signal module turn each number into an enum, which costs ten times the call.
_signal = importlib.import_module("_signal")
_setlocale = importlib.import_module("_locale").setlocale  # nor need a locale that is only looked at be normalised
_WATCHED = tuple(
    int(number)
    for number in (
        signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGALRM, signal.SIGCHLD, signal.SIGPIPE,
        signal.SIGUSR1, signal.SIGUSR2,
    )
)  # fmt: skip


class Surroundings:
    """A process's surroundings as they are now."""

    def __init__(self) -> None:
        self._place = os.open(".", getattr(os, "O_PATH", os.O_RDONLY) | os.O_CLOEXEC)
        self._umask = os.umask(0o077)
        os.umask(self._umask)
        self._mask = _signal.pthread_sigmask(signal.SIG_BLOCK, ())
        self._handlers = [(number, _signal.getsignal(number)) for number in _WATCHED]
        self._locale = locale.setlocale(locale.LC_ALL)
        self._main = threading.get_ident() if threading.current_thread() is threading.main_thread() else 0

    def restore(self) -> None:
        """Puts all back; the signals' part only in the main thread.

        :raises OSError: if the process has lost the descriptor that it keeps for this.
        """
        os.umask(self._umask)
        os.fchdir(self._place)
        if _setlocale(locale.LC_ALL) != self._locale:
            locale.setlocale(locale.LC_ALL, self._locale)
        if threading.get_ident() != self._main:
            return
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._handlers:
            if _signal.getsignal(number) is not handler:
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
        if _signal.pthread_sigmask(signal.SIG_BLOCK, ()) != self._mask:
            signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
