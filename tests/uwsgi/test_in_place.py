"""What real uWSGI does with a task that is being written in place."""

import os

from unspool.backends.spool.names import PREFIX
from unspool.backends.spool.trust import UNFINISHED

from .instance import Instance

APP = """
import uwsgi

def spooler(env):
    note("ran", os.fsdecode(env["spooler_task_name"]).split("_")[3])
    return uwsgi.SPOOL_OK

uwsgi.spooler = spooler
"""
NAMES = {what: f"uwsgi_spoolfile_on_{what}_1_1_1_1000000000_000001" for what in ("empty", "whole", "after")}
CONTENT = b"\x11\x07\x00\x00\x01\x00a\x02\x00bc"


def test_it_waits_for_the_sender(instance: Instance) -> None:
    """uWSGI of any user leaves a file alone that has no header yet. Only root may run a complete one before its sender
    has set its mode. Each runs once.
    """
    instance.write_app(APP)
    instance.spool.mkdir(exist_ok=True, mode=0o700)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    empty, whole = (os.open(instance.spool / NAMES[what], flags, UNFINISHED) for what in ("empty", "whole"))
    os.write(whole, CONTENT)
    instance.start()
    instance.drop(NAMES["after"].removeprefix(PREFIX), CONTENT)
    instance.wait_for_line("ran after")
    assert set(instance.lines()) <= {"ran after"} | ({"ran whole"} if os.geteuid() == 0 else set())
    assert os.fstat(empty).st_nlink == 1
    os.write(empty, CONTENT)
    for fd in (empty, whole):
        os.fchmod(fd, 0o600)
        os.close(fd)
    instance.wait_for_line("ran empty")
    instance.wait_for_line("ran whole")
    assert sorted(instance.lines()) == ["ran after", "ran empty", "ran whole"]
