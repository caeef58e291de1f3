"""The spooler part of the ``uwsgi`` module, without uWSGI: ``spool``, the handler and the codes.

::

    from unspool.compat import uwsgi              # was: import uwsgi

    def handle(env):
        print(env[b"to"])
        return uwsgi.SPOOL_OK

    uwsgi.spooler = handle                        # unchanged; ``@uwsgi.spooler_handler`` does the same
    uwsgi.spool({b"to": b"ann"})                  # unchanged
"""

import os
import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, TypeVar

from .. import uwsgi
from ..codec import AS_IS, BARE
from ..tasks import SpoolerTask, uwsgi_verdict
from .variables import pack, send

__all__ = ["SPOOL_IGNORE", "SPOOL_OK", "SPOOL_RETRY", "send_to_spooler", "spool", "spooler_handler"]

SPOOL_OK, SPOOL_RETRY, SPOOL_IGNORE = -2, -1, 0
"""The codes that a handler returns. ``SPOOL_OK``: the task is done. ``SPOOL_RETRY``: the task runs again after a
growing delay, as if it had raised. ``SPOOL_IGNORE``: the task ends as skipped, while uWSGI would offer it again at each
scan.
"""

Handler = TypeVar("Handler", bound=Callable[[dict[Any, Any]], Any])


def spool(message: Mapping[Any, Any] | None = None, /, **variables: Any) -> bytes:
    """Send a message to the function that is registered with :func:`spooler_handler`, and return its file's path.

    :param message: keys and values are str or bytes, values also numbers. ``body`` may be large; all others together
        have at most 65535 bytes. ``priority`` (0 or more, smaller runs first), ``at`` (Unix time) and ``spooler`` (a
        directory) have the same meaning as in uWSGI.
    :param variables: further keys and values, as keyword arguments.
    :raises OptionRefused, PayloadRefused, NoSpooler: if nothing was sent.
    :raises SpoolerUnusable: if nothing was sent, unless its ``sent`` has the task's id.
    """
    envelope = pack({**(message or {}), **variables})
    spooler = envelope.vars.get("spooler")
    return send(envelope._replace(vars={**envelope.vars, "unspool_codec": AS_IS}), spooler)


send_to_spooler = spool
"""The former name of ``spool``."""


def spooler_handler(function: Handler) -> Handler:
    """Register a handler, as assigning it to ``uwsgi.spooler`` does. Return the function unchanged.

    The handler receives the messages of :func:`spool` and those left by uWSGI that belong neither to uwsgiconf nor to
    uwsgidecorators. A message is a dict as from uWSGI: ``'spooler_task_name'``, the message's own keys as bytes, and
    ``'body'`` if there is one. All values are bytes. The handler returns one of the codes. The last registered handler
    is used.
    """
    uwsgi.enter()

    class UwsgiMessage(SpoolerTask):
        __slots__ = ()
        type_id = BARE

        def process(self) -> Any:
            return uwsgi_verdict("own", function(_as_from_uwsgi(self.name, self.payload)))

    return function


def _as_from_uwsgi(name: str, payload: Mapping[str, bytes]) -> dict[Any, bytes]:
    given: dict[Any, bytes] = {"spooler_task_name": os.fsencode(name)}
    given |= {key.encode("utf-8", "surrogateescape"): value for key, value in payload.items() if key != "body"}
    if payload["body"]:
        given["body"] = payload["body"]
    return given


def __getattr__(name: str) -> Any:
    raise AttributeError(
        f"unspool.compat.uwsgi has no {name}: only {', '.join(__all__)} and spooler work without uWSGI", name=name
    )


class _Module(ModuleType):
    def __setattr__(self, name: str, value: Any) -> None:
        if name == "spooler":
            spooler_handler(value)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Module
