"""The SQL statements. Each file contains one statement and is named for what it does."""

from functools import cache
from importlib import resources

__all__ = ["CURRENT", "ITEMS", "REQUIRED", "statement", "step"]

CURRENT = 6
"""The version of the schema that ``unspool migrate`` creates."""
REQUIRED = 6
"""The version of the schema that these statements require."""
ITEMS = 5
"""The version of the schema that the statements of the key-value table require."""


@cache
def statement(name: str) -> str:
    """Return the text of ``<name>.sql``."""
    return resources.files(__name__).joinpath(f"{name}.sql").read_text(encoding="utf-8")


def step(number: int) -> str:
    """Return the SQL that updates a schema of the previous version to this one."""
    return resources.files(__name__).joinpath("schema", f"{number}.sql").read_text(encoding="utf-8")
