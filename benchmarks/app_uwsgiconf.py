"""The tasks for uwsgiconf in uWSGI's spooler. As a mule, this module is their caller."""

from uwsgiconf.runtime.spooler import Spooler

import uwsgi
from benchmarks import caller, witness


@Spooler.task()
def noop(number: int) -> bool:
    """Only count the run."""
    witness.mark()
    return True


@Spooler.task()
def stamp(index: int, called: int) -> bool:
    """Record the time since the call."""
    witness.stamp(index, called)
    return True


if __name__ == "__main__":
    caller.perform(noop, stamp)
    uwsgi.mule_get_msg()  # a mule that ends is started again, and would send all over again
