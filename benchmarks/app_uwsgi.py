"""The tasks for uWSGI's spooler. As a mule, this module is their caller. It can be imported only inside uWSGI."""

import uwsgi

# uwsgidecorators only asks whether the option is there; the caller that fills a directory has "spooler-external".
uwsgi.opt.setdefault("spooler", b"")

from uwsgidecorators import spool  # noqa: E402  it looks at the option

from benchmarks import caller, witness  # noqa: E402


@spool(pass_arguments=True)
def noop(number: int) -> None:
    """Only count the run."""
    witness.mark()


@spool(pass_arguments=True)
def stamp(index: int, called: int) -> None:
    """Record the time since the call."""
    witness.stamp(index, called)


if __name__ == "__main__":
    caller.perform(noop, stamp)
    uwsgi.mule_get_msg()  # a mule that ends is started again, and would send all over again
