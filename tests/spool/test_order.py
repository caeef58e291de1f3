"""The order of execution, with more tasks than are read at a time or held at once."""

import contextlib
import random
import time
from pathlib import Path

from unspool import codec, raw_message
from unspool.backends.base import Feed
from unspool.backends.spool import SpoolBackend
from unspool.backends.spool.directory import Directory
from unspool.backends.spool.feed import SpoolFeed
from unspool.backends.spool.lookahead import Lookahead
from unspool.backends.spool.switches import SpoolSwitches
from unspool.testing.exchange import sealed


def drain(feed: Feed, root: Path) -> list[str]:
    """Return all refs in the order in which a supervisor would hand them out, a few at a time, while the feed still
    reads.
    """
    found: list[str] = []
    while True:
        more = feed.refresh().more
        taken = feed.take(100)
        for ticket in taken:
            with contextlib.suppress(FileNotFoundError):  # a reading under way may still see what has just been done
                (root / ticket.ref).unlink()
                found.append(ticket.ref)
            feed.done(ticket.ref, None)
        if not more and not taken:
            return found


def test_the_order_holds_over_a_large_directory(tmp_path: Path) -> None:
    """10,000 tasks of several priorities, with a lookahead of 800, are handed out by priority and time, as if all were
    known.
    """
    seed = random.randrange(1 << 32)
    print("seed", seed)
    source = random.Random(seed)
    backend = SpoolBackend(str(tmp_path / "mail"), durable=False)
    priorities = [source.choice([None, None, None, 1, 7]) for _ in range(10_000)]
    ids = backend.send([sealed(codec.encode(raw_message("x", priority=priority))) for priority in priorities])
    refs = [id.removeprefix(f"{backend.name}/") for id in ids]
    expected = [ref for _, _, ref in sorted((10**9 if p is None else p, n, refs[n]) for n, p in enumerate(priorities))]
    directory = Directory(backend.name)
    feed = SpoolFeed(directory, SpoolSwitches(directory, 300.0), time.time, backend.wakefile, Lookahead(800))
    try:
        assert drain(feed, tmp_path / "mail") == expected
    finally:
        feed.close()
