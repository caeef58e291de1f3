"""Fixtures of all tests, which give each test its own settings."""

import contextlib
import os
import signal
import sys
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from unspool import settings, spooler_task_types
from unspool.backends.spool import SpoolBackend
from unspool.functions import registry
from unspool.testing import override_settings

pytest.register_assert_rewrite("tests.uwsgi.table")  # it asserts for several tests
pytest_plugins = ["pytester", "tests.nats.fixtures"]


_PYTEST = os.getpid()

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell does to what it starts in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)  # or Ctrl-C would do nothing in what tests start


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_makereport(call: pytest.CallInfo[None]) -> None:
    """End a forked child of a test that has raised, which would report the test a second time."""
    if os.getpid() != _PYTEST:
        sys.stderr.write(f"a forked child of a test has raised: {call.excinfo}\n")
        os._exit(70)


@pytest.fixture
def own_registries() -> Iterator[None]:
    """Remove the tasks that a test defines at its end."""
    types, functions = dict(spooler_task_types), dict(registry.functions)
    bare = {name: list(tasks) for name, tasks in registry.bare.items()}
    yield
    for registered, before in ((spooler_task_types, types), (registry.functions, functions), (registry.bare, bare)):
        registered.clear()  # type: ignore[attr-defined]
        registered.update(before)  # type: ignore[attr-defined]


@pytest.fixture
def only_own_tasks(request: pytest.FixtureRequest, own_registries: None) -> None:
    """Hide the tasks of other test modules, which may have the same bare names, during a test."""
    own = [task for task in registry.functions.values() if task.__module__ == request.module.__name__]
    registry.functions.clear()
    registry.bare.clear()
    for task in own:
        task.register()


@pytest.fixture(autouse=True)
def own_settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Hide the settings of the environment and of other tests. Each test reads the settings again."""
    monkeypatch.setattr(settings, "_start", None)
    for name in list(os.environ):
        if name.startswith("UNSPOOL_") or name in {"COLUMNS", "LINES"}:  # readline, which pytest imports, sets both
            monkeypatch.delenv(name)
    opened: weakref.WeakSet[SpoolBackend] = weakref.WeakSet()
    make = SpoolBackend.__init__

    def remember(self: SpoolBackend, *args: Any, **options: Any) -> None:
        make(self, *args, **options)
        opened.add(self)

    monkeypatch.setattr(SpoolBackend, "__init__", remember)
    with override_settings(**dict.fromkeys(settings.Settings._fields)):
        yield
    for backend in opened:  # of thousands of tests; what they hold open exceeds what select() takes
        held = backend._claims._held  # noqa: SLF001  a test that imitates a crash leaves them
        for fd in held:
            with contextlib.suppress(OSError):  # closed by the test, as by a crash, and perhaps another file's by now
                if "uwsgi_spoolfile_on_" in os.readlink(f"/proc/self/fd/{fd}"):
                    os.close(fd)
        held.clear()
        backend.close()
