"""The tasks of a soak. Each says when it starts and ends; most behave, some do what real ones do on bad days.

Whether a run is a task's first is read from the log, which is outside of the spool.
"""

import asyncio
import os
import signal
import subprocess
import sys
import time

from tests.soak.oracle import append
from unspool import Spooler
from unspool.errors import TaskTimeout

LOG = os.environ["SOAK_LOG"]
INSIDE_UWSGI = "uwsgi" in sys.modules


def begin(key: str) -> bool:
    """Says that the run has begun; whether it is the first."""
    marks = os.path.join(os.path.dirname(LOG), "begun")
    append(LOG, "start", key, os.getpid())
    try:
        os.close(os.open(os.path.join(marks, key), os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        return False
    return True


def end(key: str) -> bool:
    """Says that it has ended."""
    append(LOG, "end", key, os.getpid())
    return True


def die(status: int) -> None:
    """Takes the worker along, and the coroutines that it runs: said beforehand, for those are innocent."""
    append(LOG, "kill", os.getpid())
    if status:
        os._exit(status)
    os.kill(os.getpid(), signal.SIGKILL)


@Spooler.task
def ok(key: str) -> bool:
    begin(key)
    time.sleep(0.005)
    return end(key)


@Spooler.task(retry_delay=0.1)
def again(key: str) -> bool:
    if begin(key):
        raise ValueError(key)
    return end(key)


@Spooler.task
def crash(key: str) -> bool:
    if begin(key):
        die(0)
    return end(key)


@Spooler.task
def poison(key: str) -> None:
    begin(key)
    die(9)


@Spooler.task(max_attempts=2, retry_delay=0.1)
def hopeless(key: str) -> None:
    begin(key)
    raise ValueError(key)


@Spooler.task
def slow(key: str) -> bool:
    begin(key)
    time.sleep(2)
    return end(key)


@Spooler.task(timeout=0.3, retry_delay=0.1)
def limit(key: str) -> bool:
    try:
        if begin(key):
            time.sleep(60)
        return end(key)
    except TaskTimeout:  # the second run's, too, where the disk keeps its lines waiting
        append(LOG, "stopped", key, os.getpid())
        raise


@Spooler.task
async def coroutine(key: str) -> bool:
    begin(key)
    await asyncio.sleep(0.2)
    return end(key)


@Spooler.task
def mess(key: str) -> bool:
    first = begin(key)
    if not INSIDE_UWSGI:
        os.chdir("/")
        os.umask(0o777)
        for number in (signal.SIGTERM, signal.SIGCHLD, signal.SIGPIPE):
            signal.signal(number, signal.SIG_IGN)
        signal.alarm(1)
        if first:
            append(LOG, "kill", os.getpid())
            os.closerange(0, 256)
            return True
    return end(key)


@Spooler.task
def children(key: str) -> bool:
    begin(key)
    subprocess.Popen(["sleep", "1"], start_new_session=True)
    return end(key)


KINDS = {
    "ok": 60, "again": 8, "slow": 2, "crash": 1, "poison": 0.3, "hopeless": 2, "limit": 2, "coroutine": 10, "mess": 1,
    "children": 2,
}  # fmt: skip
"""How often each is sent, in parts."""
