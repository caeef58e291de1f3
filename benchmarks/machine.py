"""The machine and the versions of the figures, without which they mean little."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import unspool

from .filesystem import Ground

__all__ = ["describe"]


def describe(ground: Ground) -> dict[str, str]:
    """Return versions, machine and file system."""
    journal = {True: "with a journal", False: "without a journal", None: "journal unknown"}[ground.journal]
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "unspool": f"{unspool.__version__} {_commit()}".strip(),
        "uWSGI": version("pyuwsgi"),
        "Python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": f"{os.cpu_count()} x {_processor()}",
        "load at the start": f"{os.getloadavg()[0]:.2f}",
        "file system": f"{ground.kind} {journal}; {ground.note}",
    }


def _commit() -> str:
    """Return the commit, and whether the tree has changes; an empty string outside of a repository."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=9"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"
