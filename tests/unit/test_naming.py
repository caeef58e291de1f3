"""The names of functions and classes, as another process imports them."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from unspool.errors import FunctionRefused
from unspool.naming import full_name, name_of_file, original, wire_name

APP = """
import dataclasses, enum
from unspool import Spooler

class Size(enum.Enum):
    L = 2

@dataclasses.dataclass
class Order:
    id: int

def key(order):
    return order.id

@Spooler.task
def ship(*what):
    print("shipped", *what)
    return True

if __name__ == "__main__":
    ship(Order(7), Size.L, key.__name__)
    print(ship.name)
"""


def run(place: Path, *words: str, stdin: str = "", check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run another interpreter."""
    env = {**os.environ, "UNSPOOL_SPOOLERS": str(place / "mail"), "UNSPOOL_DURABILITY": "relaxed"}
    ended = subprocess.run(
        [sys.executable, *words],
        cwd=place,
        env=env,
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert not check or ended.returncode == 0, ended.stderr
    return ended


@pytest.mark.parametrize(
    "how",
    [
        ["app.py"],
        ["-m", "app"],
        ["-m", "cProfile", "-o", os.devnull, "app.py"],
        ["-m", "trace", "--trackcalls", "app.py"],
        ["-c", "import runpy; runpy.run_path('app.py', run_name='__main__')"],
    ],
    ids=lambda how: " ".join(how[:2]),
)
def test_a_scripts_functions_are_named_by_its_file(tmp_path: Path, how: list[str]) -> None:
    """This holds for all ways to run it, also under a profiler, which is itself ``__main__``."""
    (tmp_path / "app.py").write_text(APP.replace("Order(7), Size.L", "7"))
    assert "app:ship" in run(tmp_path, *how).stdout


@pytest.mark.parametrize("how", [["app.py"], ["-m", "app"]])
def test_a_scripts_classes_can_be_arguments(tmp_path: Path, how: list[str]) -> None:
    """A worker that imports the script as a module finds them there. No other process needs them."""
    (tmp_path / "app.py").write_text(APP)
    run(tmp_path, *how)
    worker = (
        "from unspool.testing import run_all; from unspool import registry; import app; run_all(registry.backend())"
    )
    assert "shipped Order(id=7) Size.L key" in run(tmp_path, "-c", worker).stdout


def test_a_file_of_a_package_has_the_packages_name(tmp_path: Path) -> None:
    """The name is the same if it is run, or if a worker gets its path."""
    inner = tmp_path / "shop" / "mail"
    inner.mkdir(parents=True)
    for folder in (tmp_path / "shop", inner):
        (folder / "__init__.py").touch()
    (inner / "tasks.py").write_text(APP.replace("Order(7), Size.L", "7"))
    assert name_of_file(str(inner / "tasks.py")) == "shop.mail.tasks"
    assert "shop.mail.tasks:ship" in run(tmp_path, "shop/mail/tasks.py").stdout
    load = "from unspool.runtime.app import load_app; print(load_app('shop/mail/tasks.py').__name__)"
    assert run(tmp_path, "-c", load).stdout == "shop.mail.tasks\n"


@pytest.mark.parametrize("how", [["-c", APP], ["-"], ["folder"]], ids=["-c", "stdin", "directory"])
def test_a_function_that_no_worker_can_import_is_refused(tmp_path: Path, how: list[str]) -> None:
    """It is refused at decoration, with advice."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "__main__.py").write_text(APP)
    ended = run(tmp_path, *how, stdin=APP, check=False)
    assert ended.returncode == 1
    assert "FunctionRefused: ship is defined in " in ended.stderr
    assert "define it at the top of a module that a worker can import" in ended.stderr


def test_a_function_of_exec_is_refused() -> None:
    """Its module would be ``builtins``."""
    namespace: dict[str, Any] = {}
    exec("def f(): ...", namespace)  # noqa: S102  this is what is tested
    with pytest.raises(FunctionRefused, match=r"f is defined by exec\(\)"):
        full_name(namespace["f"])


def generate() -> Any:
    """A generator, whose call runs nothing."""
    yield 1


async def agenerate() -> Any:
    """An asynchronous generator."""
    yield 1


class Mailer:
    """A class whose method is decorated."""

    def send(self, to: str) -> None:
        """A method, which needs an instance."""

    @classmethod
    def all(cls) -> None:
        """A class method, which needs the class."""


@pytest.mark.parametrize("function", [generate, agenerate])
def test_a_generator_function_is_refused(function: Any) -> None:
    """Its call would do nothing and count as processed."""
    with pytest.raises(FunctionRefused, match=r"generate is a generator function.*return a list"):
        wire_name(function)


@pytest.mark.parametrize("function", [Mailer.send, Mailer.__dict__["all"].__func__])
def test_a_method_is_refused(function: Any) -> None:
    """A worker has no instance."""
    with pytest.raises(FunctionRefused, match=r"Mailer\.\w+ is a method"):
        wire_name(function)


def test_original_ends_where_wrappers_form_a_loop() -> None:
    """A function that claims to wrap itself is its own original."""

    def f() -> None: ...

    f.__wrapped__ = f  # type: ignore[attr-defined]
    assert original(f) is f
