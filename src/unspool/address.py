"""The address of a spooler: the path of a directory, or the URL of a server that contains the spooler's name.

``postgresql://db/app?spooler=mail`` is any libpq URI with an additional parameter, and ``nats://a,b,c?spooler=mail`` is
a list of servers. The *name* of such a spooler is its URL without user, password and parameters:
``postgresql://db/app/mail``. Listings, logs and ids show the name. It identifies the queue for every user, and it can
be used as a URL if the password is set elsewhere (``PGPASSWORD``, ``~/.pgpass``). ``memory://mail`` is a queue in the
memory of this process; ``memory://`` is short for ``memory://memory``.

An installed package can add schemes by entry points of the group ``unspool.backends``.
"""

import functools
import os
import re
from typing import TYPE_CHECKING, NamedTuple

from .errors import OptionRefused
from .imports import late

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = [
    "SCHEMES",
    "Address",
    "basename",
    "directory",
    "entry_point",
    "has_relative",
    "is_url",
    "name_of",
    "parse",
    "parse_for",
    "queue_of",
    "real",
    "recall",
    "remember",
    "split",
    "spooler_of_id",
]

SCHEMES = {"postgresql": "postgresql", "postgres": "postgresql", "nats": "nats", "memory": "memory"}
"""The schemes of URLs, each with its usual form."""

_DEFAULT_PORTS = {"postgresql": ":5432", "nats": ":4222"}
# Commas between the servers of a URL, before the first / or ?, do not split the list.
_ITEM = r"(?:\s*(?:[A-Za-z0-9_.-]+=)?[A-Za-z][A-Za-z0-9+.-]*://[^/?]*)?[^,]*"
_URL = r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)(?:/([^?#]*))?(?:\?([^#]*))?"
_SERVER = r"(?:[A-Za-z0-9._~%=-]*|\[[0-9A-Fa-f:.%]+\])(?::[0-9]+)?"
_SPOOLER = r"[A-Za-z0-9_-]{1,63}"


class Address(NamedTuple):
    """The address of a spooler on a server.

    :param scheme: ``postgresql``, ``nats``, ``memory``, or the name of an entry point.
    :param spooler: the name of the queue.
    :param name: the URL without user, password and parameters.
    :param url: the URL for the client of the server, with the password. Never show it.
    """

    scheme: str
    spooler: str
    name: str
    url: str


_known: dict[str, Address] = {}  # by name; only these contain the passwords


def is_url(text: str) -> bool:
    """Return whether this is the URL of a server, and not the path of a directory."""
    return "://" in text


def has_relative(spoolers: str) -> bool:
    """Return whether a list of spoolers contains a relative directory."""
    paths = [one for one in split(spoolers) if not is_url(one)]
    return not all(os.path.isabs(directory(path)) for path in paths)


def directory(path: str) -> str:
    """Return the path of a spooler's directory, with ``~`` replaced by the home directory.

    :raises OptionRefused: if the path begins with a quote, ``$`` or an unknown ``~user``. A shell replaces these; a
        service manager or ``docker run --env-file`` does not.
    """
    found = os.path.expanduser(path)
    if found.startswith(("'", '"', "$", "~")):
        raise OptionRefused(
            f"the spooler {path!r} begins with {found[0]!r}, which no shell has replaced; write the path itself, "
            "without quotes and variables"
        )
    return found


def split(text: str) -> list[str]:
    """Return the paths and URLs of a comma-separated list.

    A URL may have several servers, ``nats://a,b,c?spooler=mail``: commas before its first ``/`` or ``?`` do not split
    the list. A comma in a parameter must be written ``%2C``.
    """
    return [part for found in re.finditer(_ITEM, text) if (part := found[0].strip())]


@functools.lru_cache(maxsize=64)  # each send calls it
def parse(text: str) -> Address:
    """Return the address of a URL, or of the name of an address.

    :raises OptionRefused: if the text is neither. The message shows no password.
    """
    found = re.fullmatch(_URL, text)
    if found is None or (found[1].lower() not in SCHEMES and entry_point(found[1].lower()) is None):
        raise OptionRefused(f"{_shown(text)!r} is not the URL of a spooler; valid schemes: {', '.join(SCHEMES)}")
    scheme = SCHEMES.get(found[1].lower(), found[1].lower())
    servers, parameters = found[2], [part for part in (found[4] or "").split("&") if part]
    path = found[3] or ""
    given = [_unquoted(part[8:]) for part in parameters if part.startswith("spooler=")]
    match scheme:
        case "postgresql":
            database, _, last = path.partition("/")
        case "nats":
            database, last = "", path
        case "memory":
            servers, database, last = "", "", "/".join(filter(None, (servers, path))) or ("" if given else "memory")
        case _:
            database, _, last = (path, "", "") if given else path.rpartition("/")
    rest = [part for part in parameters if not part.startswith("spooler=")]
    shown = ",".join(_servers(scheme, servers, rest, text))
    spooler = given[-1] if given else last
    if given and last:
        raise OptionRefused(f"{_shown(text)!r} names a spooler twice, by its path and by 'spooler='")
    if not spooler:
        raise OptionRefused(f"{_shown(text)!r} names no spooler; add ?spooler=NAME, or &spooler=NAME")
    if not re.fullmatch(_SPOOLER, spooler):
        raise OptionRefused(f"the spooler {spooler!r} of {_shown(text)!r} can only have letters, digits, _ and -")
    if scheme == "postgresql":
        database = _quoted(_value(rest, "dbname") or _unquoted(database))
        name = f"postgresql://{shown}/{database}/{spooler}"
        url = f"postgresql://{_unnamed(servers)}/{database}" + (f"?{'&'.join(rest)}" if rest else "")
        if servers.startswith("service="):  # as in a name
            url += ("&" if rest else "?") + servers
    elif scheme == "memory":
        name = url = f"memory://{spooler}"
    else:
        folder = f"/{database}" if database else ""
        name = f"{scheme}://{shown}{folder}/{spooler}"
        url = f"{scheme}://{servers}{folder}" + (f"?{'&'.join(rest)}" if rest else "")
    return Address(scheme, spooler, name, url)


def entry_point(scheme: str) -> "EntryPoint | None":
    """Return the entry point by which an installed package adds the backend of a scheme; None if there is none."""
    with late:
        from importlib.metadata import entry_points  # 20 ms that only unknown schemes need

    return next(iter(entry_points(group="unspool.backends", name=scheme)), None)


def parse_for(text: str, spooler: str) -> Address:
    """Parse a URL that need not name a spooler. Without a name, it gets this one.

    :raises OptionRefused: as for ``parse``.
    """
    try:
        return parse(text)
    except OptionRefused:
        found = re.fullmatch(_URL, text)
        if found is None or "spooler=" in (found[4] or ""):
            raise
    return parse(f"{text}{'&' if '?' in text else '?'}spooler={spooler}")


def spooler_of_id(id: str) -> str:
    """Return the name of the spooler in the id of a task: the part before the last slash."""
    return id.rpartition("/")[0]


def name_of(text: str) -> str:
    """Return the name of the spooler at a path or URL. A password in the URL is remembered for opening the spooler.

    :raises OptionRefused: for an invalid URL, or a path that begins with a quote, ``$`` or an unknown ``~user``.
    """
    if not is_url(text):
        directory(text)
        return text
    found = parse(text)
    if text == found.name and text in _known:  # a name has no password to be remembered
        return text
    return remember(found)


def remember(address: Address) -> str:
    """Remember an address with its password for ``recall``, and return its name."""
    _known[address.name] = address
    return address.name


def recall(name: str) -> Address:
    """Return the last address of this name that was remembered."""
    return _known[name]


def basename(name: str) -> str:
    """Return the last part of a spooler's name."""
    return name.rstrip("/").rpartition("/")[2]


def real(name: str) -> str:
    """Return the name of a spooler; for a directory, the path without symbolic links."""
    return name if is_url(name) else os.path.realpath(name)


def queue_of(name: str) -> str:
    """Return the name of the queue for which the tasks of a spooler are signed."""
    return basename(real(name))


def _servers(scheme: str, servers: str, parameters: list[str], text: str) -> list[str]:
    """Return the servers as in a name: without users, passwords and default ports."""
    hosts = _value(parameters, "host") or _value(parameters, "hostaddr")
    if scheme == "postgresql" and hosts:
        ports = (_value(parameters, "port") or "").split(",")
        ports = ports * len(hosts.split(",")) if len(ports) == 1 else ports
        found = [
            _quoted(host) + (f":{port}" if port else "") for host, port in zip(hosts.split(","), ports, strict=False)
        ]
    else:
        # A libpq URI has one user, before all its servers; NATS takes one for each.
        plain = servers.rpartition("@")[2] if scheme == "postgresql" else servers
        found = [server.rpartition("@")[2] for server in plain.split(",")]
    for server in found:
        if not re.fullmatch(_SERVER, server):
            raise OptionRefused(
                f"{_shown(text)!r} has an invalid server; write HOST or HOST:PORT, separate several with commas, and "
                "write special characters of a user or password as %XX"
            )
    if service := _value(parameters, "service"):
        found = [f"service={_quoted(service)}"]
    return [
        server.removesuffix(_DEFAULT_PORTS.get(scheme, "")).lower() if "%2F" not in server else server
        for server in found
    ]


def _unnamed(servers: str) -> str:
    return "" if servers.startswith("service=") else servers


def _value(parameters: list[str], name: str) -> str | None:
    found = [_unquoted(part.partition("=")[2]) for part in parameters if part.partition("=")[0] == name]
    return found[-1] if found else None


def _shown(text: str) -> str:
    """Return the text of a URL without credentials, for messages."""
    text = re.sub(r"://.*@", "://…@", text)
    return re.sub(r"((?:password|token|sslpassword)=)[^&]*", r"\1…", text)


def _quoted(text: str) -> str:
    with late:
        from urllib.parse import quote  # 10 ms that directories do not need

    return quote(text, safe="")


def _unquoted(text: str) -> str:
    with late:
        from urllib.parse import unquote

    return unquote(text)
