"""The tasks as uWSGI's spooler runs them; run as a mule, their caller. Can be imported inside uWSGI only."""

import uwsgi

# uwsgidecorators only asks whether the option is there; the caller that fills a directory has "spooler-external".
uwsgi.opt.setdefault("spooler", b"")

from uwsgidecorators import spool  # noqa: E402  it looks at the option

from benchmarks import caller, witness  # noqa: E402


@spool(pass_arguments=True)
def noop(number: int) -> None:
    """Does nothing but be counted."""
    witness.mark()


@spool(pass_arguments=True)
def stamp(index: int, called: int) -> None:
    """Notes how long ago it was called."""
    witness.stamp(index, called)


if __name__ == "__main__":
    caller.perform(noop, stamp)
    uwsgi.mule_get_msg()  # a mule that ends is started again, and would send all over again
