"""The pytest plugin: a separate spooler for each test that requests one, with the tasks sent to it.

.. code-block:: python

    from myapp import send_mail, signup     # send_mail is decorated with @Spooler.task

    def test_signup_sends_a_mail(unspool_spooler):
        signup("ann@example.org")
        (spooled,) = unspool_spooler.tasks()
        assert spooled.task == "myapp:send_mail"
        assert spooled.args == ("ann@example.org",)

        (run,) = unspool_spooler.run()
        assert run.verdict == "processed"

No setup is needed: pytest finds the plugin by unspool's entry point. While the fixture is in use, all tasks are sent to
temporary directories, both those for the default spooler and those for any other, by name, path or URL.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .spooled import TemporarySpooler

__all__ = ["unspool_spooler"]

pytest.register_assert_rewrite("unspool.testing.conformance")


@pytest.fixture
def unspool_spooler(tmp_path: Path) -> Iterator["TemporarySpooler"]:
    """Spoolers for one test that replace all others.

    It has ``tasks()``, ``run()``, ``advance()`` and ``backend``.
    """
    from .spooled import temporary_spooler

    with temporary_spooler(str(tmp_path / "unspool_spooler")) as spooler:
        yield spooler
