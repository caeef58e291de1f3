"""The kinds of tasks in a soak; each is a function of :mod:`tests.soak.app`."""

__all__ = ["ATTEMPTS", "CHILDREN", "DESIGNED", "LIMITS", "SHARES"]

SHARES = {
    "ok": 60, "again": 8, "slow": 2, "crash": 1, "poison": 0.3, "hopeless": 2, "limit": 1.5, "late": 1.5,
    "stuck": 0.3, "coroutine": 10, "chain": 4, "mess": 1, "children": 2,
}  # fmt: skip
"""The relative frequency of each kind."""

LIMITS = {"limit": 0.3, "late": 0.3, "stuck": 0.5}
"""The time limits of the kinds, in seconds."""

DESIGNED = {
    "again": {"ValueError"}, "hopeless": {"ValueError"}, "limit": {"TaskTimeout"}, "stuck": {"TaskTimeout"},
    "late": {"CancelledError", "TaskTimeout"}, "chain": {"ConnectionError"},
}  # fmt: skip
"""The exceptions with which runs of each kind end on purpose."""

ATTEMPTS = {"hopeless": 2}
"""How often a task of a kind that always fails may fail until it is set aside."""

CHILDREN = 1 << 32
"""The first number in the keys of tasks that tasks send."""
