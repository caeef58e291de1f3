"""Secret keys, as the user of the command line sees them."""

from itertools import pairwise

import pytest

from .conftest import Shell

NEW, OLD = "n" * 32, "o" * 32


def enqueue(shell: Shell, **env: str) -> str:
    """Send a task by a command, and return its id."""
    return shell("enqueue", "app:add", "1", **env).strip()


def run(shell: Shell, *keys: str) -> list[str]:
    """Return what a worker with these keys logs for all ready tasks."""
    env = {"UNSPOOL_SECRET_KEY": ",".join(keys)} if keys else {}
    done = shell.result("run", "app", "--burst", **env)
    assert done.returncode == 0, done.stderr
    return [line for line in done.stderr.splitlines() if " app:add " in line or "corrupt" in line]


def test_rotation(shell: Shell) -> None:
    """The steps of the guide: the new key is added after the old one everywhere, then put first, then the old one is
    removed. At each step, earlier and later tasks run. Tasks that are still signed with the old key are then set aside,
    and run when the key is back.
    """
    steps = [(OLD,), (OLD, NEW), (NEW, OLD), (NEW,)]
    for before, after in pairwise(steps):
        for sender, worker in ((before, after), (after, before), (after, after)):
            enqueue(shell, UNSPOOL_SECRET_KEY=",".join(sender))
            (line,) = run(shell, *worker)
            assert "processed" in line
    id = enqueue(shell, UNSPOOL_SECRET_KEY=OLD)
    (line,) = run(shell, NEW)
    assert "corrupt" in line
    assert "the signature does not match" in line
    shell("retry", id)
    (line,) = run(shell, NEW, OLD)
    assert "processed" in line


def test_first_key(shell: Shell) -> None:
    """Senders get the key first: workers without a key run both kinds. Then the workers get it."""
    enqueue(shell)
    enqueue(shell, UNSPOOL_SECRET_KEY=NEW)
    assert len(run(shell)) == 2
    enqueue(shell, UNSPOOL_SECRET_KEY=NEW)
    (line,) = run(shell, NEW)
    assert "processed" in line


def test_an_unsigned_task(shell: Shell) -> None:
    """Unsigned tasks are set aside. The log, ls, show and the counts say so, and none of them decodes a task."""
    id = enqueue(shell)
    (line,) = run(shell, NEW)
    reason = "unsigned, and here a secret key is set: its sender has none"
    assert line.endswith(reason)
    (entry,) = shell.json("ls")
    assert (entry["state"], entry["task"], entry["reason"]) == ("corrupt", "app:add", reason)
    assert f"reason:   {reason}" in shell("show", id)
    assert shell.json("status")["spoolers"][0]["corrupt"] == 1


def test_show_tells_the_queue_and_hides_nothing_else(shell: Shell) -> None:
    """A signed task is shown like any other, without its seal, with or without the key."""
    id = enqueue(shell, UNSPOOL_SECRET_KEY=NEW)
    for env in ({}, {"UNSPOOL_SECRET_KEY": NEW}):
        found = shell.json("show", id, **env)
        assert found["vars"] == {"msg": "ucfg_fcall", "unspool_task": "app:add"}
        assert found["task"] == "app:add"


@pytest.mark.parametrize("key", ["", "short", f"{NEW},"])
@pytest.mark.parametrize("words", [("run", "app", "--burst"), ("enqueue", "app:add", "1"), ("ls",), ("uwsgi", "app")])
def test_an_empty_or_short_key_refuses_to_start(shell: Shell, key: str, words: tuple[str, ...]) -> None:
    """The status is 2, with one line that names the variable, the minimum and how to make a key. Nothing is sent or
    run.
    """
    line = shell.error(*words, status=2, UNSPOOL_SECRET_KEY=key)
    assert line.startswith("secret_key from UNSPOOL_SECRET_KEY cannot be used: ")
    assert "32 or more" in line
    assert "python3 -c 'import secrets; print(secrets.token_urlsafe(32))'" in line
    assert not shell.mail.exists()


def test_doctor(shell: Shell) -> None:
    """doctor shows whether there are keys and their source, but never a key. A file that is kept with the code is a
    warning.
    """
    assert "ok   secret_key: none: tasks are not signed" in shell("doctor")
    told = shell("doctor", UNSPOOL_SECRET_KEY=f"{NEW},{OLD}")
    assert "ok   secret_key: 2 keys, the first signs; unsigned tasks become corrupt (from UNSPOOL_SECRET_KEY)" in told
    file = shell.root / "keys"
    file.write_text(NEW)
    file.chmod(0o600)
    told += shell("doctor", UNSPOOL_SECRET_KEY_FILE=str(file))
    assert f"ok   secret_key: 1 key, the first signs; unsigned tasks become corrupt (from {file})" in told
    file.chmod(0o666)
    assert f"-> chmod go-w {file}" in shell("doctor", status=1, UNSPOOL_SECRET_KEY_FILE=str(file))
    (shell.root / "pyproject.toml").write_text(f'[tool.unspool]\nsecret_key = "{NEW}"\n')
    told += shell("doctor", status=1)
    assert "warn secret_key: 1 key" in told
    assert "do not keep a secret in a file" in told
    assert NEW not in told
    assert "fail secret_key" not in told
    assert "fail configuration: secret_key from UNSPOOL_SECRET_KEY" in shell("doctor", status=2, UNSPOOL_SECRET_KEY="x")
