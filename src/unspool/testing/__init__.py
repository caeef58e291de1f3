"""For tests: of programs that use unspool, and of backends.

``run_all`` runs what is spooled here and now; ``FakeClock`` is a clock to move; ``BackendConformance`` is what any
backend must pass. The pytest plugin is in :mod:`unspool.testing.plugin`.
"""

from typing import TYPE_CHECKING, Any

from .clock import FakeClock
from .running import Run, run_all

if TYPE_CHECKING:
    from .conformance import BackendConformance

__all__ = ["BackendConformance", "FakeClock", "Run", "run_all"]


def __getattr__(name: str) -> Any:
    """The suite is imported when it is asked for: it needs pytest, and pytest must rewrite its assertions first."""
    if name != "BackendConformance":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import pytest

    pytest.register_assert_rewrite(f"{__name__}.conformance")
    from .conformance import BackendConformance

    return BackendConformance
