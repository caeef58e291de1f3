"""The tasks of a soak. Each logs its beginning and its end. Some misbehave as real tasks do."""

import asyncio
import contextlib
import ctypes
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

from tests.soak.kinds import ATTEMPTS, CHILDREN, LIMITS
from tests.soak.marks import Mark
from tests.soak.oracle import append, append_all
from tests.soak.payload import key_of
from unspool import Message, Spooler
from unspool.errors import SpoolerUnusable

LOG = os.environ["SOAK_LOG"]
MARKS = os.environ["SOAK_MARKS"]
INSIDE_UWSGI = "uwsgi" in sys.modules


@contextlib.contextmanager
def running(key: str) -> Iterator[bool]:
    """Log the run, and yield whether it is the task's first one."""
    append(LOG, "start", key, os.getpid())  # before it waits for the mark, which another run may release meanwhile
    mark = Mark(MARKS, key)
    if not mark.alone:
        append(LOG, "twice", key, os.getpid())
    try:
        yield mark.first
    except BaseException as error:
        append(LOG, "fail", key, os.getpid(), type(error).__name__)
        raise
    else:
        append(LOG, "end", key, os.getpid())
    finally:
        mark.close()


def die(status: int) -> None:
    """Kill the worker and all its runs. This is logged first, because the other coroutines are not the cause."""
    append(LOG, "kill", os.getpid())
    if status:
        os._exit(status)
    os.kill(os.getpid(), signal.SIGKILL)


def send(messages: list[Message], keys: list[str]) -> None:
    """Send messages, and log the result."""
    try:
        ids = Spooler.send_many(messages)
    except SpoolerUnusable as error:
        sent = {key_of(id): id for id in error.sent}  # without a key if a worker has already run it
        append_all(LOG, [("ack", key, id) for key, id in sent.items() if key])
        append(
            LOG, "unsure" if "" in sent else "refused", type(error).__name__, *[key for key in keys if key not in sent]
        )
        raise ConnectionError("not sent") from error
    append_all(LOG, [("ack", key, id) for key, id in zip(keys, ids, strict=True)])


@Spooler.task
def ok(key: str, pad: str = "") -> bool:
    with running(key):
        time.sleep(0.005)
    return True


@Spooler.task(retry_delay=0.1)
def again(key: str, pad: str = "") -> bool:
    with running(key) as first:
        if first:
            raise ValueError(key)
    return True


@Spooler.task
def crash(key: str, pad: str = "") -> bool:
    with running(key) as first:
        if first:
            die(0)
    return True


@Spooler.task
def poison(key: str, pad: str = "") -> None:
    with running(key):
        die(9)


@Spooler.task(max_attempts=ATTEMPTS["hopeless"], retry_delay=0.1)
def hopeless(key: str, pad: str = "") -> None:
    with running(key):
        raise ValueError(key)


@Spooler.task
def slow(key: str, pad: str = "") -> bool:
    with running(key):
        time.sleep(2)
    return True


@Spooler.task(timeout=LIMITS["limit"], retry_delay=0.1)
def limit(key: str, pad: str = "") -> bool:
    with running(key) as first:
        if first:
            time.sleep(60)
    return True


@Spooler.task(timeout=LIMITS["late"], retry_delay=0.1)
async def late(key: str, pad: str = "") -> bool:
    with running(key) as first:
        if first:
            await asyncio.sleep(60)
    return True


@Spooler.task(timeout=LIMITS["stuck"], retry_delay=0.1)
def stuck(key: str, pad: str = "") -> bool:
    with running(key) as first:
        if first and not INSIDE_UWSGI:  # no process kills a spooler process of uWSGI
            lock = ctypes.create_string_buffer(64)
            library = ctypes.PyDLL(None)  # keeps the interpreter's lock, and no signal interrupts the call
            library.pthread_mutex_lock(lock)
            library.pthread_mutex_lock(lock)
    return True


@Spooler.task
async def coroutine(key: str, pad: str = "") -> bool:
    with running(key):
        await asyncio.sleep(0.2)
    return True


@Spooler.task(retry_delay=0.5, retry_backoff=1.0)
def chain(key: str, pad: str = "") -> bool:
    with running(key):
        source = random.SystemRandom()
        keys = [f"k{CHILDREN + source.randrange(1 << 38)}:ok" for _ in range(source.choice([1, 1, 3]))]
        send([ok.using(serializer="json").message(child) for child in keys], keys)
    return True


@Spooler.task
def mess(key: str, pad: str = "") -> bool:
    with running(key) as first:
        if not INSIDE_UWSGI:
            os.chdir("/")
            os.umask(0o777)
            for number in (signal.SIGTERM, signal.SIGCHLD, signal.SIGPIPE):
                signal.signal(number, signal.SIG_IGN)
            signal.alarm(1)
    if first and not INSIDE_UWSGI:  # this also drops the task's lock, so it comes last
        append(LOG, "kill", os.getpid())
        os.closerange(0, 256)
    return True


@Spooler.task
def children(key: str, pad: str = "") -> bool:
    with running(key):
        subprocess.Popen(["sleep", "1"], start_new_session=True)
    return True
