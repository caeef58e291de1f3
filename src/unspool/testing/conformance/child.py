"""A forked process that does some work and then waits until it is killed."""

import contextlib
import os
import signal
import traceback
from collections.abc import Callable, Iterator

__all__ = ["child", "kill"]


@contextlib.contextmanager
def child(work: Callable[[], object], *, wait: bool = True) -> Iterator[int]:
    """Fork a child that does ``work`` and then waits. Yield its pid, and kill it at the end.

    :param wait: whether to yield only after the work is done.
    """
    hear, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os.write(tell, b".")
            while True:
                signal.pause()
        except BaseException:  # noqa: BLE001  also a failed assertion
            traceback.print_exc()
        finally:
            os._exit(1)
    os.close(tell)
    try:
        assert not wait or os.read(hear, 1) == b".", "the child has failed; see its traceback"
        yield pid
    finally:
        os.close(hear)
        with contextlib.suppress(ChildProcessError):
            kill(pid)


def kill(pid: int) -> None:
    """Kill a child, and return when it is dead. Do nothing if it was killed before."""
    if os.waitpid(pid, os.WNOHANG)[0] == 0:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
