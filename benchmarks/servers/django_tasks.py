"""The tasks of ``app_django``, in a separate module, because Django must be set up first."""

from django.tasks import task

from benchmarks import witness


@task
def noop(number: int) -> bool:
    """Only count the run."""
    witness.mark()
    return True


@task
def stamp(index: int, called: int) -> bool:
    """Record the time since the call."""
    witness.stamp(index, called)
    return True
