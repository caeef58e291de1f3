"""The tasks as uwsgiconf runs them in uWSGI's spooler; run as a mule, their caller."""

from uwsgiconf.runtime.spooler import Spooler

import uwsgi
from benchmarks import caller, witness


@Spooler.task()
def noop(number: int) -> bool:
    """Does nothing but be counted."""
    witness.mark()
    return True


@Spooler.task()
def stamp(index: int, called: int) -> bool:
    """Notes how long ago it was called."""
    witness.stamp(index, called)
    return True


if __name__ == "__main__":
    caller.perform(noop, stamp)
    uwsgi.mule_get_msg()  # a mule that ends is started again, and would send all over again
