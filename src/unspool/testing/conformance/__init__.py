"""The tests that every backend must pass. Subclass :class:`BackendConformance` under a name that pytest collects.

::

    class TestMine(BackendConformance):
        def make_backend(self, clock, place):
            return MyBackend(str(place / "queue"), clock=clock)

        def damage(self, backend, id):
            ...  # alter a byte of the stored task

The docstring of each test states one rule of the contract. Tests are skipped according to the capabilities of the
backend. A backend without feeds skips the tests of feeds, claims and runs. A backend whose tasks no other process sees
skips the tests of several processes.

The suite runs on ``memory`` and ``spool`` in ``tests/conformance``, and on ``postgres`` and ``nats`` in the folders of
their tests. It runs on ``uwsgi`` in ``tests/uwsgi``, by a pytest in a mule of a real uWSGI and with the feed of the
directory. Only uWSGI calls the handler. Its calls are tested there end to end, with the same table of verdicts for each
mode of uWSGI and for ``unspool run``.
"""

from .changes import ChangeTests
from .claims import ClaimTests
from .ephemeral import EphemeralTests
from .feeds import FeedTests
from .harness import BackendTests, Queue
from .history import HistoryTests
from .keyvalue import KeyValueTests
from .listing import ListingTests
from .moving import MovingTests
from .paging import PageTests
from .sending import SendingTests
from .several import SeveralTests
from .signing import SigningTests
from .switches import SwitchTests
from .unique import UniqueTests
from .verdicts import VerdictTests
from .waiting import WaitingTests

__all__ = ["BackendConformance", "BackendTests", "Queue"]


class BackendConformance(
    SendingTests,
    FeedTests,
    ClaimTests,
    ListingTests,
    PageTests,
    ChangeTests,
    SwitchTests,
    HistoryTests,
    KeyValueTests,
    EphemeralTests,
    WaitingTests,
    SeveralTests,
    MovingTests,
    UniqueTests,
    SigningTests,
    VerdictTests,
):
    """The whole suite. A subclass implements the abstract methods of :class:`BackendTests`."""
