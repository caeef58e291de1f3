"""The end of a run is noted within a moment, however long the next run takes."""

import contextlib
import threading
from pathlib import Path

import pytest

from unspool.address import Address
from unspool.message import Ack, Claim, State, Verdict

from ..runtime.conftest import HOLDING, PATIENCE, Place
from .conftest import look_at, url_of, wait_until
from .test_ahead import send
from .test_sessions import end_session


@pytest.mark.parametrize("beside", ["held", "coroutine"])
def test_a_coroutine_that_ends_beside_a_long_run(place: Place, address: Address, beside: str) -> None:
    """It leaves the queue while a plain task runs, and while another coroutine does and the worker waits."""
    place.write_app(HOLDING)
    place.gate("short")
    place.gate("long")
    running = place.run()
    place.call("coroutine('short')")
    place.wait_for_line("begun short")
    place.call(f"{beside}('long')")
    place.wait_for_line("begun long")
    place.open_gate("short")
    backend = look_at(address)
    wait_until(lambda: backend.counts()[State.RUNNING] == 1)
    assert [run.verdict for run in backend.history()] == [Verdict.PROCESSED]
    place.open_gate("long")
    assert running.stop() == 0
    assert sum(backend.counts().values()) == 0


def test_a_short_task_before_a_long_one_of_another_spooler(place: Place, address: Address, tmp_path: Path) -> None:
    """The claim that would tell its end is a claim from elsewhere."""
    place.write_app(HOLDING)
    place.gate("long")
    place.env["UNSPOOL_SPOOLERS"] = f"{url_of(address)},{tmp_path / 'side'}"
    place.call(f"noted('one'), held.using(spooler={str(tmp_path / 'side')!r})('long')")
    running = place.run()
    place.wait_for_line("begun long")
    backend = look_at(address)
    wait_until(lambda: sum(backend.counts().values()) == 0)
    assert [run.verdict for run in backend.history()] == [Verdict.PROCESSED]
    place.open_gate("long")
    assert running.stop() == 0


def test_another_thread_that_settles_is_not_kept(address: Address) -> None:
    """The session is lost, so the end has to be told in a new one; the thread does not wait for that."""
    with contextlib.closing(look_at(address)) as backend:
        claims = [backend.claim(ref) for ref in send(backend, 3)]
        with backend._connector.lend() as locker, locker.transaction():
            locker.execute("LOCK TABLE unspool.task IN ACCESS EXCLUSIVE MODE")
            end_session(backend)
            for claim in claims[:2]:
                assert isinstance(claim, Claim)
                thread = threading.Thread(target=backend.settle, args=(claim, Ack()))
                thread.start()
                thread.join(PATIENCE)
                assert not thread.is_alive()
        wait_until(lambda: backend.counts()[State.RUNNING] == 1)
