"""The documentation is correct: its examples run, its links lead somewhere, and what it names exists."""

import doctest
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from tests.cli.conftest import all_commands
from unspool.options import TaskKeywords, TaskOptions
from unspool.retry import RetryPolicy
from unspool.settings import Settings

from .page import MARK, ROOT, Page, pages

PAGES = {page.name: page for page in pages()}
EXECUTED = [name for name, page in PAGES.items() if page.script()[1]]
GUIDE = PAGES["docs/guide/operating.md"]
COMMANDS = all_commands()
OPTIONS = {name: {option for param in command.params for option in (*param.opts, *param.secondary_opts)}
           for name, command in COMMANDS.items()}  # fmt: skip
_command = re.compile(r"(?:^|[\s\"'/`])unspool ((?:[a-z]|--?[a-z])[a-z-]*)(.*)")
_variable = re.compile(r"\bUNSPOOL_[A-Z][A-Z_]*[A-Z]\b")
_test = re.compile(r"\btest_[a-z0-9_]+\b(?!\.py)")


def execute(page: Page, place: Path) -> list[str]:
    """Run the examples of a page in order in a new directory, and return the output of each. Log lines are ignored."""
    script, expected = page.script()
    temporary = place / "temporary"  # or an example's pytest would clean up the directories of others
    temporary.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("UNSPOOL_")}
    environment |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(place)}
    environment["TMPDIR"] = str(temporary)
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=place,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    printed = re.split(f"^{MARK} [0-9]+\n", done.stdout, flags=re.MULTILINE)[1:]
    assert len(printed) == len(expected)
    return printed


@pytest.mark.parametrize("name", EXECUTED)
def test_examples(name: str, tmp_path: Path) -> None:
    """The examples of the page run in order, and print what the page shows."""
    checker = doctest.OutputChecker()
    for output, expected in zip(execute(PAGES[name], tmp_path), PAGES[name].script()[1], strict=True):
        if expected is not None:
            same = checker.check_output(expected, output, doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
            assert same, f"said to print:\n{expected}\nprinted:\n{output}"


def test_first_program(tmp_path: Path) -> None:
    """The first program of the README sends a task that its worker runs, and leaves only a line of history."""
    [output] = execute(PAGES["README.md"], tmp_path)
    assert output.count("Good morning, world!") == 1
    assert not list(tmp_path.glob("mail/uwsgi_spoolfile_on_*"))
    command = [sys.executable, "-m", "unspool", "history", "--spooler", str(tmp_path / "mail")]
    history = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert [line.split("\t")[1:3] for line in history] == [["processed", "first:greet"]]


def test_first_program_is_the_example() -> None:
    """The README shows ``examples/first.py`` itself."""
    [shown] = [block.text for block in PAGES["README.md"].blocks if block.info == ["python", "file=first.py"]]
    assert shown == (ROOT / "examples" / "first.py").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", PAGES)
def test_links(name: str) -> None:
    """Each link to a file of the repository leads to an existing file, and each anchor to a heading."""
    page = PAGES[name]
    for link in page.links():
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        path = (page.path.parent / target).resolve() if target else page.path
        assert path.exists(), f"{name} links to {link}"
        assert path.is_relative_to(ROOT), f"{name} links to {link}, outside the repository"
        if anchor:
            assert anchor in PAGES[str(path.relative_to(ROOT))].anchors(), f"{name} links to {link}"


def test_every_page_is_reachable() -> None:
    """All pages can be reached from the README by links."""
    found, todo = set[Path](), [ROOT / "README.md"]
    while todo:
        path = todo.pop()
        if path in found or not path.is_relative_to(ROOT) or path.suffix != ".md":
            continue
        found.add(path)
        links = (link.partition("#")[0] for link in PAGES[str(path.relative_to(ROOT))].links() if ":" not in link)
        todo += [(path.parent / link).resolve() for link in links if link]
    assert found >= {page.path for page in PAGES.values() if page.path.parent != ROOT / "examples"}


@pytest.mark.parametrize("name", PAGES)
def test_commands(name: str) -> None:
    """Each command of ``unspool``, and each option after it, exists."""
    for line in re.split(r"[|;&()\n]", "\n".join(PAGES[name].code())):
        for command, rest in _command.findall(line):
            if command.startswith("-"):
                assert command in ("--help", "-h", "--version"), f"{name}: {line}"
                continue
            assert command in OPTIONS, f"{name}: {line}"
            given = set(re.findall(r"(?<=\s)--?[a-z][a-z-]*", rest))
            assert given <= OPTIONS[command] | {"--help", "-h"}, f"{name}: {line}"


@pytest.mark.parametrize("name", [name for name in PAGES if name.startswith(("README", "docs/guide"))])
def test_options(name: str) -> None:
    """Each option that stands alone in the guide belongs to some command."""
    known = set[str]().union(*OPTIONS.values(), {"--help", "--version", "--init"})  # --init is Docker's
    for span in PAGES[name].spans():
        if span.startswith("--"):
            assert span.split()[0] in known, f"{name}: {span}"


def test_every_command_is_told_of() -> None:
    """The README names each command, and the guide each command with all its options."""
    for name, options in OPTIONS.items():
        assert any(span.startswith(f"unspool {name}") for span in PAGES["README.md"].spans()), name
        rows = [row for row in GUIDE.rows() if row[0].startswith(f"`unspool {name}")]
        assert len(rows) == 1, name
        told = set(re.findall(r"--[a-z][a-z-]*", rows[0][1]))
        if name == "run":
            told = {option for row in GUIDE.rows() for option in re.findall(r"^`(--[a-z-]+)|, `(--[a-z-]+)", row[0])
                    for option in option if option}  # fmt: skip
        assert told - {"--spooler"} == options - {"--spooler"} - {param.name for param in COMMANDS[name].params}, name


@pytest.mark.parametrize("name", PAGES)
def test_variables(name: str) -> None:
    """Each environment variable that a page names exists."""
    known = {f"UNSPOOL_{name.upper()}" for name in Settings._fields}
    for command_name, command in COMMANDS.items():
        context = click.Context(command, info_name=command_name, auto_envvar_prefix=f"UNSPOOL_{command_name.upper()}")
        for param in command.params:
            explicit = param.envvar if isinstance(param.envvar, str) else None
            automatic = f"{context.auto_envvar_prefix}_{(param.name or '').upper()}".replace("-", "_")
            known.add(explicit or automatic)
    named = set(_variable.findall(PAGES[name].path.read_text(encoding="utf-8")))
    assert named <= known


def test_settings() -> None:
    """The table of the guide has each setting with its variable and default."""
    rows = {row[0]: row[1:3] for row in GUIDE.rows() if len(row) == 4 and "UNSPOOL_" in row[1]}
    expected = {}
    for name, default in Settings._field_defaults.items():
        shown = "none" if default in ((), "") else f"`{default:g}`" if isinstance(default, float) else f"`{default}`"
        expected[f"`{name}`"] = [f"`UNSPOOL_{name.upper()}`", shown]
    assert rows == expected


def test_task_options() -> None:
    """The table of the guide has each option of a task with its default."""
    rows = {row[0].strip("`"): row[1].strip("`") for row in PAGES["docs/guide/tasks.md"].rows() if len(row) == 3}
    options, retry = TaskOptions(), RetryPolicy()
    for name in TaskKeywords.__annotations__:
        default = getattr(options if hasattr(options, name) else retry, name.removeprefix("retry_"), None)
        assert rows.get(name) == repr(default), name


@pytest.mark.parametrize("name", PAGES)
def test_tests(name: str) -> None:
    """Each test that a page names as a proof exists."""
    known = {
        found
        for path in [*ROOT.glob("tests/**/*.py"), *ROOT.glob("src/unspool/testing/**/*.py")]
        for found in re.findall(r"def (test_[a-z0-9_]+)", path.read_text(encoding="utf-8"))
    }
    named = {found for span in PAGES[name].spans() for found in _test.findall(span)}
    assert named <= known


def test_sources() -> None:
    """Each module that the architecture names exists."""
    for span in PAGES["docs/architecture.md"].spans():
        if span.endswith(".py"):
            assert list((ROOT / "src" / "unspool").glob(f"**/{span}")), span
        elif re.fullmatch(r"unspool(\.[a-z]+)+", span):
            assert importlib.util.find_spec(span), span
