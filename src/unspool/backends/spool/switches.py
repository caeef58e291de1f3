"""The switches of a spool directory: the files ``paused`` and ``period`` in ``.unspool/run``.

Users create and remove the file ``paused`` themselves too. Older versions of unspool use the same files.
"""

import contextlib
import os

from ...errors import SpoolerUnusable
from ..base import Switches, check_period
from .directory import Directory
from .file import open_private
from .layout import RUN, TMP

__all__ = ["SpoolSwitches"]

_PAUSED, _PERIOD = "paused", "period"


class SpoolSwitches:
    """Implement ``base.Backend.switch``."""

    def __init__(self, directory: Directory, period: float) -> None:
        self._directory = directory
        self._default_period = period
        self._paused = directory.path(f"{RUN}/{_PAUSED}")  # built once, since it is checked before each task

    def switch(self, *, paused: bool | None = None, period: float | None = None) -> Switches:
        try:
            if paused:
                self._write(_PAUSED, "")
            elif paused is not None:
                self._remove(_PAUSED)
            if period is not None:
                self._write(_PERIOD, f"{period}")
        except SpoolerUnusable:
            raise
        except OSError as error:
            raise self._directory.unusable(error) from error
        return Switches(self.paused, self.period)

    @property
    def paused(self) -> bool:
        """Return whether no task may be started."""
        return os.access(self._paused, os.F_OK)

    @property
    def period(self) -> float:
        """Return the period that was set, or the default."""
        try:
            with open(open_private(self._directory, f"{RUN}/{_PERIOD}"), encoding="ascii") as file:
                return check_period(float(file.read(40)))
        except (OSError, ValueError):  # an edited file can hold anything; OptionRefused is a ValueError
            return self._default_period

    def _remove(self, name: str) -> None:
        self._directory.renew(RUN)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._directory.fd(RUN))

    def _write(self, name: str, text: str) -> None:
        self._directory.renew(TMP, RUN)
        tmp, run = self._directory.fd(TMP), self._directory.fd(RUN)
        draft = self._directory.drafts.name(name)
        fd = open_private(self._directory, f"{TMP}/{draft}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        try:
            with open(fd, "w", encoding="ascii") as file:
                file.write(text)
            os.rename(draft, name, src_dir_fd=tmp, dst_dir_fd=run)
        except OSError:
            os.unlink(draft, dir_fd=tmp)
            raise
