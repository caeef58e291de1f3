"""uWSGI's own spooler, with uwsgidecorators or with another program's tasks, set up to be as fast as it can be.

No log lines for tasks, no order asked for, spoolers that import nothing but the tasks, and a caller that fills a
directory which no spooler looks at, so that it has the disk and the processor to itself. The caller runs in a mule: it
is inside uWSGI, where alone a task can be sent, and takes no requests.
"""

import sys
from pathlib import Path

from .filesystem import Place
from .system import System

__all__ = ["Uwsgi"]

_HERE = Path(__file__).resolve().parent
_COMMON = [
    str(Path(sys.executable).with_name("pyuwsgi")),
    "--master",
    "--die-on-term",
    "--spooler-quiet",
    "--disable-logging",
]


class Uwsgi(System):
    """uWSGI. A subclass may use another module for the tasks and their caller."""

    name = "uWSGI"
    app = "app_uwsgi"

    @property
    def _caller(self) -> str:
        return f"--mule={_HERE / self.app}.py"

    def calling(self, place: Place) -> list[str]:
        return [*_COMMON, f"--spooler-external={place.spool}", self._caller]

    def working(self, place: Place, workers: int) -> list[str]:
        return [
            *_COMMON,
            f"--spooler={place.spool}",
            f"--spooler-processes={workers}",
            "--spooler-frequency=1",
            f"--spooler-import=benchmarks.{self.app}",
        ]

    def calling_idle(self, place: Place) -> tuple[list[str], None]:
        return [*self.working(place, 1), self._caller], None  # a spooler wakes up at once only for its own uWSGI
