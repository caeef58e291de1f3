"""The tasks of ``app_unspool`` inside uWSGI. As a mule, this module is their caller."""

import uwsgi
from benchmarks import caller
from benchmarks.app_unspool import noop, stamp

if __name__ == "__main__":
    caller.perform(noop, stamp)
    uwsgi.mule_get_msg()  # a mule that ends is started again, and would send all over again
