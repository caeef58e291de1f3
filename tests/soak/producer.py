"""Sends tasks until it is killed, and says so only when the call has returned: ``python -m tests.soak.producer NAME
SEED PAUSE``.
"""

import os
import random
import sys
import time
from datetime import timedelta

from tests.soak import app
from tests.soak.oracle import append
from unspool import Spooler
from unspool.errors import SpoolerUnusable


def main() -> None:
    name, seed, pause = sys.argv[1], sys.argv[2], float(sys.argv[3])
    source = random.Random(f"{seed} {name}")
    serial = 0
    while True:
        keys = []
        for _ in range(10 if source.random() < 0.1 else 1):
            serial += 1
            (kind,) = source.choices(list(app.KINDS), weights=list(app.KINDS.values()))
            keys.append((f"{name}-{serial}:{kind}", kind))
        priority = source.choice([None, None, None, 1, 7])
        postpone = timedelta(seconds=source.random() * 4) if source.random() < 0.2 else None
        try:
            messages = [
                getattr(app, kind).using(priority=priority, postpone=postpone).message(key) for key, kind in keys
            ]
            Spooler.send_many(messages)
        except SpoolerUnusable as error:
            append(app.LOG, "refused", error.errno)
            time.sleep(0.2)
        else:
            for key, kind in keys:
                append(app.LOG, "ack", key, kind)
        if os.getppid() == 1:
            break
        time.sleep(pause * source.random() * 2)


if __name__ == "__main__":
    main()
