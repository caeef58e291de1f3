"""Check the interpreter, the packages installed in it, and the kernel."""

import os
import sys
from collections.abc import Iterator
from importlib import metadata, util

from ...backends.spool.watcher import Watcher
from ...finding import OK, WARN, Finding

__all__ = ["kernel", "python"]


def python() -> Iterator[Finding]:
    """Report the interpreter and the system."""
    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding("python", OK, f"{version} at {sys.executable}")
    if sys.platform != "linux":
        yield Finding("system", OK, f"{sys.platform}: directories are polled, which is fine for development")
    yield from _uwsgiconf()


def _uwsgiconf() -> Iterator[Finding]:
    """Check for an installed uwsgiconf, which keeps its import path."""
    try:
        version, found = metadata.version("uwsgiconf"), util.find_spec("uwsgiconf")
    except (metadata.PackageNotFoundError, ValueError):
        return
    where = f" at {os.path.dirname(found.origin)}" if found is not None and found.origin else ""
    yield Finding(
        "uwsgiconf",
        WARN,
        f"{version} is installed{where}, so uwsgiconf.runtime.spooler is its module, and not unspool's",
        "uninstall it, or import unspool.compat.uwsgiconf first; ignore this if the program imports unspool itself",
    )


def kernel() -> Iterator[Finding]:
    """Check whether supervisors receive change events from the kernel."""
    if sys.platform != "linux":
        return
    wake = Watcher()
    works = wake.working
    wake.close()
    limits = {name: _number(f"/proc/sys/fs/inotify/{name}") for name in ("max_user_instances", "max_user_watches")}
    text = ", ".join(f"{name} {value}" for name, value in limits.items() if value is not None)
    if works:
        yield Finding("inotify", OK, f"works ({text})" if text else "works")
    else:
        yield Finding("inotify", WARN, f"refused ({text}): directories are scanned once a second instead",
                      "raise fs.inotify.max_user_instances with sysctl, or end what uses them up")  # fmt: skip


def _number(path: str) -> int | None:
    try:
        with open(path, encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return None
