"""For tests: of programs that use unspool, and of backends.

``temporary_spooler`` catches all that a program sends, and runs it when it is asked to. ``unspool_spooler``, in
:mod:`unspool.testing.plugin`, is the same as a fixture of pytest. ``run_all`` runs what is spooled on a backend;
``FakeClock`` is a clock to move; ``BackendConformance`` is what any backend must pass.
"""

from typing import TYPE_CHECKING, Any

from .clock import FakeClock
from .running import Run, run_all

if TYPE_CHECKING:
    from .conformance import BackendConformance
    from .spooled import Spooled, TemporarySpooler, temporary_spooler

__all__ = ["BackendConformance", "FakeClock", "Run", "Spooled", "TemporarySpooler", "run_all", "temporary_spooler"]


def __getattr__(name: str) -> Any:
    """Import what is large when it is asked for. The suite needs pytest, which must rewrite its assertions first."""
    if name in ("Spooled", "TemporarySpooler", "temporary_spooler"):
        from . import spooled

        return getattr(spooled, name)
    if name != "BackendConformance":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import pytest

    pytest.register_assert_rewrite(f"{__name__}.conformance")
    from .conformance import BackendConformance

    return BackendConformance
