"""The tests that every backend must pass. Subclass :class:`BackendConformance` under a name that pytest collects.

::

    class TestMine(BackendConformance):
        def make_backend(self, clock, place):
            return MyBackend(str(place / "queue"), clock=clock)

        def damage(self, backend, id):
            ...  # alter a byte of the stored task

The docstring of each test states one rule of the contract. The capabilities of a backend decide which tests are
skipped: a backend without feeds skips the tests of handing out and running, and a backend whose tasks no other process
sees skips the tests of several processes.

``memory`` and ``spool`` pass the suite in ``tests/conformance``, ``postgres`` and ``nats`` in the folders of their
tests. ``uwsgi`` passes it in ``tests/uwsgi``, where pytest runs in a mule of a real uWSGI with the directory's feed.
Calls of the handler, which only uWSGI makes, are tested there end to end: the same table of verdicts for each of
uWSGI's modes and for ``unspool run``.
"""

from .changes import ChangeTests
from .claims import ClaimTests
from .control import ControlTests
from .ephemeral import EphemeralTests
from .feeds import FeedTests
from .harness import Ground, Queue
from .history import HistoryTests
from .keyvalue import KeyValueTests
from .listing import ListingTests
from .moving import MovingTests
from .paging import PageTests
from .sending import SendingTests
from .several import SeveralTests
from .signing import SigningTests
from .verdicts import VerdictTests
from .waiting import WaitingTests

__all__ = ["BackendConformance", "Ground", "Queue"]


class BackendConformance(
    SendingTests,
    FeedTests,
    ClaimTests,
    ListingTests,
    PageTests,
    ChangeTests,
    ControlTests,
    HistoryTests,
    KeyValueTests,
    EphemeralTests,
    WaitingTests,
    SeveralTests,
    MovingTests,
    SigningTests,
    VerdictTests,
):
    """The whole suite. :class:`Ground` lists what a subclass must supply."""
