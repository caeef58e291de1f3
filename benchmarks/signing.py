"""The cost of a signature: ``python -m benchmarks.signing``. Microseconds per task, to build it and to parse it."""

import time

from unspool import codec, wire
from unspool.message import Message
from unspool.signing import Signer
from unspool.testing.exchange import sealed

KEYS = ["a" * 43, "b" * 43, "c" * 43]
ROUNDS, CALLS = 7, 5_000


def best(function: object, calls: int) -> float:
    """Return the microseconds of a call, in the fastest round."""
    assert callable(function)
    times = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        for _ in range(calls):
            function()
        times.append((time.perf_counter() - started) / calls * 1e6)
    return min(times)


def row(size: int) -> list[float]:
    """Return the figures for a payload of this size. The last column is for a task that the last of three keys has
    signed.
    """
    payload = {"func": "f", "arg": ("x" * size,), "kwg": {}}
    vars, body, *_ = sealed(codec.encode(Message("ucfg_fcall", payload, "shop:send_mail")))
    first, last, every = Signer(KEYS[:1], "mail"), Signer(KEYS[2:], "mail"), Signer(KEYS, "mail")
    plain, signed, old = (wire.dump(vars, body, signer) for signer in (None, first, last))
    calls = max(50, min(CALLS, 20_000_000 // size))
    return [
        best(lambda: wire.dump(vars, body, None), calls),
        best(lambda: wire.dump(vars, body, first), calls),
        best(lambda: wire.load(plain, None), calls),
        best(lambda: wire.load(signed, first), calls),
        best(lambda: wire.load(old, every), calls),
    ]


def main() -> None:
    """Print a row for each size: without a key, with one, and for a task that the last of three keys has signed."""
    print(f"{'payload':>12} {'seal':>8} {'signed':>8} {'open':>8} {'signed':>8} {'3rd key':>8}")
    for size in (100, 10_000, 1_000_000):
        print(f"{size:>10} B " + " ".join(f"{value:>8.1f}" for value in row(size)))


main()
