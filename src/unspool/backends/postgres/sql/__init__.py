"""The SQL statements. Each file contains one statement and is named for what it does."""

from functools import cache
from importlib import resources

__all__ = ["CURRENT", "statement", "step"]

CURRENT = 4
"""The version of the schema that these statements require."""


@cache
def statement(name: str) -> str:
    """Return the text of ``<name>.sql``."""
    return resources.files(__name__).joinpath(f"{name}.sql").read_text(encoding="utf-8")


def step(number: int) -> str:
    """Return the SQL that updates a schema of the previous version to this one."""
    return resources.files(__name__).joinpath("schema", f"{number}.sql").read_text(encoding="utf-8")
