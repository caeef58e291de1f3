"""The demo is correct: the figures of its tables are counted again here."""

import json
import re
import sys
import sysconfig
from pathlib import Path

import pytest

from .conftest import EXAMPLES, UNSPOOL, Run

_DEMO = EXAMPLES / "demo.py"
_STANDARD_LIBRARY = Path(sysconfig.get_path("stdlib"))
_SMALL = _STANDARD_LIBRARY / "asyncio"


def cells(output: str) -> list[list[str]]:
    """Return the rows of all tables."""
    rows = [line for line in output.splitlines() if line.startswith("│")]
    return [[cell.strip() for cell in row.strip("│").split("│")] for row in rows]


def figure(output: str, start: str) -> float:
    """Return the number in the row that starts with these words."""
    (found,) = (row[-1] for row in cells(output) if row[0].startswith(start))
    return float(found.replace(",", ""))


def modules(folder: Path) -> list[Path]:
    """Return the modules of a folder, without packages that are installed beside them."""
    return [path for path in folder.rglob("*.py") if not re.search("/(site|dist)-packages/", str(path))]


def test_it_runs_the_standard_library_and_proves_that_nothing_is_lost(run: Run) -> None:
    """There is one task for each module, and all are accounted for. The counts match the files."""
    done = run(sys.executable, _DEMO)

    assert done.returncode == 0, done.stderr
    found = modules(_STANDARD_LIBRARY)
    assert figure(done.stdout, "acknowledged") == len(found) + 2
    assert figure(done.stdout, "finished:") == len(found) + 1
    assert figure(done.stdout, "set aside") == 1
    for nothing in ("lost", "finished more than once", "ready", "deferred", "running"):
        assert figure(done.stdout, nothing) == 0
    lines = {path: len(path.read_bytes().splitlines()) for path in found}
    assert figure(done.stdout, "lines in") == sum(lines.values())
    largest = max(lines, key=lambda path: lines[path])
    assert [str(largest.relative_to(_STANDARD_LIBRARY)), f"{lines[largest]:,}"] in [
        row[:2] for row in cells(done.stdout)
    ]
    assert done.stdout.endswith("The proof holds.\n")


def test_it_shows_the_tasks_that_fail_and_leaves_nothing_behind(run: Run, env: dict[str, str]) -> None:
    """One task is rescheduled twice and then processed, and one ends dead. In a pipe, the output is plain text, and the
    temporary directory is empty at the end.
    """
    done = run(sys.executable, _DEMO, _SMALL)

    assert done.returncode == 0, done.stderr
    runs = [(row[0], row[1], row[2]) for row in cells(done.stdout) if row[0].startswith("demo_tasks:")]
    assert runs == [
        ("demo_tasks:recover", "1", "rescheduled"),
        ("demo_tasks:recover", "2", "rescheduled"),
        ("demo_tasks:recover", "3", "processed"),
        ("demo_tasks:give_up", "1", "rescheduled"),
        ("demo_tasks:give_up", "2", "rescheduled"),
        ("demo_tasks:give_up", "3", "dead"),
    ]
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", done.stdout)
    assert list(Path(env["TMPDIR"]).iterdir()) == []


def test_its_commands_show_what_it_says_they_show(run: Run, env: dict[str, str]) -> None:
    """With --keep, the directory that it names contains the dead task, and each printed command works there."""
    done = run(sys.executable, _DEMO, _SMALL, "--keep")

    assert done.returncode == 0, done.stderr
    (place,) = re.findall("export UNSPOOL_SPOOLERS=(.*)", done.stdout)
    env["UNSPOOL_SPOOLERS"] = place
    commands = re.findall("^unspool (.*)$", done.stdout, re.MULTILINE)
    assert [command.split()[0] for command in commands] == ["history", "history", "ls"]
    for command in commands:
        shown = run(UNSPOOL, *command.split())
        assert shown.returncode == 0
        assert "demo_tasks:" in shown.stdout
    (dead,) = json.loads(run(UNSPOOL, "ls", "--state", "dead", "--json").stdout)
    assert (dead["attempts"], dead["task"]) == (3, "demo_tasks:give_up")


def test_a_lost_task_fails_the_proof(run: Run) -> None:
    """If a line of the results is missing, the demo names the missing task and exits with 1."""
    program = (
        f"import sys; sys.path.insert(0, {str(EXAMPLES)!r}); sys.argv[1:] = [{str(_SMALL)!r}]; import demo\n"
        "everything = demo.read_results\n"
        "demo.read_results = lambda path: [one for one in everything(path) if not one['key'].endswith('locks.py')]\n"
        "sys.exit(demo.main())"
    )

    done = run(sys.executable, "-c", program)

    assert done.returncode == 1
    assert figure(done.stdout, "lost") == 1
    assert f"lost: {_SMALL / 'locks.py'}" in done.stdout
    assert done.stdout.endswith("THE PROOF DOES NOT HOLD.\n")


@pytest.mark.parametrize("options", [["/nowhere/at/all"], ["--no-such-option"]])
def test_it_refuses_what_it_cannot_do(run: Run, options: list[str]) -> None:
    """A folder without modules, or an unknown option, gives no traceback."""
    done = run(sys.executable, _DEMO, *options)

    assert done.returncode != 0
    assert "Traceback" not in done.stderr
