"""What any backend must do, as tests: subclass :class:`BackendConformance` under a name that pytest collects.

::

    class TestMine(BackendConformance):
        def make_backend(self, clock, place, signer=None):
            return MyBackend(str(place / "queue"), clock=clock, signer=signer)

        def damage(self, backend, id):
            ...  # alter a byte of what is stored

The docstring of each test is a sentence of the contract. Two kinds of backend are let off at the door, by their
capabilities: one without feeds from what is about handing out and running, one whose tasks no other process sees from
what is about several processes.

Of unspool's own, ``memory`` and ``spool`` pass it in ``tests/conformance``; ``uwsgi`` in ``tests/uwsgi``, where pytest
runs it within a mule of a real uWSGI, given the directory's feed. What only uWSGI can do, call the handler, is covered
there end to end: the same table of verdicts for each of uWSGI's modes and for ``unspool run``.
"""

from .claims import ClaimTests
from .control import ControlTests
from .feeds import FeedTests
from .harness import Ground, Queue
from .history import HistoryTests
from .listing import ListingTests
from .moving import MovingTests
from .sending import SendingTests
from .several import SeveralTests
from .signing import SigningTests
from .verdicts import VerdictTests

__all__ = ["BackendConformance", "Ground", "Queue"]


class BackendConformance(
    SendingTests,
    FeedTests,
    ClaimTests,
    ListingTests,
    ControlTests,
    HistoryTests,
    SeveralTests,
    MovingTests,
    SigningTests,
    VerdictTests,
):
    """The whole suite. What to supply is in :class:`Ground`."""
