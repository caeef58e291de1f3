"""The bell: how tasks with a priority are run by a uWSGI that does not look into their directories.

A small task of its own, put where uWSGI looks. Whoever comes upon it takes it away first and then looks at the
priorities, so a task that arrives meanwhile rings again. One name serves all tasks due now, so ringing twice costs a
stat.
"""

import contextlib
import math
import os
import time

from ... import wire
from .layout import PREFIX, TMP, Directory, hint, is_priority

__all__ = ["BELL", "Bell"]

BELL = f"{PREFIX}unspool_bell"
_CONTENT = wire.dump({"msg": b"unspool_bell"}, b"")
_SHARE = 20  # of the time, at most one part in so many goes into looking at the priorities


class Bell:
    """The bell of a directory."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._not_before = 0.0

    def ring(self, due: float | None) -> None:
        """Puts it there for now, or for a due time (unix seconds)."""
        name = BELL if due is None else f"{BELL}_{math.ceil(due)}_000000"
        root, tmp = self._directory.fd(""), self._directory.fd(TMP)
        with contextlib.suppress(FileNotFoundError):
            os.stat(name, dir_fd=root)
            return
        draft = f"{name}-{os.getpid()}-{os.urandom(4).hex()}"
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=tmp)
        try:
            os.write(fd, _CONTENT)
            if due is not None:
                os.utime(fd, (math.ceil(due),) * 2)
        finally:
            os.close(fd)
        os.rename(draft, name, src_dir_fd=tmp, dst_dir_fd=root)

    def answer(self, ref: str) -> bool:
        """Whether the bell is there for now, or is the task of ``ref`` itself; takes it away."""
        asked = ref.startswith(BELL)
        if not asked and time.monotonic() < self._not_before:
            return False
        answered = False
        for name in {BELL, ref} if asked else {BELL}:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=self._directory.fd(""))
                answered = True
        return answered

    def urgent(self, now: float) -> list[str]:
        """The refs of tasks with a priority whose names say that they are due, in the order of running."""
        started = time.monotonic()
        found = []
        with contextlib.suppress(OSError), os.scandir(self._directory.root) as entries:
            parts = [entry.name for entry in entries if is_priority(entry.name)]
            for part in parts:
                with contextlib.suppress(OSError):
                    names = os.listdir(self._directory.path(part))
                    found += [
                        (int(part), due, f"{part}/{name}")
                        for name in names
                        if name.startswith(PREFIX) and (due := hint(name)) <= now
                    ]
        ended = time.monotonic()
        self._not_before = ended + _SHARE * (ended - started)
        return [ref for _, _, ref in sorted(found)]
