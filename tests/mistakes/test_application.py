"""Mistakes in APP, and what an application may do when it is imported."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from ..cli.conftest import Shell

VALID = "APP is a module, module:attr or path/to/file.py"


def write(shell: Shell, name: str, source: str) -> Path:
    """Write a file beside the application."""
    path = shell.root / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(textwrap.dedent(source))
    return path


def refusal(shell: Shell, app: str, *words: str) -> str:
    """Return why ``unspool run`` does not start."""
    text = shell.error("run", app, "--burst", *words, status=2)
    assert text.startswith(f"app {app!r} cannot be imported: ")
    return text.partition(" cannot be imported: ")[2]


def test_no_application(shell: Shell) -> None:
    """The missing argument is named."""
    assert shell.error("run", status=2).startswith("Missing argument 'APP'.")


def test_a_name_that_is_no_module(shell: Shell) -> None:
    """The error says where the module was searched for, and what APP may be."""
    missing = f"in {shell.root} or the installed packages; {VALID}"
    assert refusal(shell, "nosuch") == f"ModuleNotFoundError: No module named 'nosuch' {missing}"
    text = "ModuleNotFoundError: No module named 'app.tasks'; 'app' is not a package"
    assert refusal(shell, "app.tasks") == f"{text} {missing}"


def test_a_path_that_is_no_python_file(shell: Shell) -> None:
    """A missing file, a module written as a path, and a directory."""
    assert refusal(shell, "nosuch.py") == f"FileNotFoundError: there is no file {shell.root}/nosuch.py; {VALID}"
    assert refusal(shell, "./app") == f"ImportError: './app' is not a module (did you mean ./app.py?); {VALID}"
    assert refusal(shell, "/tmp") == f"ImportError: '/tmp' is a directory; {VALID}"
    assert refusal(shell, "good/f") == (
        f"ImportError: 'good/f' is neither a module nor a file that ends in .py; {VALID}"
    )


def test_an_attribute_that_is_not_there(shell: Shell) -> None:
    """The module and the attribute are named."""
    assert refusal(shell, "app:nosuch") == "AttributeError: module 'app' has no attribute 'nosuch'"


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("def f(:\n", "bad.py:1: SyntaxError: invalid syntax"),
        ("import os\nimport no_such_package\n", "bad.py:2: ModuleNotFoundError: No module named 'no_such_package'"),
        ("from app import no_such_task\n", "bad.py:1: ImportError: cannot import name 'no_such_task' from 'app'"),
    ],
)
def test_an_error_in_the_application(shell: Shell, source: str, error: str) -> None:
    """One line has the file, the line, the type and the text."""
    path = write(shell, "bad.py", source)
    assert f"{path.parent}/{error}" in refusal(shell, "bad")


def test_an_error_below_a_library(shell: Shell) -> None:
    """The line is the last one of the user, not one of the library. The whole traceback is printed on request, also by
    the other commands that import an application, and by the variables of their options.
    """
    path = write(shell, "bad.py", "import json\n\njson.loads('{')\n")
    line = f"{path}:3: JSONDecodeError: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"
    assert refusal(shell, "bad") == f"{line} (--traceback shows more)"
    for words, env in (
        (["run", "bad", "--traceback"], {}),
        (["run", "bad"], {"UNSPOOL_RUN_TRACEBACK": "1"}),
        (["enqueue", "--app", "bad", "bad:f", "--traceback"], {}),
        (["uwsgi", "bad", "--traceback"], {}),
    ):
        *traceback, error = shell.result(*words, **env).stderr.splitlines()
        assert error == f"unspool: error: app 'bad' cannot be imported: {line}", words
        assert traceback[0].endswith("Traceback (most recent call last):"), words
        assert traceback[1] == f'  File "{path}", line 3, in <module>', words
        assert any("json/decoder.py" in one for one in traceback), words
        assert not any("unspool" in one or "importlib" in one for one in traceback), words
    text = shell("doctor", "bad", status=2)
    assert "fail app: app 'bad' cannot be imported" in text
    assert "-> correct it there; --traceback shows more" in text
    assert "json/decoder.py" not in text
    assert "json/decoder.py" in shell.result("doctor", "bad", "--traceback").stderr
    [app] = [one for one in shell.result("doctor", "bad", "--json").stdout.splitlines() if '"app"' in one]
    assert "json/decoder.py" in app


def test_a_reload_that_fails(shell: Shell) -> None:
    """The old workers continue. With the option, the log line is followed by the traceback."""
    running = shell.start("app", "--traceback")
    running.wait_for("started")
    shell.send("app:add", "1")
    running.wait_for("app:add")
    path = write(shell, "app.py", "import json\n\njson.loads('{')\n")
    running.process.send_signal(1)
    running.wait_for(f"{path}:3: JSONDecodeError")
    running.wait_for("json/decoder.py")


def test_an_application_that_parses_arguments(shell: Shell) -> None:
    """Code that parses the command line on import gets that of unspool, and ends the process."""
    path = write(shell, "bad.py", "import argparse\nparser = argparse.ArgumentParser()\nparser.parse_args()\n")
    done = shell.result("run", "bad", "--burst")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        f"unspool: error: app 'bad' cannot be imported: {path}:3: SystemExit: 2: it calls sys.exit(), as argparse "
        "does; call it under if __name__ == '__main__': (--traceback shows more)"
    )


def test_an_application_without_tasks(shell: Shell) -> None:
    """It is probably the wrong module, which a warning says."""
    write(shell, "empty.py", "")
    assert "app empty defines no task: is it the right module" in shell.result("run", "empty", "--burst").stderr


def test_an_application_that_sends_when_it_is_imported(shell: Shell) -> None:
    """A warning for each start of a worker names the line and the guard. ``doctor`` finds it, and sends nothing."""
    path = write(
        shell,
        "sends.py",
        """
        import logging.config
        from unspool import Spooler

        @Spooler.task
        def f(n):
            return True

        logging.config.dictConfig({"version": 1})  # which disables loggers
        f(1)
        f(2)
        """,
    )
    found = f"sends a task when it is imported, at {path}:10, and so at each start of a worker"
    guard = "send it under if __name__ == '__main__':"
    text = shell("doctor", "sends", status=1)
    assert f"warn app sends: sends {found}\n     -> {guard}\n" in text
    assert not shell.mail.exists()
    warnings = [line for line in shell.result("run", "sends", "--burst").stderr.splitlines() if "WARNING" in line]
    assert len(warnings) == 1
    assert warnings[0].endswith(f"app sends {found}; {guard}")
    assert len(shell("history").splitlines()) == 2


def test_a_spooler_that_is_not_configured(shell: Shell) -> None:
    """If the usual idiom finds no spooler, a warning names the configured ones before Python's error."""
    path = write(
        shell,
        "typo.py",
        """
        from unspool import Spooler

        @Spooler.get_by_basename("typo").task
        def f(): ...
        """,
    )
    *_, warning, error = shell.result("run", "typo", "--burst").stderr.splitlines()
    assert warning.endswith("no spooler is named 'typo' (configured: mail); get_by_basename returns None")
    assert f"{path}:4: AttributeError: 'NoneType' object has no attribute 'task'" in error


def test_classes_of_a_script(shell: Shell) -> None:
    """A worker can rebuild what a script sends, also objects of its own classes."""
    write(
        shell,
        "script.py",
        """
        import dataclasses
        from unspool import Spooler

        @dataclasses.dataclass
        class Order:
            number: int

        @Spooler.task
        def ship(order):
            return order == Order(7)

        if __name__ == "__main__":
            ship(Order(7))
        """,
    )
    subprocess.run([sys.executable, "script.py"], cwd=shell.root, env=shell.env, check=True)
    shell("run", "script.py", "--burst")
    assert shell("history").split("\t")[1:3] == ["processed", "script:ship"]


def test_a_function_that_was_renamed(shell: Shell) -> None:
    """The reason says so, and names the functions of the worker."""
    shell.send("old:add", "1")
    [line] = [line for line in shell.burst() if "old:add" in line]
    assert line.endswith(
        "no task function 'old:add' in this program; it has app:add; was it renamed, or is its module not imported?"
    )
