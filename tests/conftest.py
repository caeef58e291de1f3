"""What all tests share: settings of their own."""

import os
from collections.abc import Iterator

import pytest

from unspool import config
from unspool.backends.spool import store

pytest_plugins = ["pytester", "tests.nats.fixtures"]


@pytest.fixture(autouse=True)
def own_settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test sees the settings of the environment, nor those that another test made."""
    for name in list(os.environ):
        if name.startswith("UNSPOOL_"):
            monkeypatch.delenv(name)
    config.configure(**dict.fromkeys(config.Settings.__dataclass_fields__))
    yield
    config.configure(**dict.fromkeys(config.Settings.__dataclass_fields__))
    for backend in list(store._opened):  # of hundreds of tests; their directories held open exceed what select() takes
        backend.close()
