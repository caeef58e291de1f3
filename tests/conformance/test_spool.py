"""The spool directory passes the conformance suite in each configuration."""

import errno
import os
from pathlib import Path

import pytest

from unspool.backends.base import Backend, Clock
from unspool.backends.spool import SpoolBackend, watcher
from unspool.testing import BackendConformance


class TestRelaxed(BackendConformance):
    """Without syncs, which most of these tests do not need."""

    durable = False

    def make_backend(self, clock: Clock, place: Path) -> Backend:
        return SpoolBackend(str(place / "mail"), durable=self.durable, clock=clock)

    def damage(self, backend: Backend, id: str) -> None:
        data = Path(id).read_bytes()
        with open(id, "r+b") as file:  # in place: its times and attributes stay
            file.seek(len(data) - 1)
            file.write(bytes([data[-1] ^ 1]))
        os.utime(id, (0, 0))


class TestDurable(TestRelaxed):
    """With a sync of every task."""

    durable = True


class TestWithoutAttributes(TestRelaxed):
    """Without extended attributes: attempts are stored in files."""

    @pytest.fixture(autouse=True)
    def no_attributes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*args: object, **kwargs: object) -> None:
            raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

        for name in ("setxattr", "getxattr", "removexattr"):
            monkeypatch.setattr(os, name, refuse)


class TestWithoutEvents(TestRelaxed):
    """Without change events of the kernel: scans find the changes."""

    @pytest.fixture(autouse=True)
    def no_events(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(watcher.sys, "platform", "other")
