"""Check whether a spooler can be used, and what it contains."""

from collections.abc import Iterator

from ... import registry, routes, settings
from ...backends.base import Backend
from ...errors import ConfigurationError, SpoolerUnusable
from ...finding import FAIL, OK, WARN, Finding
from ...message import State
from ...printable import counted

__all__ = ["spooler"]


def spooler(name: str) -> Iterator[Finding]:
    """Check a spooler on a server or in a directory: whether it can be reached and used, and its contents."""
    try:
        backend = registry.backend(name)
        if not backend.capabilities.forks:
            text = "its tasks are in the memory of the process that sends them: no worker runs them"
            yield Finding(name, WARN, text, "name a directory or a server, except in tests")
            return
        found = list(backend.check())
        if not any(finding.missing or finding.level == FAIL for finding in found):
            found += [*_unsigned(backend), *_tasks(backend)]
    except (SpoolerUnusable, ConfigurationError) as error:
        yield Finding(name, FAIL, getattr(error, "strerror", None) or str(error))
        return
    yield from found


def _unsigned(backend: Backend) -> Iterator[Finding]:
    if backend.capabilities.remote and not settings.current().secret_key:
        yield Finding(
            f"{backend.name} key",
            WARN,
            "no secret key is set, so only tasks with serializer='json' can be sent to it",
            "set UNSPOOL_SECRET_KEY, the same for all senders and workers, or use JSON for each task",
        )


def _tasks(backend: Backend) -> Iterator[Finding]:
    path, counts = backend.name, backend.counts().tasks
    text = ", ".join(f"{counts[state]} {state}" for state in State)
    forwarded = routes.destination(path)
    role = "forwarder" if forwarded else "worker"
    workers = [info for info in backend.live() if info.role == role]
    if counts[State.READY] and not workers and forwarded:
        yield Finding(f"{path} tasks", WARN, f"{text}; no forwarder to {forwarded} is running", "unspool forward")
    elif counts[State.READY] and not workers:
        yield Finding(f"{path} tasks", WARN, f"{text}; no unspool worker is running", "unspool run APP")
    else:
        yield Finding(f"{path} tasks", OK, f"{text}; {counted(len(workers), role)}")
    if counts[State.DEAD] or counts[State.CORRUPT]:
        yield Finding(f"{path} set aside", WARN, f"{counts[State.DEAD]} dead, {counts[State.CORRUPT]} corrupt",
                      "unspool ls --state dead --state corrupt; then show, retry or rm")  # fmt: skip
    if backend.switch().paused:
        yield Finding(f"{path} switch", WARN, "paused", "unspool resume")
