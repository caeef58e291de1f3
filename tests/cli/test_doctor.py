"""``doctor``: what is right is ok, each problem is found, and the status shows its kind."""

import os
from pathlib import Path

import pytest

from .conftest import Shell


def levels(shell: Shell, *words: str, status: int = 0, **env: str) -> dict[str, tuple[str, str]]:
    """Return level and text by subject, from --json."""
    import json

    found = json.loads(shell("doctor", "--json", *words, status=status, **env))
    assert found["ok"] is (status == 0)
    assert all(set(one) == {"subject", "level", "text", "advice", "traceback"} for one in found["checks"])
    return {one["subject"]: (one["level"], one["text"]) for one in found["checks"]}


def test_all_is_well(shell: Shell) -> None:
    """With a used spooler and an importable application, nothing fails, and each setting has its source."""
    shell.send("app:add", "1", "--in", "1h")
    (shell.root / "pyproject.toml").write_text("[tool.unspool]\nhistory_limit = 7\n")

    found = levels(shell, "app")

    assert found["python"][0] == "ok"
    assert found["spoolers"] == ("ok", f"{shell.mail} (from UNSPOOL_SPOOLERS)")
    assert found["history_limit"] == ("ok", f"7 runs (from {shell.root}/pyproject.toml)")
    assert found["period"] == ("ok", "300 s (default)")
    assert "app:add" in found["app"][1]
    assert "cleanup" in found["app"][1]
    assert found[str(shell.mail)][0] == "ok"
    assert found[f"{shell.mail} tasks"] == ("ok", "0 ready, 1 deferred, 0 running, 0 dead, 0 corrupt; 0 workers")
    assert "uwsgi" in found


def test_lines_say_what_to_do(shell: Shell) -> None:
    """In text form, each finding is a line, followed by the advice."""
    shell.send("app:fail")
    shell.burst()
    shell.send("app:add", "1")

    text = shell("doctor", status=1)

    assert "ok   python: 3." in text
    assert "     -> unspool run APP\n" in text
    assert "set aside: 1 dead, 0 corrupt\n     -> unspool ls --state dead" in text
    assert "warn" in shell.on_terminal("doctor", status=1)


def test_a_relative_path_in_the_environment(shell: Shell) -> None:
    """A relative path depends on where each program is started, so it may mean several directories."""
    level, text = levels(shell, status=1, UNSPOOL_SPOOLERS="mail")["spoolers"]
    assert (level, text.partition(" (")[0]) == ("warn", str(shell.mail))


def test_a_spooler_that_is_not_there_yet(shell: Shell) -> None:
    """A missing directory is fine if it can be created. The check does not create it."""
    assert levels(shell)[str(shell.mail)][0] == "ok"
    assert not shell.mail.exists()


@pytest.mark.parametrize(
    ("mode", "level", "status"), [(0o700, "ok", 0), (0o755, "warn", 1), (0o770, "warn", 1), (0o707, "fail", 3)]
)
def test_modes(shell: Shell, mode: int, level: str, status: int) -> None:
    """Everyone who can write to a spooler can run code as its workers: write access for all fails, for a group it
    warns.
    """
    shell.mail.mkdir()
    shell.mail.chmod(mode)

    assert levels(shell, status=status)[str(shell.mail)][0] == level


def test_a_place_that_others_may_change(shell: Shell) -> None:
    """Everyone who can write to a parent directory can replace the spooler, except in a sticky directory such
    as /tmp.
    """
    shell.mail.mkdir(mode=0o700)
    place = f"{shell.mail} place"
    assert place not in levels(shell)
    shell.root.chmod(0o1777)
    assert place not in levels(shell)
    shell.root.chmod(0o777)
    assert levels(shell, status=1)[place] == (
        "warn",
        f"everybody may write to {shell.root}, and so put another directory in its place",
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="giving files away needs root")
@pytest.mark.root
def test_somebody_elses_spooler(shell: Shell) -> None:
    """Root may check the directory. Its workers would not start, and the command says why."""
    shell.mail.mkdir(mode=0o700)
    os.chown(shell.mail, 12345, 12345)
    level, text = levels(shell, status=1)[str(shell.mail)]
    assert level == "warn"
    assert "will not run it without a secret key" in text
    assert "belongs to user 12345" in shell.error("run", "app", "--burst", status=3)


def test_a_spooler_that_is_a_file(shell: Shell) -> None:
    """A file in place of the directory fails, with status 3."""
    shell.mail.write_text("")

    assert levels(shell, status=3)[str(shell.mail)][0] == "fail"


def test_leftovers_are_counted(shell: Shell) -> None:
    """Drafts of dead processes are a warning. New ones may belong to a live process."""
    shell.send("app:add", "1", "--in", "1h")
    (shell.mail / ".unspool/tmp/uwsgi_spoolfile_on_fresh").write_text("")

    assert f"{shell.mail}/.unspool/tmp" not in levels(shell)


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        ("def broken(:\n", "app.py:1: SyntaxError"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n", "SIGSEGV"),
        ("import os\nos._exit(9)\n", "status 9"),
        ("raise KeyboardInterrupt\n", "SIGINT"),
    ],
)
def test_an_app_that_does_not_import(shell: Shell, source: str, wanted: str) -> None:
    """An application that does anything on import cannot harm the command; the status is 2."""
    (shell.root / "app.py").write_text(f"print('noise')\n{source}".replace("print('noise')\ndef", "def"))

    level, text = levels(shell, "app", status=2)["app"]

    assert level == "fail"
    assert wanted in text


def test_an_app_without_tasks(shell: Shell) -> None:
    """An application without tasks is a warning. Its own output is not taken for the result."""
    (shell.root / "app.py").write_text('print(\'{"error": "noise"}\')\n')

    assert levels(shell, "app", status=1)["app"] == ("warn", "app can be imported, and has no task")


def test_bad_settings(shell: Shell) -> None:
    """An invalid setting, or no spooler at all, is status 2, and the message says what to set."""
    assert levels(shell, status=2, UNSPOOL_DURABILITY="maybe")["configuration"][0] == "fail"
    assert levels(shell, status=2, UNSPOOL_SPOOLERS="")["spoolers"][0] == "fail"
    assert "UNSPOOL_SPOOLERS=" in shell("doctor", status=2, UNSPOOL_SPOOLERS="")
    assert levels(shell, "--spooler", "./here", UNSPOOL_SPOOLERS="")[str(shell.root / "here")][0] == "ok"


@pytest.mark.skipif(not Path("/dev/shm").is_dir() or not os.access("/dev/shm", os.W_OK), reason="needs a tmpfs")
def test_memory_is_no_disk(shell: Shell, tmp_path: Path) -> None:
    """A spooler on tmpfs does not survive a reboot, which is a warning."""
    place = Path("/dev/shm") / f"unspool-{tmp_path.name}-{os.getpid()}"
    place.mkdir(mode=0o700)
    try:
        level, text = levels(shell, "--spooler", str(place), status=1)[f"{place} disk"]
    finally:
        place.rmdir()
    assert (level, "reboot" in text) == ("warn", True)


def test_variables_that_unspool_does_not_know(shell: Shell) -> None:
    """A misspelt variable of a setting or option is a warning that names the correct one."""
    known = {"UNSPOOL_DURABILITY": "relaxed", "UNSPOOL_RUN_PROCESSES": "2", "UNSPOOL_MAX_TASK_SIZE": "5"}
    found = levels(shell, status=1, UNSPOOL_DURABILTY="full", UNSPOOL_RUN_PROCESES="2", **known)
    assert found["UNSPOOL_DURABILTY"] == ("warn", "is not a variable that unspool knows")
    assert found["UNSPOOL_RUN_PROCESES"][0] == "warn"
    assert not found.keys() & known.keys()
    text = shell("doctor", status=1, UNSPOOL_DURABILTY="full", UNSPOOL_ABC="1")
    assert "did you mean UNSPOOL_DURABILITY?" in text
    assert "warn UNSPOOL_ABC: is not a variable that unspool knows\n" in text


def test_no_spooler_because_of_a_misspelt_variable(shell: Shell) -> None:
    """Commands and programs say which variable is set."""
    said = shell.error("ls", status=2, UNSPOOL_SPOOLERS="", UNSPOOL_SPOOLER="mail")
    assert "UNSPOOL_SPOOLER is set; did you mean UNSPOOL_SPOOLERS?" in said


def test_a_server_that_cannot_be_asked(shell: Shell) -> None:
    """There is a line if the driver is missing or the server cannot be reached; the status is 3."""
    url = "postgresql://127.0.0.1:1/app?spooler=mail"
    hide = shell.root / "hide"
    hide.mkdir()
    (hide / "sitecustomize.py").write_text(
        "import importlib.util as util\n"
        "find = util.find_spec\n"
        "util.find_spec = lambda name, *rest: None if name == 'psycopg' else find(name, *rest)\n"
    )
    text = shell("doctor", status=3, UNSPOOL_SPOOLERS=url, PYTHONPATH=str(hide))
    name = "postgresql://127.0.0.1:1/app/mail"
    assert f"fail {name}: spooler {name} needs the package psycopg: pip install" in text
    url, name = "nats://127.0.0.1:1?spooler=mail", "nats://127.0.0.1:1/mail"
    assert f"fail {name}: " in shell("doctor", status=3, UNSPOOL_SPOOLERS=url)
