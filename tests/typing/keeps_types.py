"""What a type checker must know of a decorated function. Checked by mypy, never run."""

from collections.abc import Coroutine
from datetime import timedelta
from typing import Any, assert_type

from unspool import FunctionTask, Message, Spooler, SpoolerTask, TaskResult, configure, raw_message
from unspool.backends.base import Backend
from unspool.testing import MemoryBackend

mail = Spooler("/srv/mail")


@Spooler.task
def bare(a: int, b: str = "x", *, c: bool = False) -> tuple[int, str]:
    return a, b


@Spooler.task()
def called(a: int) -> bool:
    return a > 0


@Spooler.task(priority=3, postpone=timedelta(seconds=1), max_attempts=5, retry_delay=1.5, timeout=None)
def with_options(*parts: str, **more: int) -> None: ...


@mail.task
def of_an_instance(a: int) -> list[int]:
    return [a]


@mail.task(serializer="json", release_skipped=True)
def of_an_instance_with_options(a: dict[str, int]) -> TaskResult | None:
    return None


@Spooler.task
async def asynchronous(a: int) -> str:
    return str(a)


# A call spools and returns the id, whatever the function returns.
assert_type(bare(1), str)
assert_type(bare(1, "y", c=True), str)
assert_type(bare.enqueue(a=1), str)
assert_type(called(1), str)
assert_type(with_options("a", "b", n=1), str)
assert_type(of_an_instance(1), str)
assert_type(of_an_instance_with_options({"a": 1}), str)
assert_type(asynchronous(1), str)

# A local call has the function's own result.
assert_type(bare.call_local(1, b="y"), tuple[int, str])
assert_type(called.call_local(1), bool)
assert_type(of_an_instance.call_local(1), list[int])
assert_type(of_an_instance_with_options.call_local({}), TaskResult | None)
coroutine = assert_type(asynchronous.call_local(1), Coroutine[Any, Any, str])

# Another spelling of the same task keeps both.
assert_type(bare.using(priority=3)(1, c=True), str)
assert_type(bare.using(spooler=mail).using(priority=None).call_local(1), tuple[int, str])
assert_type(bare.using(postpone=timedelta(hours=1)).enqueue(1), str)

assert_type(bare.message(1), Message)
assert_type(bare.enqueue_many([(1,), {"a": 2}, 3]), list[str])
assert_type(Spooler.send_many([bare.message(1), raw_message("m")]), list[str])
assert_type(Spooler.send_message_raw("m", spooler=mail, payload=object()), str)
assert_type(Spooler.get_by_basename("mail"), Spooler | None)
assert_type(Spooler.get_spoolers(), list[Spooler])
configure(
    spoolers=["mail", mail.name], durability="relaxed", period=timedelta(minutes=5), history_age="7d", forward=None
)

# A backend stands where a name does.
backend: Backend = MemoryBackend()
assert_type(Spooler(backend=backend), Spooler)
assert_type(Spooler.send_message_raw("m", spooler=backend), str)
assert_type(bare.using(spooler=MemoryBackend("mail"))(1), str)
configure(spoolers=[backend, "mail"])
configure(spoolers=backend)
Spooler()  # type: ignore[call-overload]
Spooler("mail", backend=backend)  # type: ignore[call-overload]
Spooler(backend=3)  # type: ignore[call-overload]


def sends(task: FunctionTask[[int], bool]) -> str:
    """A function that takes a task of a given signature."""
    return task(1)


assert_type(sends(called), str)


class Mail(SpoolerTask):
    """A handler narrows what it returns."""

    type_id = "mail"

    def process(self) -> TaskResult | bool | None:
        return self.mark_rescheduled(exception=ValueError(self.message))
