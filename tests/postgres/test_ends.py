"""The end of a run is settled within a moment, even if the next run takes long."""

from pathlib import Path

import pytest

from unspool import inspection
from unspool.address import Address
from unspool.message import State, Verdict

from ..runtime.conftest import HOLDING, Place
from .conftest import look_at, url_of, wait_until


@pytest.mark.parametrize("beside", ["held", "coroutine"])
def test_a_coroutine_that_ends_beside_a_long_run(place: Place, address: Address, beside: str) -> None:
    """A coroutine that ends leaves the queue at once, while a function or another coroutine runs in its worker."""
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
    wait_until(lambda: backend.counts().tasks[State.RUNNING] == 1)
    assert [run.verdict for run in inspection.runs(backend)] == [Verdict.PROCESSED]
    place.open_gate("long")
    assert running.stop() == 0
    assert sum(backend.counts().tasks.values()) == 0


def test_a_short_task_before_a_long_one_of_another_spooler(place: Place, address: Address, tmp_path: Path) -> None:
    """A run is settled even if the next claim of its worker is on another spooler."""
    place.write_app(HOLDING)
    place.gate("long")
    place.env["UNSPOOL_SPOOLERS"] = f"{url_of(address)},{tmp_path / 'side'}"
    place.call(f"noted('one'), held.using(spooler={str(tmp_path / 'side')!r})('long')")
    running = place.run()
    place.wait_for_line("begun long")
    backend = look_at(address)
    wait_until(lambda: sum(backend.counts().tasks.values()) == 0)
    assert [run.verdict for run in inspection.runs(backend)] == [Verdict.PROCESSED]
    place.open_gate("long")
    assert running.stop() == 0
