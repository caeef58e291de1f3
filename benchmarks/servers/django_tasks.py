"""The tasks of ``app_django``: in a module of their own, for Django must be set up first."""

from django.tasks import task

from benchmarks import witness


@task
def noop(number: int) -> bool:
    """Does nothing but be counted."""
    witness.mark()
    return True


@task
def stamp(index: int, called: int) -> bool:
    """Notes how long ago it was called."""
    witness.stamp(index, called)
    return True
