"""Several processes on one queue: they see the same tasks, and never run a task at the same time."""

import os
import signal

import pytest

from ... import inspection
from ...backends.base import Backend
from ...backends.change import Remove, RunNow
from ...errors import TaskBusy
from ...message import Ack, Record, Refusal, RefusalKind, Retry, State
from ..exchange import claim_one, settle_one
from .harness import BackendTests, Queue

__all__ = ["SeveralTests"]


class SeveralTests(BackendTests):
    """A second backend object on the same queue, as in another process."""

    def test_tasks_are_shared(self, queue: Queue, other: Backend) -> None:
        """A task that one process sends can be found, run and ended by another."""
        id = queue.send("task", priority=1)
        entry = inspection.find(other, id)
        assert entry == inspection.find(queue.backend, id)
        (ticket,) = queue.take()
        claim = claim_one(other, ticket.ref)
        assert not isinstance(claim, Refusal)
        assert queue.state(id) is State.RUNNING
        settle_one(other, claim, Ack())
        assert queue.state(id) is None

    def test_a_claim_excludes_the_others(self, queue: Queue, other: Backend) -> None:
        """A task that one process runs cannot be claimed, retried or removed by another."""
        id = queue.send("task")
        claim = queue.begin()
        refusal = claim_one(other, claim.ref)
        assert isinstance(refusal, Refusal)
        assert refusal.kind is RefusalKind.BUSY
        with pytest.raises(TaskBusy):
            other.change(id, RunNow())
        with pytest.raises(TaskBusy):
            other.change(id, Remove())

    def test_a_busy_task_is_handed_out_after_its_release(self, queue: Queue, other: Backend) -> None:
        """A feed that found a task busy hands it out once the other process has released it, and not before."""
        queue.send("task")
        (ticket,) = queue.take()
        claim = claim_one(other, ticket.ref)
        assert not isinstance(claim, Refusal)
        queue.feed.recheck([ticket.ref])
        assert queue.gives_nothing()
        settle_one(other, claim, Retry(queue.clock()))
        assert queue.order(1) == ["task"]

    def test_recheck_leaves_others_alone(self, queue: Queue, other: Backend) -> None:
        """After a worker's death, a task that another process runs is not handed out before its run ends."""
        queue.send("lost")
        queue.send("running")
        lost, running = queue.take(2)
        claim = claim_one(other, running.ref)
        assert not isinstance(claim, Refusal)
        queue.crash(lost.ref)
        assert queue.order(1) == ["lost"]
        assert queue.gives_nothing()
        settle_one(other, claim, Ack())
        assert queue.gives_nothing()

    def test_counts_survive(self, queue: Queue, other: Backend) -> None:
        """Attempts, crashes and due times belong to the queue, not to the process."""
        id = queue.send("task")
        queue.crash(queue.take()[0].ref)
        queue.end(queue.begin(), Retry(queue.clock() + 5))
        entry = inspection.find(other, id)
        assert entry == inspection.find(queue.backend, id)
        queue.clock.advance(5)
        (ticket,) = queue.take()
        claim = claim_one(other, ticket.ref)
        assert not isinstance(claim, Refusal)
        assert (claim.attempts, claim.crashes) == (3, 1)

    def test_switches_are_shared(self, queue: Queue, other: Backend) -> None:
        """A pause, its end and a period reach the feeds of other processes."""
        other.switch(paused=True)
        assert queue.backend.switch().paused
        assert queue.look().paused
        other.switch(paused=False)
        assert not queue.look().paused
        other.switch(period=3.5)
        assert queue.backend.switch().period == 3.5

    def test_a_shorter_period_applies_at_once(self, queue: Queue, other: Backend) -> None:
        """A running feed applies a new period at once, not after the old one has passed."""
        queue.backend.switch(period=10_000)
        queue.look()
        other.switch(period=20)
        following = queue.look().next_due
        assert following is not None
        assert following <= queue.clock() + 20

    def test_history_is_shared(self, queue: Queue, other: Backend) -> None:
        """A record written by one process is read by the others."""
        record = Record("id", "task", "processed", 1, queue.clock(), 0.1, 42)
        queue.backend.record([record])
        assert inspection.runs(other) == [record]

    def test_registration(self, queue: Queue, other: Backend) -> None:
        """A registration shows a live process and the task that it runs, until the process closes it."""
        queue.send("task")
        registration = queue.backend.register("worker")
        registration.running("", 0.0)
        (ticket,) = queue.take()
        registration.running(ticket.ref, queue.clock())
        claim = claim_one(queue.backend, ticket.ref)
        assert not isinstance(claim, Refusal)
        (info,) = other.live()
        assert (info.role, info.pid, info.ref, info.host) == ("worker", os.getpid(), ticket.ref, "")
        assert info.since == pytest.approx(queue.clock(), abs=0.001)
        assert registration.ref() == ticket.ref
        queue.end(claim, Ack())
        registration.running("", 0.0)
        (info,) = other.live()
        assert info.ref == ""
        registration.close()
        assert other.live() == []

    def test_registration_of_a_child(self, queue: Queue, other: Backend) -> None:
        """A registration that a child uses ends with the child, and still shows which task the child was running."""
        queue.send("task")
        (ticket,) = queue.take()
        registration = queue.backend.register("worker")
        hear, tell = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                registration.running(ticket.ref, 1.0)
                claim_one(queue.backend, ticket.ref)
                os.write(tell, b".")
                signal.pause()
            finally:
                os._exit(1)
        registration.detach()
        try:
            assert os.read(hear, 1) == b"."
            assert [(info.pid, info.ref) for info in other.live()] == [(pid, ticket.ref)]
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            os.close(hear)
            os.close(tell)
        self.sync(queue.backend)
        assert other.live() == []
        assert registration.ref() == ticket.ref
        registration.close()
