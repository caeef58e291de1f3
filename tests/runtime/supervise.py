"""Run a supervisor in this process, and write what it logs as JSON lines. The tests start this program."""

import argparse
import json
import logging
import os
import sys

from unspool import registry, settings
from unspool.errors import UnspoolError
from unspool.runtime import pool
from unspool.runtime.limits import Limits
from unspool.runtime.supervisor import Options, Supervisor


class JsonLines(logging.Handler):
    """Write every record to standard error. Standard output belongs to the tasks."""

    def emit(self, record: logging.LogRecord) -> None:
        fields = {"message": record.getMessage(), "level": record.levelname, **getattr(record, "unspool", {})}
        os.write(2, json.dumps(fields).encode() + b"\n")  # whole, for the recorder writes there too


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("app")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--burst", action="store_true")
    parser.add_argument("--reload", action="store_true")
    parser.add_argument("--max-tasks", type=int)
    parser.add_argument("--max-memory", type=float)
    parser.add_argument("--concurrency", type=int, default=100)
    parser.add_argument("--ending", type=float, default=Limits().ending)
    parser.add_argument("--slow-import", type=float, default=pool.SLOW_IMPORT)
    chosen = parser.parse_args()
    pool.SLOW_IMPORT = chosen.slow_import
    logging.getLogger("unspool").addHandler(JsonLines())
    logging.getLogger("unspool").setLevel(logging.INFO)
    limits = Limits(chosen.max_tasks, chosen.max_memory, chosen.concurrency, chosen.ending)
    options = Options(chosen.processes, chosen.burst, chosen.reload, limits)
    backends = [registry.backend(name) for name in settings.spooler_names()]
    try:
        Supervisor(chosen.app, backends, options, seal=registry.seal).run()
    except UnspoolError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
