"""The public names of this package."""

import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import unspool
from unspool import errors
from unspool.errors import UnspoolError

SEED = [
    "ResultProcessed",
    "ResultRescheduled",
    "ResultSkipped",
    "Spooler",
    "SpoolerFunctionCallTask",
    "SpoolerTask",
    "TaskResult",
    "spooler_task_types",
]
MODULES = [
    "unspool",
    "unspool.address",
    "unspool.backends.base",
    "unspool.backends.memory",
    "unspool.backends.spool",
    "unspool.codec",
    "unspool.registry",
    "unspool.routes",
    "unspool.dispatch",
    "unspool.errors",
    "unspool.instances",
    "unspool.message",
    "unspool.results",
    "unspool.retry",
    "unspool.schedule",
    "unspool.section",
    "unspool.settings",
    "unspool.spooler",
    "unspool.tasks",
    "unspool.testing",
    "unspool.wire",
    "uwsgiconf.runtime.spooler",
]


@pytest.mark.parametrize("name", MODULES)
def test_all_is_sorted_and_there(name: str) -> None:
    """Each name is listed once, in order (constants, classes, the rest), and can be imported."""
    module = importlib.import_module(name)
    names = module.__all__

    def kind(name: str) -> tuple[int, str]:
        return (0 if name.isupper() and len(name) > 1 else 1 if name[0].isupper() else 2, name)

    assert names == sorted(set(names), key=kind)
    for one in names:
        assert hasattr(module, one)


def test_all_is_complete() -> None:
    """Everything in ``unspool`` that is neither private nor a submodule is public on purpose."""
    public = {
        name for name, value in vars(unspool).items() if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    assert public == set(unspool.__all__)
    assert set(SEED) <= public


def test_the_seeds_names_are_the_very_same_objects() -> None:
    """The objects are the same under uwsgiconf's import path, so both share one registry and one set of types."""
    spooler = importlib.import_module("uwsgiconf.runtime.spooler")
    assert spooler.__all__ == SEED
    for name in SEED:
        assert getattr(spooler, name) is getattr(unspool, name)


def test_importing_is_light() -> None:
    """A producer in a web process imports nothing that only a worker, a supervisor or the command line needs."""
    heavy = ["click", "rich", "inotify_simple", "sqlite3", "asyncio", "ctypes", "uwsgi", "pytest"]
    code = f"import sys, unspool; print([name for name in {heavy} if name in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert ended.stdout.strip() == "[]"


def test_sending_is_light(tmp_path: Path) -> None:
    """A producer that sends imports neither third-party packages nor slow modules, except for the sync of a batch."""
    heavy = ["click", "rich", "inotify_simple", "asyncio", "ctypes"]
    code = (
        f"import sys, unspool; unspool.configure(spoolers=[{str(tmp_path / 'mail')!r}]);"
        "unspool.Spooler.send_message_raw('m', payload=[1]); unspool.Spooler.get_tasks();"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert ended.stdout.strip() == "[]"


def test_one_tree_of_errors() -> None:
    """Every error is in the tree. Only the time limit is not an ``Exception``, so that no task catches it by
    accident.
    """
    for name in errors.__all__:
        error = getattr(errors, name)
        assert error.__doc__
        if name == "TaskTimeout":
            assert not issubclass(error, Exception)
        else:
            assert issubclass(error, UnspoolError)
    assert [name for name in errors.__all__ if f" {name}" not in (errors.__doc__ or "")] == []


@pytest.mark.parametrize("name", unspool.__all__)
def test_every_public_name_is_documented(name: str) -> None:
    """Each class and function has a docstring."""
    value = getattr(unspool, name)
    if callable(value):
        assert value.__doc__
