"""``unspool uwsgi`` and ``unspool doctor`` with real uWSGI."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import inotify_simple
import pytest

from unspool.cli import main
from unspool.testing.waiting import readable

from .instance import PATIENCE, PROGRAM

SCRIPT = str(Path(sys.executable).with_name("unspool"))
Run = Callable[..., None]

APP = """
import os
from pathlib import Path
from unspool import Spooler

HERE = Path(__file__).parent

def note(name, text):
    part = HERE / f"part of {name}"
    part.write_text(text)
    part.rename(HERE / name)

@Spooler.task
def work(name, text="done"):
    note(name, text)
    return True

@Spooler.task
def where(name):
    note(name, os.getcwd())
    return True

@Spooler.task
def pass_on(to, name):
    note("known", " ".join(one.name for one in Spooler.get_spoolers()))
    work.using(spooler=Spooler.get_by_basename(to))(name)
    return True
"""


class Place:
    """A directory with an application, in which commands run."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.env = {name: value for name, value in os.environ.items() if not name.startswith("UNSPOOL_")}
        self.env |= {"UNSPOOL_DURABILITY": "relaxed", "PATH": os.defpath}
        (root / "app.py").write_text(APP)

    def result(self, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run ``unspool`` until it ends."""
        return subprocess.run(
            [SCRIPT, *words], cwd=self.root, env=self.env | env, capture_output=True, text=True, timeout=PATIENCE,
            stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip

    def __call__(self, *words: str, **env: str) -> str:
        """Run a command that succeeds, and return its output."""
        done = self.result(*words, **env)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def error(self, status: int, *words: str, **env: str) -> str:
        """Run a command that fails with this status, and return its one line."""
        done = self.result("uwsgi", *words, **env)
        assert (done.returncode, done.stdout) == (status, ""), done
        assert done.stderr.startswith("unspool: error: ")
        assert done.stderr.count("\n") == 1, done.stderr
        return done.stderr

    @contextlib.contextmanager
    def going(self, *command: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run a command until TERM, which must end it with all its processes."""
        before = processes_of(self.root)
        with open(self.root / "log", "wb") as log:
            process = subprocess.Popen(
                command, cwd=self.root, env=self.env, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        try:
            yield process
            assert process.poll() is None, self.log()
        finally:
            process.terminate()
            try:
                process.wait(PATIENCE)
            finally:
                process.kill()
                process.wait(PATIENCE)
        assert process.returncode == 0, self.log()
        for pid in processes_of(self.root) - before:  # its spoolers may end after the master
            wait_for_end(pid)

    def log(self) -> str:
        """Return the log of uWSGI."""
        return (self.root / "log").read_text()

    def wait(self, name: str) -> str:
        """Wait for a file, and return its content."""
        flags = inotify_simple.flags
        with inotify_simple.INotify() as changes:
            changes.add_watch(str(self.root), flags.CREATE | flags.MOVED_TO)
            while not (self.root / name).exists():
                assert changes.read(timeout=PATIENCE * 1000), self.log()
        return (self.root / name).read_text()

    def history(self, spooler: str, runs: int) -> list[str]:
        """Wait until this number of runs has ended, because tasks write before their end, and return their lines."""
        end = time.monotonic() + PATIENCE
        while len(lines := self("history", "--spooler", spooler).splitlines()) < runs:
            assert time.monotonic() < end, self.log()
        return lines


@pytest.fixture
def place(tmp_path: Path, run_uwsgi: Run) -> Place:
    """A place for commands, with uWSGI."""
    return Place(tmp_path)


def processes_of(root: Path) -> set[int]:
    """Return the processes that have a directory of this place among their arguments."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if str(root).encode() in (entry / "cmdline").read_bytes():
                found.add(int(entry.name))
    return found


def wait_for_end(pid: int) -> None:
    """Wait until a process that is not a child has ended."""
    with contextlib.suppress(ProcessLookupError):
        process = os.pidfd_open(pid)
        try:
            assert readable(process, PATIENCE), f"process {pid} goes on"
        finally:
            os.close(process)


def as_options(arguments: list[str]) -> list[tuple[str, str]]:
    """Return arguments in the form of an ini."""
    pairs = [argument.removeprefix("--").partition("=") for argument in arguments]
    return [(name, value or "true") for name, _, value in pairs]


def read_ini(text: str) -> list[tuple[str, str]]:
    """Return the options of an ini."""
    lines = text.removeprefix("[uwsgi]\n").replace("%%", "%").splitlines()
    return [(name, value) for name, _, value in (line.partition(" = ") for line in lines)]


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--processes", "2", "--ordered", "--harakiri", "60", "--max-tasks", "2", "--frequency", "2"),
        ("--chdir", ".", "--binary", str(PROGRAM)),
    ],
)
def test_tasks_run(options: tuple[str, ...], place: Place) -> None:
    """The command becomes uWSGI with the options that --print shows. It runs waiting and new tasks, and ends on TERM
    with all its processes.
    """
    app = ["app.py", "--spooler", "./mail", *options]
    place("enqueue", "app:work", '"first"', "--spooler", "./mail")
    with place.going(SCRIPT, "uwsgi", *app) as process:
        assert place.wait("first") == "done"
        place("enqueue", "app:work", '"second"', 'text="more"', "--spooler", "./mail", "--priority", "3")
        assert place.wait("second") == "more"
        place("enqueue", "app:where", '"third"', "--spooler", "./mail")
        assert place.wait("third") == str(place.root if "--chdir" in options else place.root / "mail")
        history = place.history("./mail", 3)
        arguments = Path(f"/proc/{process.pid}/cmdline").read_text().split("\0")[:-1]
    given = arguments[next(at for at, word in enumerate(arguments) if word.startswith("--")) :]
    assert as_options(given) == read_ini(place("uwsgi", *app, "--print"))
    assert sorted(line.split("\t")[1:3] for line in history) == [
        ["processed", "app:where"],
        ["processed", "app:work"],
        ["processed", "app:work"],
    ]


def test_the_printed_ini_runs(place: Place) -> None:
    """It is a file for ``uwsgi --ini``, with options that this uWSGI knows, and paths that do not depend on a
    directory.
    """
    ini = place(
        "uwsgi", "app", "--spooler", "./mail 100%", "--processes", "2", "--ordered", "--harakiri", "60", "--chdir", ".",
        "--max-tasks", "5", "--frequency", "2", "--print",
    )  # fmt: skip
    assert not (place.root / "mail 100%").exists()
    (place.root / "app.ini").write_text(ini)
    place("enqueue", "app:work", '"file"', "--spooler", "./mail 100%")
    with place.going(str(PROGRAM), "--chdir=/", "--ini", str(place.root / "app.ini")):
        assert place.wait("file") == "done"


def test_all_configured_spoolers(place: Place) -> None:
    """Without --spooler, it serves all configured spoolers. Its tasks see the same settings, although uWSGI runs them
    in another directory, where relative paths would mean something else.
    """
    (place.root / "pyproject.toml").write_text('[tool.unspool]\nspoolers = ["var/one", "var/two"]\n')
    place.env["UNSPOOL_SPOOLERS"] = "var/one,var/two"
    place("enqueue", "app:pass_on", '"two"', '"passed"')
    with place.going(SCRIPT, "uwsgi", "app:work"):
        assert place.wait("passed") == "done"
        (line,) = place.history("two", 1)
    assert "app:work" in line
    assert place.wait("known") == f"{place.root}/var/one {place.root}/var/two"
    assert not (place.root / "var" / "one" / "var").exists()


def test_settings_are_those_of_the_place(place: Place, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A pyproject.toml is searched where the command was typed, not in the spool directory."""
    del place.env["UNSPOOL_DURABILITY"]
    (place.root / "pyproject.toml").write_text("[tool.unspool]\nhistory_limit = 0\n")
    spooler = ("--spooler", str(tmp_path_factory.mktemp("elsewhere")))
    place("enqueue", "app:work", '"here"', *spooler)
    with place.going(SCRIPT, "uwsgi", "app", *spooler):
        place.wait("here")
    (place.root / "pyproject.toml").unlink()
    assert place("history", *spooler) == ""


def test_no_program(place: Place, tmp_path: Path) -> None:
    """Without uWSGI, the status is 2, with advice what to install: if there is none, if --binary names none, and if it
    names another program.
    """
    spooler = ("--spooler", "./mail")
    assert "pip install pyuwsgi" in place.error(2, "app", "--binary", "no-such-program", *spooler)
    assert "is not uWSGI; pip install pyuwsgi" in place.error(2, "app", "--binary", "/bin/ls", *spooler)
    alone = tmp_path / "bin"
    alone.mkdir()
    (alone / "python").symlink_to(os.path.realpath(sys.executable))
    done = subprocess.run(
        [alone / "python", "-m", "unspool", "uwsgi", "app", *spooler],
        cwd=tmp_path, env={"PATH": str(alone), "PYTHONPATH": os.pathsep.join(sys.path)}, capture_output=True, text=True,
        timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "there is no uWSGI on this machine; pip install pyuwsgi" in done.stderr


def test_no_app(place: Place) -> None:
    """An application that is missing or cannot be imported is status 2. uWSGI itself would continue without it."""
    spooler = ("--spooler", "./mail")
    assert "Missing argument 'APP'" in place.error(2)
    assert "there is no file" in place.error(2, "nowhere.py", *spooler)
    assert "No module named 'nowhere'" in place.error(2, "nowhere", *spooler)
    assert "has no attribute 'nobody'" in place.error(2, "app:nobody", *spooler)
    (place.root / "broken.py").write_text("def broken(:\n")
    assert "broken.py:1: SyntaxError" in place.error(2, "broken.py", *spooler)
    (place.root / "queue.py").write_text("")
    assert "give the file another name" in place.error(2, "queue.py", *spooler)
    assert "give the file another name" in place.error(2, "my-app.py", *spooler)


def test_options_that_cannot_be(place: Place) -> None:
    """No spooler, invalid numbers, and an option that this uWSGI lacks are status 2."""
    assert "no spooler is configured" in place.error(2, "app")
    for option in ("--processes", "--harakiri", "--max-tasks", "--frequency"):
        assert option in place.error(2, "app", option, "0")
    assert "--chdir" in place.error(2, "app", "--spooler", "./mail", "--chdir", "nowhere")
    assert "'$('" in place.error(2, "app", "--spooler", "./$(HOME)", "--print")
    if "--spooler-cheap" not in subprocess.run([PROGRAM, "--help"], capture_output=True, text=True, check=True).stdout:
        assert "has no option spooler-cheap" in place.error(2, "app", "--spooler", "./mail", "--cheap")


def test_spoolers_that_cannot_be(place: Place) -> None:
    """A file, and a directory that everyone can write to, are status 3, before uWSGI starts."""
    (place.root / "file").write_text("")
    open_to_all = place.root / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o707)
    assert "name a directory" in place.error(3, "app", "--spooler", "./file")
    assert "may be written by everybody" in place.error(3, "app", "--spooler", "./open")


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be somebody else then")
def test_a_directory_of_roots(capfd: pytest.CaptureFixture[str]) -> None:
    """A directory that this user cannot write to is status 3, because uWSGI would restart its spoolers again
    and again.
    """
    with tempfile.TemporaryDirectory() as made:
        os.chmod(made, 0o755)
        child = os.fork()
        if child == 0:
            status = 99
            with contextlib.suppress(BaseException):
                os.chdir("/")
                os.setgroups([])
                os.setuid(65534)
                status = main(["uwsgi", "app", "--spooler", made])
            os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
    assert "this user may not write there" in capfd.readouterr().err


DOCTOR = """
import contextlib, io, os, uwsgi
from unspool.cli import main
with contextlib.redirect_stdout(io.StringIO()) as printed:
    status = main(["doctor", "--json", "--spooler", "./mail"])
with open("part", "w") as file:
    file.write(str(status) + printed.getvalue())
os.rename("part", "done")
if not uwsgi.masterpid():
    os._exit(0)
uwsgi.mule_get_msg()
"""


def told_inside(place: Path) -> tuple[int, str, str]:
    """Return the status of doctor, and level and text of its findings about uWSGI."""
    found = (place / "done").read_text()
    [uwsgi] = [check for check in json.loads(found[1:])["checks"] if check["subject"] == "uwsgi"]
    return int(found[0]), uwsgi["level"], uwsgi["text"]


def test_the_doctor_inside(tmp_path: Path, run_uwsgi: Run) -> None:
    """Inside uWSGI, it says that its spoolers can run, and which they are, or that there is none."""
    (tmp_path / "look.py").write_text(DOCTOR)
    run_uwsgi("--spooler=mail", f"--mule={tmp_path / 'look.py'}")
    status, level, text = told_inside(tmp_path)
    assert (status, level) == (1, "ok")
    # uWSGI makes the directory readable by others, which is a warning
    assert text.endswith(f", with a master process; its spoolers: {tmp_path}/mail")
    run_uwsgi(f"--mule={tmp_path / 'look.py'}", f"--socket={tmp_path / 'socket'}")
    status, level, text = told_inside(tmp_path)
    assert (status, level) == (1, "warn")
    assert text.endswith(", which has no spooler")


def test_the_doctor_without_a_master(place: Place) -> None:
    """Without a master process, there is no spooler inside uWSGI, and doctor says so."""
    (place.root / "look.py").write_text(DOCTOR)
    command = [str(PROGRAM), "--socket=socket", "--import=look"]
    env = place.env | {"PYTHONPATH": str(place.root)}
    subprocess.run(command, cwd=place.root, env=env, capture_output=True, timeout=PATIENCE, check=True)
    assert told_inside(place.root)[1] == "warn"


def test_the_doctor_outside(place: Place) -> None:
    """Outside, it says which uWSGI ``unspool uwsgi`` would start, and its features."""
    report = json.loads(place("doctor", "--json", "--spooler", "./mail"))
    [uwsgi] = [check for check in report["checks"] if check["subject"] == "uwsgi"]
    version = subprocess.run([PROGRAM, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    python = ".".join(map(str, sys.version_info[:3]))
    assert uwsgi["level"] == "ok"
    assert uwsgi["text"].startswith(f"{version} at {Path(sys.executable).parent}/")
    assert uwsgi["text"].endswith(f", with its spooler and Python {python}")
