"""Check the uWSGI of this process, or the one that ``unspool uwsgi`` would start."""

from collections.abc import Iterator
from typing import Any

from ...backends.spool.uwsgi.server import module, spoolers
from ...errors import ConfigurationError
from ...finding import FAIL, OK, WARN, Finding
from .. import uwsgi_binary

__all__ = ["uwsgi"]


def uwsgi() -> Iterator[Finding]:
    """Check the uWSGI of this process, or the one that ``unspool uwsgi`` would start."""
    inside = module()
    if inside is not None:
        yield _inside(inside)
        return
    path = uwsgi_binary.find()
    if path is None:
        yield Finding("uwsgi", OK, "not installed, and not needed")
        return
    try:
        found = uwsgi_binary.look_at(path)
    except ConfigurationError as error:
        yield Finding("uwsgi", OK, f"{error}; not needed by 'unspool run'")
        return
    if found.objection:
        yield Finding("uwsgi", OK, f"{found.objection}; not needed by 'unspool run', else {uwsgi_binary.INSTALL}")
    else:
        yield Finding("uwsgi", OK, f"{found.version} at {path}, with its spooler and Python {found.python}")


def _inside(uwsgi: Any) -> Finding:
    version = uwsgi.version.decode() if isinstance(uwsgi.version, bytes) else uwsgi.version
    directories = ", ".join(spoolers())
    if not hasattr(uwsgi, "spool"):
        return Finding("uwsgi", FAIL if directories else WARN, f"inside uWSGI {version}, which has no spooler",
                       "write spooler = DIR, absolute, in its configuration")  # fmt: skip
    if not uwsgi.masterpid():
        return Finding("uwsgi", FAIL, f"inside uWSGI {version}, without a master process, so no spooler runs",
                       "write master = true in its configuration")  # fmt: skip
    return Finding("uwsgi", OK, f"inside uWSGI {version}, with a master process; its spoolers: {directories}")
