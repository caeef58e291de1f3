"""The view of a type checker: a decorated function keeps its parameters, and its local call its result."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

GOOD = Path(__file__).parents[1] / "typing" / "keeps_types.py"
ROOT = GOOD.parents[2]
WRONG = """\
import unspool
from unspool import Spooler

mail = Spooler("/srv/mail")

@Spooler.task
def bare(a: int, b: str = "x") -> bool:
    return True

@Spooler.task(priority=3)
def called(a: int) -> bool:
    return True

@mail.task
def of_an_instance(a: int) -> bool:
    return True

bare()  # error: call-arg
bare("one")  # error: arg-type
bare(1, c=2)  # error: call-arg
bare.enqueue(1, 2)  # error: arg-type
bare.call_local("one")  # error: arg-type
bare.using(priority=1)("one")  # error: arg-type
bare.message("one")  # error: arg-type
called("one")  # error: arg-type
called(1, 2)  # error: call-arg
of_an_instance("one")  # error: arg-type
count: int = bare(1)  # error: assignment
text: str = bare.call_local(1)  # error: assignment
Spooler.task(priority="high")  # error: call-overload
Spooler.task(retries=3)  # error: call-overload
mail.task(timeout="5")  # error: call-overload
Spooler.send_message_raw("m", priority="high")  # error: arg-type
bare.using(prioritty=1)  # error: call-arg
unspool.configure(spolers=["mail"])  # error: call-arg
unspool.configure(durability="fast")  # error: arg-type
bare(1)
called.call_local(1)
"""


@pytest.fixture(scope="module")
def mypy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The file with wrong calls, and the output of mypy for it and for the other one, from one run with a cache."""
    wrong = tmp_path_factory.mktemp("typing") / "wrong_calls.py"
    wrong.write_text(WRONG)
    kept = getattr(request.config, "cache", None)  # pytest may be run without one
    cache = kept.mkdir("mypy") if kept else tmp_path_factory.mktemp("mypy")
    options = ["--strict", "--no-error-summary", "--no-color-output", "--hide-error-context", f"--cache-dir={cache}"]
    command = [sys.executable, "-m", "mypy", *options, str(GOOD), str(wrong)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=250)
    assert ended.stderr == ""
    return wrong, ended.stdout


def errors(path: Path, output: str) -> dict[int, str]:
    """Return the code of mypy's error for each line of a file."""
    found = re.findall(rf"(?m)^\S*{re.escape(path.name)}:(\d+): error: .*\[([a-z-]+)\]$", output)
    return {int(line): code for line, code in found}


def test_types_are_kept(mypy: tuple[Path, str]) -> None:
    """Every ``assert_type`` holds under ``--strict``: with and without parentheses, on class and instance."""
    _, output = mypy
    assert GOOD.name not in output, output


def test_wrong_calls_are_errors(mypy: tuple[Path, str]) -> None:
    """Each wrong call is an error of the expected kind, and the correct ones are none."""
    wrong, output = mypy
    expected = {
        number: line.partition("# error: ")[2]
        for number, line in enumerate(WRONG.splitlines(), 1)
        if "# error: " in line
    }
    assert errors(wrong, output) == expected, output
