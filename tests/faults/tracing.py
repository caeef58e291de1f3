"""A child process under strace, which kills it at one of its system calls, or makes some of them fail."""

import gc
import os
import pickle
import select
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["Killed", "calls", "run"]


_CHANGING = frozenset(
    [
        "openat",
        "write",
        "fsync",
        "fdatasync",
        "syncfs",
        "rename",
        "renameat",
        "renameat2",
        "unlink",
        "unlinkat",
        "link",
        "linkat",
        "mkdir",
        "mkdirat",
        "utimensat",
        "setxattr",
        "fsetxattr",
        "removexattr",
        "fcntl",
        "close",
        "ftruncate",
        "fallocate",
    ]
)


class Killed(Exception):
    """The process was killed before the end of its work."""


def calls(work: Callable[[], Any], log: Path) -> list[str]:
    """The system calls of the work that change something, each as what makes ``run`` kill the work there.

    :param log: a file to write.
    """
    run(work, log=str(log))
    names = [line.split()[1].partition("(")[0] for line in log.read_text().splitlines() if "(" in line]
    found = []
    for number, name in enumerate(names[: names.index("write", len(names) - 5)]):  # the last is the answer
        if name in _CHANGING:
            found.append(f"{name}:signal=KILL:when={names[: number + 1].count(name)}")
    return found


def run(work: Callable[[], Any], inject: str = "", log: str = "/dev/null") -> Any:
    """Does the work in a fork of this process, and returns what it returns or raises what it raises.

    :param inject: what strace is to do, from the beginning of the work on: ``fsync:error=EIO:when=2``.
    :param log: where it writes all system calls.
    :raises Killed: if it was killed.
    """
    go_reader, go_writer = os.pipe()
    answer_reader, answer_writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            signal.alarm(60)
            gc.disable()  # which would close, at any moment, what other tests have left
            select.select([go_reader], [], [])
            try:
                answer = (True, work())
            except BaseException as error:  # noqa: BLE001  it is the answer
                answer = (False, error)
            os.write(answer_writer, pickle.dumps(answer))
            status = 0
        finally:
            os._exit(status)
    os.close(answer_writer)
    try:
        tracer = subprocess.Popen(
            ["strace", "-f", "-o", log, "-p", str(pid), *(["-e", f"inject={inject}"] if inject else [])],
            stderr=subprocess.PIPE,
        )
        assert tracer.stderr is not None
        first = tracer.stderr.readline()
        assert b"attached" in first, first
        os.write(go_writer, b".")
        _, status = os.waitpid(pid, 0)
        tracer.stderr.close()
        tracer.wait()
        answer = os.read(answer_reader, 1 << 20)
    finally:
        for fd in (go_reader, go_writer, answer_reader):
            os.close(fd)
    if not answer:
        raise Killed(status)
    good, value = pickle.loads(answer)
    if good:
        return value
    raise value
