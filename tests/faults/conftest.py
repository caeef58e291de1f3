"""Fixtures of all fault tests: places with real supervisors, and tests that need root or a tool."""

import os
import shutil

import pytest

from ..runtime.conftest import place

__all__ = ["needs", "place"]


def needs(*, root: bool = False, tool: str = "") -> None:
    """Skip the test if root or a program is missing. In CI, which installs them, fail it."""
    reason = ""
    if root and os.geteuid() != 0:
        reason = "this test needs root"
    elif tool and shutil.which(tool, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") is None:
        reason = f"this test needs {tool}"
    if reason and os.environ.get("CI"):
        pytest.fail(f"{reason}, and CI must have it")
    if reason:
        pytest.skip(reason)
