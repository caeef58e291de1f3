"""The spool directory keeps the contract, in each way in which it can be set up or must do without."""

import errno
import os
from pathlib import Path

import pytest

from unspool.backends.base import Backend, Clock
from unspool.backends.spool import SpoolBackend, watcher
from unspool.signing import Signer
from unspool.testing import BackendConformance


class TestRelaxed(BackendConformance):
    """Without syncs, as most of these tests need none."""

    durable = False

    def make_backend(self, clock: Clock, place: Path, signer: Signer | None = None) -> Backend:
        return SpoolBackend(str(place / "mail"), durable=self.durable, clock=clock, signer=signer)

    def damage(self, backend: Backend, id: str) -> None:
        data = Path(id).read_bytes()
        with open(id, "r+b") as file:  # in place: its times and attributes stay
            file.seek(len(data) - 1)
            file.write(bytes([data[-1] ^ 1]))
        os.utime(id, (0, 0))


class TestDurable(TestRelaxed):
    """With every task synced."""

    durable = True


class TestWithoutAttributes(TestRelaxed):
    """On a file system that has no extended attributes: attempts are kept in files beside."""

    @pytest.fixture(autouse=True)
    def no_attributes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*args: object, **kwargs: object) -> None:
            raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

        for name in ("setxattr", "getxattr", "removexattr"):
            monkeypatch.setattr(os, name, refuse)


class TestWithoutEvents(TestRelaxed):
    """Where the kernel tells nothing of changes: looking again finds them."""

    @pytest.fixture(autouse=True)
    def no_events(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(watcher.sys, "platform", "other")
