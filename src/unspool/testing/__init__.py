"""Tools for tests of programs that use unspool, and of backends.

``temporary_spooler`` captures all tasks that a program sends, and runs them on request. ``unspool_spooler``, in
:mod:`unspool.testing.plugin`, is the corresponding pytest fixture. ``run_all`` runs the tasks on a backend.
``override_settings`` changes settings for a block of code. ``FakeClock`` is a clock that tests can move.
``MemoryBackend`` is a queue in the memory of the process. ``BackendConformance`` is a test suite for backends.
"""

from typing import TYPE_CHECKING, Any

from ..backends.memory import MemoryBackend
from ..settings import override as override_settings
from .clock import FakeClock
from .running import Run, run_all

if TYPE_CHECKING:
    from .conformance import BackendConformance
    from .spooled import Spooled, TemporarySpooler, temporary_spooler

__all__ = [
    "BackendConformance",
    "FakeClock",
    "MemoryBackend",
    "Run",
    "Spooled",
    "TemporarySpooler",
    "override_settings",
    "run_all",
    "temporary_spooler",
]


def __getattr__(name: str) -> Any:
    """Import large modules on first use. pytest must rewrite the assertions of the suite before it is imported."""
    if name in ("Spooled", "TemporarySpooler", "temporary_spooler"):
        from . import spooled

        return getattr(spooled, name)
    if name != "BackendConformance":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import pytest

    pytest.register_assert_rewrite(f"{__name__}.conformance")
    from .conformance import BackendConformance

    return BackendConformance
