"""The command line, in separate processes, or in that of the test for mistakes that are found before anything runs."""

import pytest

from unspool import settings
from unspool.cli import main

from ..cli.conftest import Shell, shell

__all__ = ["Quick", "quick", "shell"]


class Quick:
    """The command line in the test's own process, which is much faster."""

    def __init__(self, shell: Shell, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.shell = shell
        self._patch = monkeypatch
        self._capsys = capsys

    def error(self, *words: str, status: int, **env: str) -> str:
        """Return the one line with which a command fails, without ``unspool: error: ``."""
        for name, value in (self.shell.env | env).items():
            self._patch.setenv(name, value)
        self._patch.chdir(self.shell.root)
        settings.configure()
        assert main(words) == status
        text = self._capsys.readouterr().err
        assert text.count("\n") == 1, text
        return text.removeprefix("unspool: error: ").rstrip("\n")


@pytest.fixture
def quick(shell: Shell, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Quick:
    """The command line in this process, in the directory of the shell."""
    return Quick(shell, monkeypatch, capsys)
