"""Idle workers are woken for waiting tasks."""

from .conftest import HOLDING, Place

WORKERS = 4


def test_idle_workers_begin_a_batch_together(place: Place) -> None:
    """Each worker begins a task of a batch that arrives at once. None waits for the end of another one."""
    place.write_app(HOLDING)
    running = place.run("--processes", str(WORKERS))
    for turn in range(3):
        names = [f"{turn}-{number}" for number in range(WORKERS)]
        for name in names:
            place.gate(name)
        place.call(f"held.enqueue_many([(name,) for name in {names!r}])")
        for name in names:
            place.wait_for_line(f"begun {name}")
        for name in names:
            place.open_gate(name)
        place.call("noted('over')")
        place.wait_for_line("over", times=turn + 1)
    assert running.stop() == 0
