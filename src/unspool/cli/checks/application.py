"""Check whether the application can be imported, in a separate process."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator

from ...finding import FAIL, OK, WARN, Finding
from ..durations import span

__all__ = ["application"]

_IMPORT_LIMIT = 60  # seconds


def application(app: str) -> Iterator[Finding]:
    """Check whether the application can be imported, in a separate process."""
    command = [sys.executable, "-c", _IMPORT, app]
    try:
        done = subprocess.run(  # noqa: S603  our own interpreter
            command, capture_output=True, timeout=_IMPORT_LIMIT, stdin=subprocess.DEVNULL, check=False
        )
    except subprocess.TimeoutExpired:
        yield Finding("app", FAIL, f"{app} is not imported after {_IMPORT_LIMIT} s", "move its work out of import time")
        return
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        yield Finding(
            "app", FAIL, f"importing {app} killed the process with {name}", "import it by hand, piece by piece"
        )
        return
    try:
        answer = json.loads(done.stdout.rpartition(b"\n")[2] or b"null")
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        yield Finding("app", FAIL, f"importing {app} ended the process with status {done.returncode}",
                      "import it by hand, piece by piece")  # fmt: skip
    elif "error" in answer:
        advice = "correct it there; --traceback shows more" if answer["traceback"] else "correct it"
        yield Finding("app", FAIL, answer["error"], advice, answer["traceback"])
    elif not answer["functions"] and not answer["types"]:
        yield Finding("app", WARN, f"{app} can be imported, and has no task", "does it import the modules that do?")
    else:
        names = ", ".join(answer["functions"] + answer["types"])
        yield Finding("app", OK, f"{app} can be imported in {span(answer['seconds'])}; its tasks: {names}")
    if isinstance(answer, dict) and answer["sent_at"]:
        yield Finding(
            "app sends",
            WARN,
            f"{app} sends a task when it is imported, at {answer['sent_at']}, and so at each start of a worker",
            "send it under if __name__ == '__main__':",
        )


_IMPORT = """
import json, os, sys, time
out = os.dup(1)
os.dup2(2, 1)  # what the application prints is not the answer
from unspool import importing, registry
from unspool.backends.memory import MemoryBackend
from unspool.errors import AppError
from unspool.runtime.app import load_app
from unspool.functions import function_names
from unspool.tasks import spooler_task_types
registry.redirect(MemoryBackend)  # what the application sends when it is imported goes nowhere
started = time.perf_counter()
try:
    load_app(sys.argv[1])
except AppError as error:
    answer = {"error": str(error), "traceback": error.traceback}
else:
    types = sorted(set(spooler_task_types) - {"fcall"})
    answer = {"functions": function_names(), "types": types, "seconds": time.perf_counter() - started}
answer["sent_at"] = importing.sent_at
with open(out, "w") as file:
    json.dump(answer, file)
    file.flush()
    os._exit(0)
"""
