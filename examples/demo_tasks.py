"""The tasks of the demo. This is what its workers import: ``unspool run examples/demo_tasks.py``."""

import ast
import hashlib
import json
import os
import time
from collections import Counter
from pathlib import Path

from unspool import Spooler

RESULTS = "DEMO_RESULTS"
"""The environment variable that names the file to which each finished task adds one line."""


@Spooler.task
def survey(path: str, called: float) -> bool:
    """Read a module, and report its content.

    :param called: when the task was sent, on the clock that all processes share.
    """
    begun = time.monotonic()
    source = Path(path).read_bytes()
    try:
        kinds = Counter(type(node) for node in ast.walk(ast.parse(source)))
    except (SyntaxError, ValueError):  # the library also contains broken modules, for tests of parsers
        kinds = None
    report(
        path,
        parsed=kinds is not None,
        functions=kinds[ast.FunctionDef] + kinds[ast.AsyncFunctionDef] if kinds else 0,
        classes=kinds[ast.ClassDef] if kinds else 0,
        lines=len(source.splitlines()),
        sha256=hashlib.sha256(source).hexdigest(),
        waited=begun - called,
    )
    return True


@Spooler.task(retry_delay=0.2)
def recover(name: str) -> bool:
    """Fail twice, as when a mail server restarts, and then succeed."""
    tries = Path(f"{os.environ[RESULTS]}.{name}")
    add_line(tries, "tried")
    count = len(tries.read_text(encoding="utf-8").splitlines())
    if count <= 2:
        raise ConnectionError(f"on purpose: the server is not there (try {count})")
    report(name, tries=count)
    return True


@Spooler.task(max_attempts=3, retry_delay=0.1)
def give_up(name: str) -> bool:
    """Fail on every attempt. The task is then set aside as dead."""
    raise ValueError(f"on purpose: there is no {name}")


def report(key: str, **found: object) -> None:
    """Add a line to the results."""
    add_line(Path(os.environ[RESULTS]), json.dumps({"key": key, **found}))


def add_line(path: Path, line: str) -> None:
    """Add a line with one write, so that lines of other processes do not mix with it."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, f"{line}\n".encode())
    finally:
        os.close(file)
