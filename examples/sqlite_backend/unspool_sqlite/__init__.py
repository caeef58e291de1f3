"""A backend of unspool that keeps tasks in a SQLite file: ``sqlite:///srv/app/mail`` is ``/srv/app/mail.sqlite``."""

from unspool.address import Address
from unspool.backends.base import Settings
from unspool.errors import OptionRefused

from .backend import SqliteBackend

__all__ = ["SqliteBackend", "open_backend"]


def open_backend(address: Address, settings: Settings) -> SqliteBackend:
    """Return the backend of a URL. unspool calls this through the entry point.

    :raises OptionRefused: if the URL has no absolute path.
    """
    path = address.name.removeprefix("sqlite://")
    if not path.startswith("/"):
        raise OptionRefused(f"the URL {address.name!r} names a host; write sqlite:///DIRECTORY/NAME")
    return SqliteBackend(path, settings)
