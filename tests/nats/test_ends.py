"""The end of a run is settled within a moment, even if the next run takes long."""

from pathlib import Path

from tests.runtime.conftest import HOLDING, Place
from unspool.backends.nats import NatsBackend
from unspool.message import State

from .conftest import until


def test_a_coroutine_that_ends_beside_a_long_run(served: Place, backend: NatsBackend) -> None:
    """A coroutine that ends leaves the queue while a function runs in the same worker."""
    served.write_app(HOLDING)
    served.gate("short")
    served.gate("long")
    running = served.run()
    served.call("coroutine('short')")
    served.wait_for_line("begun short")
    served.call("held('long')")
    served.wait_for_line("begun long")
    served.open_gate("short")
    until(lambda: backend.counts().tasks[State.RUNNING] == 1)
    served.open_gate("long")
    assert running.stop() == 0


def test_a_short_task_before_a_long_one_of_another_spooler(served: Place, backend: NatsBackend, tmp_path: Path) -> None:
    """A run is settled even if the next claim of its worker is on another spooler."""
    served.write_app(HOLDING)
    served.gate("long")
    side = str(tmp_path / "side")
    served.env["UNSPOOL_SPOOLERS"] += f",{side}"
    served.call(f"noted('one'), held.using(spooler={side!r})('long')")
    running = served.run()
    served.wait_for_line("begun long")
    until(lambda: sum(backend.counts().tasks.values()) == 0)
    served.open_gate("long")
    assert running.stop() == 0
