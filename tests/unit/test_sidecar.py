"""The process beside the supervisor."""

import errno
import os

import pytest

from unspool.runtime.patience import Patience
from unspool.runtime.sidecar import Sidecar


def test_no_process_for_the_sidecar(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """The kernel refuses a process. The supervisor continues, and tries again later."""

    def refuse() -> int:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    before = len(os.listdir("/proc/self/fd"))
    sidecar = Sidecar(lambda end: os.read(end, 1))
    with monkeypatch.context() as refused:
        refused.setattr(os, "fork", refuse)
        sidecar.turn(lambda: None)
        assert sidecar.wait()
    assert "trying again" in caplog.text
    assert len(os.listdir("/proc/self/fd")) == before
    monkeypatch.setattr(sidecar, "_next_start", 0.0)
    sidecar.turn(lambda: None)
    assert sidecar.wait() is None
    sidecar.close(Patience(10.0, lambda: False))
