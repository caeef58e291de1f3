"""A program with its own spooler handler in uWSGI, which keeps the messages that are not unspool's."""

import pytest

from unspool import inspection

from .instance import Instance

OURS = """
@Spooler.task
def ours():
    note("ours")
    return True
"""
ITS_OWN = """
def handle(env):
    note("its own", env[b"colour"].decode())
    return uwsgi.SPOOL_OK
uwsgi.spooler = handle
"""
DECORATORS = """
from uwsgidecorators import spool
@spool(pass_arguments=True)
def decorated(a, b):
    note("decorated", a, b)
"""
CHAINED = """
former = uwsgi.spooler
def chain(env):
    return handle(env) if b"colour" in env else former(env)
uwsgi.spooler = chain
"""
IMPORTS = "import uwsgi\n"
UNSPOOL = "from unspool import Spooler\n"


@pytest.mark.parametrize(
    "program",
    [
        IMPORTS + ITS_OWN + UNSPOOL + OURS,
        IMPORTS + UNSPOOL + OURS + ITS_OWN,
        IMPORTS + UNSPOOL + OURS + ITS_OWN + CHAINED,
    ],
    ids=["before", "after", "chained"],
)
def test_its_own_handler_is_kept(instance: Instance, program: str) -> None:
    """Whether it was set before or after the import of unspool, it gets its messages, and unspool its own, which a log
    line says.
    """
    instance.write_app(program)
    instance.start()
    instance.do("ours()\nuwsgi.spool({b'colour': b'blue'})")
    instance.wait(lambda: sorted(instance.lines()) == ["its own blue", "ours"])
    instance.wait(lambda: not list(inspection.tasks(instance.backend)))
    assert "the messages that are not unspool's" in instance.log.read_text()


@pytest.mark.parametrize("first", ["unspool", "uwsgidecorators"])
def test_uwsgidecorators_beside_unspool(instance: Instance, first: str) -> None:
    """Its functions run by its own handler, whichever is imported first."""
    parts = [UNSPOOL + OURS, DECORATORS]
    instance.write_app(IMPORTS + "".join(parts if first == "unspool" else parts[::-1]))
    instance.start()
    instance.do("ours()\ndecorated(1, b=2)")
    instance.wait(lambda: sorted(instance.lines()) == ["decorated 1 2", "ours"])
    instance.wait(lambda: not list(inspection.tasks(instance.backend)))


def test_a_message_that_nobody_handles_is_kept(instance: Instance) -> None:
    """Without its own handler, a bare message of the program waits with back-off and a reason."""
    instance.write_app(IMPORTS + UNSPOOL)
    instance.start()
    instance.do("uwsgi.spool({b'colour': b'blue'})")
    instance.wait(lambda: [run.verdict for run in inspection.runs(instance.backend)] == ["rescheduled"])
    (entry,) = inspection.tasks(instance.backend)
    assert entry.attempts == 0
    assert "uwsgi.spool()" in inspection.runs(instance.backend)[0].error
