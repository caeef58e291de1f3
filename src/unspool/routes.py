"""Which spoolers are forwarded, and where to: the setting ``forward``."""

from . import address, settings
from .errors import ConfigurationError, OptionRefused

__all__ = ["destination"]


def destination(name: str) -> str | None:
    """Return the name of the spooler that the tasks of a directory are forwarded to; None if they are not forwarded.

    :raises ConfigurationError: if the destination needs the name of this queue and cannot have it.
    """
    found = dict(settings.current().forward)
    url = None if address.is_url(name) else found.get(address.basename(name), found.get(""))
    if url is None:
        return None
    try:
        return address.remember(address.parse_for(url, address.queue_of(name)))
    except OptionRefused as error:
        raise ConfigurationError(f"the tasks of {name} cannot be forwarded: {error}") from None
