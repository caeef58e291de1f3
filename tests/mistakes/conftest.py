"""A shell as for the tests of the command line."""

from ..cli.conftest import shell

__all__ = ["shell"]
