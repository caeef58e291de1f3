"""``unspool run`` under a clock that the soak can set: ``python -m tests.soak.clocked SPOOLER CLOCK``."""

import logging
import mmap
import os
import struct
import sys
import time

from unspool import registry
from unspool.backends.spool import SpoolBackend
from unspool.runtime.limits import Limits
from unspool.runtime.supervisor import Options, Supervisor


def main() -> None:
    spooler, clock_file = sys.argv[1:]
    fd = os.open(clock_file, os.O_RDWR)
    ahead = mmap.mmap(fd, 8)
    os.close(fd)
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)

    def clock() -> float:
        return time.time() + float(struct.unpack("d", ahead[:8])[0])

    backend = SpoolBackend(spooler, period=20.0, clock=clock)
    options = Options(processes=2, limits=Limits(max_tasks=2000))
    Supervisor("tests.soak.app", [backend], options, seal=registry.seal, clock=clock).run()


if __name__ == "__main__":
    main()
