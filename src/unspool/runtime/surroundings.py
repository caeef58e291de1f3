"""What a task may have changed for those after it in the same process, put back as it was.

Working directory, umask, signal handlers and mask, alarm, locale: put back after each run without a word, since setting
them costs no more than looking; 4 µs a run. User, resource limits, root directory, standard streams, descriptors of the
worker's own: looked at after a failure or a refusal, else after a run at most once in some milliseconds, since tasks
seldom change them and a look takes as long as a short task. All are kept as they are when the application has been
imported. Left to the task's own care: environment variables, threads, and the state of modules.
"""

import errno
import importlib
import io
import locale
import os
import resource
import signal
import sys
import threading
from collections.abc import Iterable

__all__ = ["Surroundings"]

# Those of the signal module turn each number into an enum, which costs ten times the call.
_signal = importlib.import_module("_signal")
_getsignal = _signal.getsignal
_setlocale = importlib.import_module("_locale").setlocale  # nor need a locale that is only looked at be normalised
_WATCHED = tuple(
    int(number)
    for number in (
        signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGALRM, signal.SIGCHLD, signal.SIGPIPE,
        signal.SIGUSR1, signal.SIGUSR2,
    )
)  # fmt: skip
_STREAMS = ("stdin", "stdout", "stderr")
_NAMES = ("AS", "CPU", "DATA", "FSIZE", "NOFILE", "NPROC", "STACK")
_LIMITS = tuple(getattr(resource, f"RLIMIT_{name}") for name in _NAMES if hasattr(resource, f"RLIMIT_{name}"))
_OPEN = getattr(os, "O_PATH", os.O_RDONLY) | os.O_CLOEXEC


class Surroundings:
    """A process's surroundings as they are now.

    :param descriptors: those that the worker cannot do without.
    """

    def __init__(self, descriptors: Iterable[int]) -> None:
        self._place = os.open(".", _OPEN)
        self._umask = os.umask(0o077)
        os.umask(self._umask)
        self._mask = _signal.pthread_sigmask(signal.SIG_BLOCK, ())
        self._handlers = [(number, _signal.getsignal(number)) for number in _WATCHED]
        self._locale = locale.setlocale(locale.LC_ALL)
        self._main = threading.get_ident() if threading.current_thread() is threading.main_thread() else 0
        self._root = os.open("/", _OPEN)
        self._root_is = _identity(self._root)
        self._user = _user()
        self._limits = [(limit, resource.getrlimit(limit)) for limit in _LIMITS]
        self._streams = [(name, getattr(sys, name)) for name in _STREAMS]
        self._open_streams = [stream for _, stream in self._streams if _is_open(stream)]
        self._euid, self._file_size, self._stdout = os.geteuid(), resource.getrlimit(resource.RLIMIT_FSIZE), sys.stdout
        self._watches_stdout = _is_open(sys.stdout)
        self._standard = [(fd, _identity(fd)) for fd in range(3)]
        self._own = [(fd, _identity(fd)) for fd in (*descriptors, self._place, self._root)]

    def restore(self) -> None:
        """Puts back what tasks often change; the signals' part only in the main thread.

        :raises OSError: if the process has lost the descriptor that it keeps for this.
        """
        os.umask(self._umask)
        os.fchdir(self._place)
        if _setlocale(locale.LC_ALL) != self._locale:
            locale.setlocale(locale.LC_ALL, self._locale)
        if threading.get_ident() != self._main:
            return
        _signal.alarm(0)
        for number, handler in self._handlers:
            if _getsignal(number) is not handler:
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
        if _signal.pthread_sigmask(signal.SIG_BLOCK, ()) != self._mask:
            signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)

    def differ(self) -> bool:
        """Whether one of those differs that ``repair`` puts back, and that harms the next task at once: of some only,
        as this is asked after each run."""
        return (
            os.geteuid() != self._euid
            or resource.getrlimit(resource.RLIMIT_FSIZE) != self._file_size
            or sys.stdout is not self._stdout
            or (self._watches_stdout and self._stdout.closed)
        )

    def check_descriptors(self) -> None:
        """Looks whether the worker's own descriptors are what they were.

        :raises OSError: if one was closed, and may be another file's by now.
        """
        for fd, was in self._own:
            if _identity(fd) != was:
                raise OSError(errno.EBADF, f"descriptor {fd} is not what it was")

    def repair(self, *, alone: bool) -> tuple[list[str], list[str]]:
        """Puts back what tasks seldom change; returns what was changed, and what of it cannot be put back.

        :param alone: whether nothing runs just now, which may have replaced a standard stream for a while.
        :raises OSError: if the user or the root directory cannot be put back, without which no task can be settled.
        """
        changed, lost = [], []
        if _user() != self._user:
            changed.append("user or groups")
            users, groups, others = self._user
            os.setresuid(*users)
            os.setgroups(others)
            os.setresgid(*groups)
        if not self._is_root_as_it_was():
            changed.append("root directory")
            os.fchdir(self._root)
            os.chroot(".")
            os.fchdir(self._place)
        if limits := [(limit, was) for limit, was in self._limits if resource.getrlimit(limit) != was]:
            changed.append("resource limits")
            try:
                for limit, was in limits:
                    resource.setrlimit(limit, was)
            except (OSError, ValueError):  # a hard limit was lowered
                lost.append("resource limits")
        whole = all(_identity(fd) == was for fd, was in self._standard)
        whole = whole and not any(stream.closed for stream in self._open_streams)
        for name, stream in self._streams:
            if alone and getattr(sys, name) is not stream:  # without a word: a library may have wrapped it for good
                setattr(sys, name, stream)
        if not whole:
            changed.append("standard streams")
            lost.append("standard streams")
        return changed, lost

    def _is_root_as_it_was(self) -> bool:
        try:
            found = os.stat("/")
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == self._root_is


def _is_open(stream: object) -> bool:
    """Whether this is one of Python's own streams, and open; another object's attributes may be code."""
    return type(stream) is io.TextIOWrapper and not stream.closed


def _identity(fd: int) -> tuple[int, int] | None:
    """What a descriptor is; None if it is closed."""
    try:
        found = os.fstat(fd)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _user() -> tuple[tuple[int, int, int], tuple[int, int, int], list[int]]:
    if not hasattr(os, "getresuid"):  # on macOS, where this is not watched
        return (0, 0, 0), (0, 0, 0), []
    return os.getresuid(), os.getresgid(), os.getgroups()
