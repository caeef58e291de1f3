"""Send tasks from two threads until killed, and log each one only after its call has returned.

``python -m tests.soak.producer FIRST SEED PAUSE``; FIRST is the number of its first task, which is unique to it.
"""

import itertools
import os
import random
import sys
import threading
import time
from datetime import timedelta

from tests.soak import app
from tests.soak.kinds import SHARES
from unspool import Message

_PRIORITIES = [None, None, None, 1, 5, 7]
_PAD = 300_000  # bytes of a large payload


def main() -> None:
    first, seed, pause = int(sys.argv[1]), sys.argv[2], float(sys.argv[3])
    numbers = itertools.count(first)
    for name in ("a", "b"):
        source = random.Random(f"{seed} {first} {name}")
        threading.Thread(target=_send, args=(source, numbers, pause), daemon=True).start()
    while os.getppid() != 1:
        time.sleep(0.5)


def _send(source: random.Random, numbers: "itertools.count[int]", pause: float) -> None:
    while True:
        size = source.randint(2, 40) if source.random() < 0.05 else 1
        kinds = source.choices(list(SHARES), weights=list(SHARES.values()), k=size)
        keys = [f"k{next(numbers)}:{kind}" for kind in kinds]
        try:
            app.send([_message(source, key, kind) for key, kind in zip(keys, kinds, strict=True)], keys)
        except ConnectionError:
            time.sleep(0.2)
        time.sleep(pause * size * source.random() * 2)


def _message(source: random.Random, key: str, kind: str) -> Message:
    task = getattr(app, kind).using(
        priority=source.choice(_PRIORITIES),
        postpone=timedelta(seconds=source.random() * 4) if source.random() < 0.2 else None,
        serializer=source.choice(["pickle", "json"]),
    )
    message: Message = task.message(key, "x" * _PAD if source.random() < 0.005 else "")
    return message


if __name__ == "__main__":
    main()
