"""The time that a supervisor waits at its end."""

import os
import signal
import time

from unspool.runtime.patience import Patience, end_child


def test_time_runs_out_and_faster_in_a_hurry() -> None:
    """The remaining time counts down to zero. After a forced stop, it is short, and never becomes longer again."""
    now, hurried = 100.0, False
    patience = Patience(5.0, lambda: hurried, lambda: now)
    assert patience.left() == 5.0
    now = 102.0
    assert patience.left() == 3.0
    hurried = True
    assert patience.left() == 0.5
    hurried = False
    now = 102.4
    assert 0 < patience.left() < 0.2
    now = 200.0
    assert patience.left() == 0.0


def fork(code: int | None) -> int:
    """Return a child that ends by itself with this status, or never if there is none."""
    pid = os.fork()
    if pid == 0:
        if code is None:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(3600)
        os._exit(code)
    return pid


def test_a_child_that_ends_and_one_that_does_not() -> None:
    """The first is reaped, and its exit code returned. The second is killed and reaped when the time is up."""
    assert end_child(fork(3), Patience(30.0, lambda: False)) == 3
    assert end_child(fork(None), Patience(0.0, lambda: False)) is None
    assert end_child(fork(None), Patience(3600.0, lambda: True)) is None
    killed = fork(None)
    os.kill(killed, signal.SIGBUS)
    assert end_child(killed, Patience(30.0, lambda: False)) == -signal.SIGBUS
