"""The systems that are measured on a server, each with its fastest settings: those of its documentation, or those that
were found to be the fastest here. The comments say which.
"""

import contextlib
import sys
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from .. import witness
from ..caller import WARM_UP
from ..environments import Environment, environment
from ..filesystem import Ground, Place
from ..processes import Failed, Running, running, wait_until
from ..system import System
from .grounds import Server

__all__ = ["NATS", "POSTGRES", "DjangoTasksDb", "Oban", "OnServer", "PgQueuer", "Procrastinate", "Taskiq", "Unspool"]

_TIMEOUT = 300.0
_APPS = "benchmarks.servers"
_BATCH = 500  # so many at a time fill a queue


class OnServer(System):
    """A system that stores tasks on a server.

    :param server: the server.
    """

    polls = False
    """Whether an idle worker is not woken, but looks from time to time."""
    batches = True
    """Whether it can send many at once; for others it would take minutes to make a backlog, and none is measured."""
    pace = 1.0
    """Its part of the tasks of a drain, where a run of all of them would take minutes."""

    def __init__(self, server: Server) -> None:
        super().__init__()
        self.server = server

    @property
    @abstractmethod
    def version(self) -> str:
        """Return the measured version."""

    def prepare(self, url: str) -> None:
        """Create what it needs on the server, once for all measurements."""

    def drain(self, ground: Ground, tasks: int, workers: int, waiting: int = 0) -> float:
        """Return tasks per second that workers run, of those that were waiting when they started.

        :param waiting: the number of waiting tasks, of which ``tasks`` are run; all of them if not given.
        """
        with ground.place() as place:
            self._fill(place, max(waiting, tasks), _BATCH)
            ground.settle()
            wanted = tasks if waiting else tasks + WARM_UP
            witnessed = str(place.scratch)
            with contextlib.ExitStack() as stack:
                ran = [stack.enter_context(self._work(each, place)) for each in self.commands(place, workers)]
                wait_until(lambda: witness.tally(witnessed).runs >= wanted, ran[0], _TIMEOUT)
            found = witness.tally(witnessed)
            if not waiting and found.runs != wanted:
                raise Failed(f"{self.name} ran {found.runs} tasks, of {wanted} that were waiting")
            return found.rate

    def commands(self, place: Place, workers: int) -> list[list[str]]:
        """Return the commands that start this number of worker processes: one each, if a system has no parent
        for them.
        """
        return [self.working(place, 1)] * workers

    def calling_idle(self, place: Place) -> tuple[list[str], None]:
        return self.calling(place), None

    def latency_of(self, ground: Ground, calls: int) -> Mapping[str, float]:
        """Return the milliseconds from a call to the first line of its task in an idle worker."""
        calls = max(calls // 10, 5) if self.polls else calls
        return self.latency(_Idle(ground, self), calls)._asdict()

    def _work(self, command: Sequence[str], place: Place) -> contextlib.AbstractContextManager[Running]:
        return self._run(command, place, self.server.working_environment(self))

    def environment(self, place: Place) -> dict[str, str]:
        return {**self._settings, **self.server.environment(self)}


class _Idle:
    """A ``Ground`` with a worker at each place."""

    def __init__(self, ground: Ground, system: OnServer) -> None:
        self._ground = ground
        self._system = system

    @contextlib.contextmanager
    def place(self) -> Iterator[Place]:
        with self._ground.place() as place, self._system._work(self._system.working(place, 1), place):
            yield place


class Unspool(OnServer):
    """unspool, with the secret key that its guide requires. Other systems sign nothing."""

    name = "unspool"

    def __init__(self, server: Server) -> None:
        super().__init__(server)
        self._settings = {"UNSPOOL_SECRET_KEY": "k" * 43}

    @property
    def version(self) -> str:
        return ""  # machine.describe tells

    def prepare(self, url: str) -> None:
        env = {"UNSPOOL_SPOOLERS": f"{url}?spooler=bench", **self._settings}
        _once([_beside("unspool"), "migrate"], env, self.server.scratch)

    def calling(self, place: Place) -> list[str]:
        return [sys.executable, "-m", "benchmarks.app_unspool"]

    def working(self, place: Place, workers: int) -> list[str]:
        command = [_beside("unspool"), "run", "benchmarks.app_unspool", "--processes", str(workers)]
        return [*command, "--log-level", "warning"]

    def commands(self, place: Place, workers: int) -> list[list[str]]:
        return [self.working(place, workers)]


class _Peer(OnServer):
    app: str
    package: str
    more: Sequence[str] = ()
    minimum = (3, 11)

    def __init__(self, server: Server) -> None:
        super().__init__(server)
        self._made: Environment = environment(self.package, self.more, self.minimum)

    @property
    def version(self) -> str:
        return self._made.version

    def calling(self, place: Place) -> list[str]:
        return [self._made.program("python"), "-c", f"from {_APPS} import {self.app}; {self.app}.main()"]

    def _prepare(self, env: Mapping[str, str], *command: str) -> None:
        _once([self._made.program(command[0]), *command[1:]], env, self.server.scratch)


class Procrastinate(_Peer):
    """procrastinate. It claims one job per round trip; more at once only share the event loop."""

    name = "procrastinate"
    app = "app_procrastinate"
    package = "procrastinate"
    more = ("psycopg[binary]",)
    pace = 0.1

    def prepare(self, url: str) -> None:
        self._prepare({"BENCH_URL": url}, *self._command(), "schema", "--apply")

    def working(self, place: Place, workers: int) -> list[str]:
        command, *words = self._command()
        return [self._made.program(command), *words, "--log-level", "warning", "worker", "--concurrency", "10"]

    def _command(self) -> list[str]:
        return ["procrastinate", "--app", f"{_APPS}.{self.app}.app"]


class PgQueuer(_Peer):
    """PgQueuer, on asyncpg, its first choice, and uvloop."""

    name = "pgqueuer"
    app = "app_pgqueuer"
    package = "pgqueuer"
    more = ("asyncpg", "uvloop")
    pace = 0.5

    def prepare(self, url: str) -> None:
        self._prepare({}, "pgq", "--pg-dsn", url, "install")

    def working(self, place: Place, workers: int) -> list[str]:
        # Its command of its own stumbles over the log level with a current typer.
        run = f"pgqueuer.run('{_APPS}.{self.app}:worker', batch_size=100)"
        return [self._made.program("python"), "-c", f"import pgqueuer, uvloop; uvloop.run({run})"]


class Oban(_Peer):
    """Oban, with a queue so wide that its pause of 5 ms between fetches does not matter."""

    name = "oban"
    app = "app_oban"
    package = "oban"
    minimum = (3, 12)
    pace = 0.25

    def prepare(self, url: str) -> None:
        self._prepare({}, "oban", "install", "--dsn", url)

    def working(self, place: Place, workers: int) -> list[str]:
        command = [self._made.program("oban"), "start", "--dsn", self.server.working_url, "--queues", "default:100"]
        return [*command, "--log-level", "WARNING", "--cron-modules", f"{_APPS}.{self.app}"]


class DjangoTasksDb(_Peer):
    """django-tasks-db, whose idle worker polls once a second."""

    name = "django-tasks-db"
    app = "app_django"
    package = "django-tasks-db"
    more = ("django>=6", "psycopg[binary]")
    minimum = (3, 12)
    polls = True
    batches = False
    pace = 0.05

    def prepare(self, url: str) -> None:
        self._prepare({"BENCH_URL": url, **_DJANGO}, "django-admin", "migrate", "--verbosity", "0")

    def working(self, place: Place, workers: int) -> list[str]:
        return [self._made.program("django-admin"), "db_worker", "--no-startup-delay", "--verbosity", "0"]

    def environment(self, place: Place) -> dict[str, str]:
        return {**super().environment(place), **_DJANGO}


class Taskiq(_Peer):
    """taskiq with its pulling broker for JetStream, which takes this number of messages at a time."""

    name = "taskiq"
    app = "app_taskiq"
    package = "taskiq-nats"
    more = ("uvloop",)

    def working(self, place: Place, workers: int) -> list[str]:
        command = [self._made.program("taskiq"), "worker", f"{_APPS}.{self.app}:broker", "--workers", str(workers)]
        return [*command, "--log-level", "WARNING", "--max-async-tasks", "100"]

    def commands(self, place: Place, workers: int) -> list[list[str]]:
        return [self.working(place, workers)]

    def environment(self, place: Place) -> dict[str, str]:
        return {**super().environment(place), "BENCH_FETCH": "100"}


POSTGRES = (Unspool, Procrastinate, PgQueuer, Oban, DjangoTasksDb)
NATS = (Unspool, Taskiq)
_DJANGO = {"DJANGO_SETTINGS_MODULE": f"{_APPS}.app_django"}


def _beside(program: str) -> str:
    return str(Path(sys.executable).with_name(program))


def _once(command: Sequence[str], env: Mapping[str, str], scratch: Path) -> None:
    with running(command, env, scratch / "prepare.log") as process:
        wait_until(process.ended, process, _TIMEOUT)
        if process.status:
            raise process.failure("failed")
