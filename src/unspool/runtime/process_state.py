"""The state of a process, which is restored after each task for those that run after it.

Working directory, umask, signal handlers and mask, alarm and locale are restored after each run without a log line,
which takes 4 µs per run. User, resource limits, root directory, standard streams and the worker's own descriptors are
checked after a failure, a refusal, or a run of some milliseconds, and after shorter runs every 20 ms, because tasks
seldom change them and a check takes as long as a short task. The state after the import of the application is restored.
Environment variables, threads and the state of modules are not restored.
"""

import errno
import importlib
import io
import locale
import operator
import os
import resource
import signal
import sys
import threading
from collections.abc import Iterable

__all__ = ["ProcessState"]

# The functions of ``signal`` convert each number to an enum, which takes ten times as long as the call.
_signal = importlib.import_module("_signal")
_getsignal = _signal.getsignal
_geteuid, _getrlimit = os.geteuid, resource.getrlimit  # called after each run; local names take half of the time
_setlocale = importlib.import_module("_locale").setlocale  # ``locale`` would also normalise the name
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
_FILE_SIZE = resource.RLIMIT_FSIZE
_OPEN = getattr(os, "O_PATH", os.O_RDONLY) | os.O_CLOEXEC


class ProcessState:
    """The state of a process at the time of creation.

    :param descriptors: the descriptors that the worker needs.
    """

    def __init__(self, descriptors: Iterable[int]) -> None:
        self._place = os.open(".", _OPEN)
        self._umask = os.umask(0o077)
        os.umask(self._umask)
        self._mask = _signal.pthread_sigmask(signal.SIG_BLOCK, ())
        self._handlers = [_getsignal(number) for number in _WATCHED]
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
        """Restore the state that tasks often change. Signals are restored in the main thread only.

        :raises OSError: if the process has lost the descriptor that this needs.
        """
        os.umask(self._umask)
        os.fchdir(self._place)
        if _setlocale(locale.LC_ALL) != self._locale:
            locale.setlocale(locale.LC_ALL, self._locale)
        if threading.get_ident() != self._main:
            return
        _signal.alarm(0)
        if any(map(operator.is_not, map(_getsignal, _WATCHED), self._handlers)):  # takes half of the time of a loop
            for number, handler in zip(_WATCHED, self._handlers, strict=True):
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
        if _signal.pthread_sigmask(signal.SIG_BLOCK, ()) != self._mask:
            signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)

    def differ(self) -> bool:
        """Return whether state that ``repair`` restores has changed so that it would harm the next task.

        Only part of the state is checked, because this is called after each run.
        """
        return (
            _geteuid() != self._euid
            or _getrlimit(_FILE_SIZE) != self._file_size
            or sys.stdout is not self._stdout
            or (self._watches_stdout and self._stdout.closed)
        )

    def check_descriptors(self) -> None:
        """Check that the worker's own descriptors are unchanged.

        :raises OSError: if one was closed. Its number may now belong to another file.
        """
        for fd, was in self._own:
            if _identity(fd) != was:
                raise OSError(errno.EBADF, f"descriptor {fd} is not what it was")

    def repair(self, *, alone: bool) -> tuple[list[str], list[str]]:
        """Restore the state that tasks seldom change. Return what had changed, and which of it cannot be restored.

        :param alone: whether no run is active that may have temporarily replaced a standard stream.
        :raises OSError: if the user or the root directory cannot be restored, without which no task can be settled.
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
            if alone and getattr(sys, name) is not stream:  # not logged: a library may have wrapped it permanently
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
    """Return whether this is one of Python's own streams, and open. Attributes of other objects may run code."""
    return type(stream) is io.TextIOWrapper and not stream.closed


def _identity(fd: int) -> tuple[int, int] | None:
    """Return the identity of the file of a descriptor; None if it is closed."""
    try:
        found = os.fstat(fd)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _user() -> tuple[tuple[int, int, int], tuple[int, int, int], list[int]]:
    if not hasattr(os, "getresuid"):  # on macOS, where this is not checked
        return (0, 0, 0), (0, 0, 0), []
    return os.getresuid(), os.getresgid(), os.getgroups()
