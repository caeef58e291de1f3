"""The key-value table of a spool directory behaves like the table in memory.

Hypothesis generates commands of two processes. Both tables execute them, and after each command, everything that can be
seen of them is compared. Versions are compared by the order in which they were returned.
"""

import shutil
import tempfile

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from unspool.backends.keyvalue import EPHEMERAL, FOREVER, Item, Life, Until
from unspool.backends.memory import MemoryBackend
from unspool.backends.spool import SpoolBackend
from unspool.testing import FakeClock

from ..spool.sweep import sweep

KEYS = st.sampled_from(["a", "a/b", "a.b", "a/b/c", "b", "..", "A"])
PREFIXES = st.sampled_from(["", "a", "a/", "a/b", "b", "."])
EXPECTED = st.one_of(st.none(), st.just(0), st.integers(0, 30))
LIVES = st.one_of(st.just(FOREVER), st.just(EPHEMERAL), st.integers(-1, 5))


class TableLikeMemory(RuleBasedStateMachine):
    """Two backends on one directory, and the model in memory. Only the first puts ephemeral items."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.memory = MemoryBackend(clock=self.clock)
        self.place = tempfile.mkdtemp()
        self.backends = [SpoolBackend(f"{self.place}/mail", durable=False, clock=self.clock) for _ in range(2)]
        self.versions: list[tuple[int, int]] = [(0, 0)]

    def teardown(self) -> None:
        for backend in self.backends:
            backend.close()
        shutil.rmtree(self.place)

    def expected(self, number: int | None) -> tuple[int | None, int | None]:
        """Return one of the versions so far, of the directory and of the model."""
        return (None, None) if number is None else self.versions[number % len(self.versions)]

    def same(self, found: Item | None, model: Item | None) -> bool:
        if found is None or model is None:
            return found is model
        return found.value == model.value and (found.version, model.version) in self.versions

    @rule(which=st.integers(0, 1), key=KEYS, value=st.binary(max_size=5), expect=EXPECTED, life=LIVES)
    def put(self, which: int, key: str, value: bytes, expect: int | None, life: Life | int) -> None:
        lasting = Until(self.clock() + life) if isinstance(life, int) else life
        if lasting == EPHEMERAL:
            which = 0
        here, there = self.expected(expect)
        version = self.backends[which].kv.put(key, value, expect=here, life=lasting)
        model = self.memory.kv.put(key, value, expect=there, life=lasting)
        assert (version is None) == (model is None)
        if version is not None and model is not None:
            assert version not in [known for known, _ in self.versions]
            self.versions.append((version, model))

    @rule(which=st.integers(0, 1), key=KEYS, expect=EXPECTED)
    def drop(self, which: int, key: str, expect: int | None) -> None:
        here, there = self.expected(expect)
        assert self.backends[which].kv.drop(key, expect=here) == self.memory.kv.drop(key, expect=there)

    @rule(which=st.integers(0, 1), prefix=PREFIXES, after=PREFIXES, limit=st.integers(1, 4))
    def scan(self, which: int, prefix: str, after: str, limit: int) -> None:
        found = self.backends[which].kv.scan(prefix, after, limit)
        model = self.memory.kv.scan(prefix, after, limit)
        assert [key for key, _ in found] == [key for key, _ in model]
        assert all(self.same(one, other) for (_, one), (_, other) in zip(found, model, strict=True))

    @rule(key=KEYS, known=EXPECTED)
    def wait(self, key: str, known: int | None) -> None:
        here, there = self.expected(known or 0)
        assert self.backends[1].kv.wait({key: here or 0}, 0) == self.memory.kv.wait({key: there or 0}, 0)

    @rule(seconds=st.integers(1, 3))
    def advance(self, seconds: int) -> None:
        self.clock.advance(seconds)

    @rule()
    def close(self) -> None:
        self.backends[0].close()
        self.memory.close()

    @rule()
    def sweep_directory(self) -> None:
        sweep(self.backends[1].name)

    @invariant()
    def the_same_items(self) -> None:
        keys = ["a", "a/b", "a.b", "a/b/c", "b", "..", "A"]
        model = self.memory.kv.get(keys)
        for backend in self.backends:
            assert all(map(self.same, backend.kv.get(keys), model))


TableLikeMemory.TestCase.settings = settings(
    max_examples=40,
    stateful_step_count=40,
    deadline=None,
    derandomize=False,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)


class TestTableLikeMemory(TableLikeMemory.TestCase):
    """No sequence of commands distinguishes the two."""
