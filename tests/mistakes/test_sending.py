"""Mistakes of a program that defines and sends tasks. Each is made in one real process."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = '''
import json, threading
from datetime import datetime, timedelta
from unspool import Spooler, configure

@Spooler.task
def f(a, b=1):
    """A task."""

@Spooler.task(serializer="json")
def as_json(a):
    """A task whose arguments are JSON."""

def nested():
    @Spooler.task
    def inner(): ...

class Mailer:
    def send(self, to): ...

def rows():
    yield 1

async def async_rows():
    yield 1

mistakes = {}
for number, line in enumerate(SOURCE.splitlines()):
    try:
        exec(line, globals())
    except Exception as error:
        mistakes[line] = [type(error).__name__, str(error)]
    else:
        mistakes[line] = ["", ""]
print(json.dumps(mistakes))
'''

TAKES = r"app:f does not take these arguments: .*; its signature is \(a, b=1\)"

MISTAKES = {
    # arguments
    "f()": ("PayloadRefused", TAKES.replace(".*", "missing a required argument: 'a'")),
    "f(1, 2, 3)": ("PayloadRefused", TAKES.replace(".*", "too many positional arguments")),
    "f(1, c=2)": ("PayloadRefused", TAKES.replace(".*", "got an unexpected keyword argument 'c'")),
    "f.enqueue_many([{'zzz': 1}])": ("PayloadRefused", TAKES),
    "f.enqueue_many(5)": ("PayloadRefused", r"calls of app:f is a int; pass a list with one entry for each call"),
    "f.enqueue_many('abc')": ("PayloadRefused", r"calls of app:f is a str; pass a list"),
    "Spooler.send_many([1])": (
        "PayloadRefused",
        r"messages\[0\] is 1, which is not a message; make messages with task.message",
    ),
    "f(threading.Lock())": ("PayloadRefused", r"argument 1 .*lock.*Pass what another process"),
    "f(1, b=open('/dev/null'))": ("PayloadRefused", r"argument 'b' .*TextIOWrapper.*Pass what another process"),
    "f(x for x in [])": ("PayloadRefused", r"argument 1 .*generator.*Pass what another process"),
    "f(lambda: 1)": ("PayloadRefused", r"argument 1 .*(function|lambda).*Pass what another process"),
    "as_json({1, 2})": ("PayloadRefused", r"argument 1 .*set.*Pass what JSON has: .*; for a set a list"),
    "as_json(datetime.now())": (
        "PayloadRefused",
        r"argument 1 .*datetime.*Pass what JSON has: .*for a datetime its isoformat",
    ),
    # names of other task queues
    "f.delay(1)": ("AttributeError", r"task app:f has no attribute 'delay'; to run it later, call it: f\(\.\.\.\)$"),
    "f.send(1)": ("AttributeError", r"task app:f has no attribute 'send'; to run it later, call it: f\(\.\.\.\)$"),
    "f.apply_async((1,))": ("AttributeError", r"call it: f\(\.\.\.\), or f\.using\(postpone=timedelta\(\.\.\.\)\)"),
    # options
    "f.using(countdown=5)": ("OptionRefused", r"using\(\) takes priority, postpone, .* not countdown"),
    "f.using(timeout=1)": ("OptionRefused", r"not timeout; other options are set where the task is defined"),
    "Spooler.task(retries=3)": (
        "OptionRefused",
        r"task\(\) has no option retries; valid options: priority, postpone, max",
    ),
    "Spooler.task(postpone=5)": ("OptionRefused", r"postpone is 5; it must be a timedelta, a datetime or None"),
    "Spooler.task(priority='high')": ("OptionRefused", r"priority is 'high'; it must be a whole number from 0"),
    "Spooler.task(max_attempts='3')": ("OptionRefused", r"max_attempts is '3'; it must be"),
    "Spooler.task(timeout=-1)": ("OptionRefused", r"timeout is -1; it must be a timedelta or a number of seconds"),
    "Spooler.task(timeout=timedelta(seconds=5))": ("", ""),
    "Spooler.task(retry_delay=timedelta(seconds=5))": ("", ""),
    "configure(spolers=['/tmp/mail'])": (
        "ConfigurationError",
        r"unknown setting 'spolers' in configure\(\); valid settings: spoolers,",
    ),
    "configure(period='soon')": ("ConfigurationError", r"period from configure\(\) .*'soon' is not a duration; write"),
    # spoolers
    "f.using(spooler='nosuch')(1)": ("NoSpooler", r"no spooler is named 'nosuch' \(there are: .*/mail\)"),
    "f.using(spooler=None)": ("OptionRefused", r"spooler is None; it must be a name, a path, a Spooler or a backend"),
    "f.using(spooler=Spooler.get_by_basename('typo'))": ("OptionRefused", r"get_by_basename returns None for a name"),
    "Spooler.read_task_file(None)": ("OptionRefused", r"the path of the task is None; it must be a string"),
    # functions
    "Spooler.task(lambda: 1)": ("FunctionRefused", r"<lambda> is a lambda, so no worker could find it; define it at"),
    "nested()": ("FunctionRefused", r"is defined inside another function, so no worker could find it; define it at"),
    "Spooler.task(Mailer.send)": (
        "FunctionRefused",
        r"Mailer.send is a method, and a worker has no instance to call it",
    ),
    "Spooler.task(rows)": ("FunctionRefused", r"rows is a generator function, so a call of it would not run its body;"),
    "Spooler.task(async_rows)": ("FunctionRefused", r"async_rows is a generator function"),
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """The name and the text of the exception that each mistake raises."""
    root = tmp_path_factory.mktemp("mistakes")
    (root / "app.py").write_text(f"SOURCE = {chr(10).join(MISTAKES)!r}\n{PROGRAM}")
    env = {name: value for name, value in os.environ.items() if not name.startswith("UNSPOOL_")}
    env["UNSPOOL_SPOOLERS"] = str(root / "mail")
    done = subprocess.run([sys.executable, "app.py"], cwd=root, env=env, capture_output=True, text=True, check=True)
    assert not list(Path(root, "mail").glob("*")), "something was sent"
    found: dict[str, list[str]] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake(mistake: str, outcomes: dict[str, list[str]]) -> None:
    """The exception is one of unspool's, or an AttributeError. It names the value, and what to do instead. Nothing is
    sent.
    """
    kind, text = MISTAKES[mistake]
    assert outcomes[mistake][0] == kind, outcomes[mistake]
    assert re.search(text, outcomes[mistake][1]), outcomes[mistake]
