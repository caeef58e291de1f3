"""The first program of the README, step by step."""

import json
import shutil
import sys
from pathlib import Path

from .conftest import EXAMPLES, UNSPOOL, Run


def test_it_sends_and_a_worker_does_it(run: Run, tmp_path: Path) -> None:
    """The program prints the id of the task, which is a file. A worker then greets, and nothing is left."""
    program = Path(shutil.copy(EXAMPLES / "first.py", tmp_path))

    sent = run(sys.executable, program.name)
    assert sent.returncode == 0, sent.stderr
    id = Path(sent.stdout.removeprefix("sent: ").strip())
    assert id.is_file()
    assert id.parent == tmp_path / "myspooler"

    done = run(UNSPOOL, "run", program.name, "--burst")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "Good morning, world!\n"
    assert not id.exists()
    assert json.loads(run(UNSPOOL, "ls", "--json").stdout) == []
