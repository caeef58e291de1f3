"""Clean-up, removals, renames and mounts that people and tools apply to a directory in use."""

import contextlib
import os
import random
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from . import oracle
from .cast import Cast
from .operators import Operators, Route
from .payload import KEY

__all__ = ["Cleanup"]

_PARTS = ("run", "writers", "tmp", "attempts", "history.sqlite3", "history.sqlite3-journal")
"""The parts of ``.unspool`` that contain no tasks."""


class Cleanup:
    """Removes, moves and covers the directory and its parts.

    :param spool: the directory.
    :param beside: a directory on the same file system, for parts that are moved away.
    :param mounts: a directory on another file system, for volumes that were mounted on the directory.
    :param routes: gets a route back for each directory that is moved away.
    :param quiet: held while no command of an operator may run.
    """

    def __init__(
        self, cast: Cast, spool: Path, beside: Path, mounts: Path, routes: list[Route], quiet: "threading.RLock"
    ) -> None:
        self._cast = cast
        self._spool = spool
        self._beside = beside
        self._mounts = mounts
        self._routes = routes
        self._quiet = quiet
        self.moved: list[str] = []
        """Directories with tasks that have been moved away."""

    def faults(self) -> Mapping[Callable[[random.Random], None], float]:
        """Return the faults, and their relative frequencies."""
        return {
            self.empty_priorities_removed: 6, self.empty_directories_found: 3, self.parts_removed: 3,
            self.private_moved_away: 1.5, self.away_for_a_while: 1, self.renamed: 1, self.covered: 1,
        }  # fmt: skip

    def empty_priorities_removed(self, source: random.Random) -> None:
        """Run ``rmdir mail/[0-9]*`` repeatedly."""
        end = time.monotonic() + source.uniform(0.5, 2)
        while time.monotonic() < end:
            for priority in self._spool.glob("[0-9]*"):
                with contextlib.suppress(OSError):
                    priority.rmdir()
            time.sleep(0.005)

    def empty_directories_found(self, source: random.Random) -> None:
        for _ in range(source.choice([1, 3])):
            command = ["find", str(self._spool), "-mindepth", "1", "-type", "d", "-empty", "-delete"]
            subprocess.run(command, capture_output=True, check=False)  # files may vanish while the command runs

    def parts_removed(self, source: random.Random) -> None:
        for name in source.sample(_PARTS, source.choice([1, 1, 3])):
            part = self._spool / ".unspool" / name
            with contextlib.suppress(OSError):
                if part.is_dir():
                    shutil.rmtree(part)
                else:
                    part.unlink()

    def private_moved_away(self, source: random.Random) -> None:
        """Move ``.unspool`` away, which is equivalent to its removal.

        Tasks that were set aside in it count as taken.
        """
        with self._quiet, contextlib.suppress(FileNotFoundError):
            os.rename(self._spool / ".unspool", self._beside / f"private-{source.randrange(10**9)}")
            oracle.append(self._cast.log, "forgot")

    def away_for_a_while(self, source: random.Random) -> None:
        """Move the directory away, and back unless a sender has created it again."""
        self._move_away(source, again=False)

    def renamed(self, source: random.Random) -> None:
        """Move the directory away, and create a new one with its name."""
        self._move_away(source, again=True)

    def _move_away(self, source: random.Random, *, again: bool) -> None:
        away = self._beside / f"away-{source.randrange(10**9)}"
        with self._quiet:
            os.rename(self._spool, away)
            if again:
                with contextlib.suppress(FileExistsError):
                    self._spool.mkdir(0o700)
            self._renew_uwsgi()
            time.sleep(source.uniform(0.2, 3))
            if not again:
                try:
                    self._spool.rmdir() if self._spool.exists() else None
                    os.rename(away, self._spool)
                    self._renew_uwsgi()
                    return
                except OSError:
                    pass  # another process has created it again, and uses it
            oracle.append(self._cast.log, "forgot")
            self._note(away)

    def covered(self, source: random.Random) -> None:
        """Mount another volume over it for a while."""
        with self._quiet:
            subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=0700,size=64m", "soak", str(self._spool)], check=True)
            self._renew_uwsgi()
            time.sleep(source.uniform(1, 4))
            away = self._mounts / f"covered-{source.randrange(10**9)}"
            away.mkdir()
            subprocess.run(["mount", "--move", str(self._spool), str(away)], check=True)
            self._renew_uwsgi()
            self._note(away)

    def _note(self, away: Path) -> None:
        self.moved.append(str(away))
        self._routes.append((str(away), str(self._spool)))

    def _renew_uwsgi(self) -> None:
        """Restart uWSGI later, because it works in the directory that it was started with, wherever that is now."""
        for name in self._cast.names("uwsgi"):
            self._cast.kill(name)

    def bring_back(self, operators: Operators) -> None:
        """Move the tasks of all directories that were moved away back."""
        for away in self.moved:
            operators.run("move", away, str(self._spool))

    def taken(self) -> set[str]:
        """Return the keys of the tasks in the directories that were taken away."""
        keys = set()
        for place in self._beside.glob("private-*"):
            for path in place.rglob("*"):
                if path.is_file() and not path.is_symlink():
                    with open(path, "rb") as file:
                        keys |= {found[0].decode() for found in KEY.finditer(file.read(1 << 20))}
        return keys

    def close(self) -> None:
        """Unmount the volumes."""
        for away in self._mounts.glob("covered-*"):
            subprocess.run(["umount", "--lazy", str(away)], check=False)
