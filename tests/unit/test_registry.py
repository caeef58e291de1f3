"""Backends of other packages, found by their entry points."""

import sys
from pathlib import Path

import pytest

from unspool import Spooler, address, configure, registry
from unspool.errors import ConfigurationError, OptionRefused
from unspool.testing import run_all

MODULE = """
from unspool.backends.memory import MemoryBackend

def make(address, settings):
    backend = MemoryBackend(address.name, period=settings.period)
    backend.url = address.url
    return backend

def empty(address, settings):
    pass

def renamed(address, settings):
    return MemoryBackend("other")
"""
ENTRY_POINTS = """
[unspool.backends]
ledger = ledger_backend:make
broken = ledger_backend:absent
empty = ledger_backend:empty
renamed = ledger_backend:renamed
"""


@pytest.fixture(autouse=True)
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Return an installed package with a backend."""
    (tmp_path / "ledger_backend.py").write_text(MODULE)
    metadata = tmp_path / "ledger-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: ledger\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "ledger_backend", raising=False)
    address.parse.cache_clear()


def test_a_backend_of_another_package() -> None:
    """Its URL works like any other: as the default spooler, by name, and without the password in the name."""
    configure(spoolers=["ledger://ann:s3cret@db/srv/app.db?mode=rw&spooler=mail"], period=7)
    id = Spooler.send_message_raw("m", payload=[1])
    backend = registry.backend("mail")
    assert backend.name == "ledger://db/srv/app.db/mail"
    assert backend is registry.backend() is registry.backend(backend.name)
    assert vars(backend)["url"] == "ledger://ann:s3cret@db/srv/app.db?mode=rw"
    assert backend.switch().period == 7
    assert [run.id for run in run_all(backend)] == [id]


@pytest.mark.parametrize("text", ["ledger://db/mail", "ledger:///srv/app.db/mail", "ledger://a,b:7/x/y/mail"])
def test_a_name_stands_for_itself(text: str) -> None:
    """The last part of the path is the spooler, if no parameter names it."""
    found = address.parse(text)
    assert (found.name, found.spooler) == (text, "mail")
    assert address.parse(f"{found.url}?spooler=mail") == found


def test_a_backend_that_cannot_be_imported() -> None:
    """The error names the spooler and the problem of the package."""
    with pytest.raises(ConfigurationError, match=r"broken://db/mail cannot be opened: .*ledger_backend:absent"):
        registry.backend("broken://db/mail")


def test_what_is_no_backend() -> None:
    """An entry point that returns anything but a backend is named."""
    with pytest.raises(
        ConfigurationError,
        match=r"its backend ledger_backend:empty cannot be used: what it returns is None",
    ):
        registry.backend("empty://db/mail")


def test_another_name() -> None:
    """A backend must have the name of its address, because ids contain this name."""
    text = r"renamed://db/mail cannot be opened: its backend ledger_backend:renamed is named memory://other; "
    with pytest.raises(ConfigurationError, match=text):
        registry.backend("renamed://db/mail")


def test_an_unknown_scheme() -> None:
    """Without an entry point, the URL is refused."""
    with pytest.raises(OptionRefused, match="valid schemes: postgresql, postgres, nats"):
        registry.backend("other://db/mail")
