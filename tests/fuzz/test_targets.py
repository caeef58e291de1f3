"""The targets of the fuzzers, with random bytes and with all inputs that have broken them."""

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from fuzz import targets
from unspool import codec

FINDS = sorted((Path(__file__).parent / "finds").iterdir())


@pytest.fixture(autouse=True)
def as_it_was(tmp_path: Path) -> Iterator[None]:
    """Restore the working directory and the loader of pickles, which the targets replace."""
    place, ours = os.getcwd(), dict(codec.SERIALIZERS)
    codec.SERIALIZERS["pickle"] = targets.SAFE_PICKLE
    targets.start(str(tmp_path))
    yield
    codec.SERIALIZERS.update(ours)
    os.chdir(place)


@pytest.mark.parametrize("target", sorted(targets.TARGETS))
def test_random_changes_to_the_seeds(target: str) -> None:
    """A thousand times: bytes replaced, removed, added, repeated, and two seeds crossed."""
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    generator = random.Random(seed)
    seeds = targets.SEEDS[target]
    for _ in range(1000):
        data = bytearray(generator.choice(seeds))
        for _ in range(generator.randrange(1, 6)):
            at = generator.randrange(len(data) + 1)
            match generator.randrange(4):
                case 0 if at < len(data):
                    data[at] = generator.randrange(256)
                case 1:
                    del data[at : at + generator.randrange(9)]
                case 2:
                    data[at:at] = generator.randbytes(generator.randrange(9))
                case _:
                    other = generator.choice(seeds)
                    data[at:] = other[generator.randrange(len(other)) :]
        try:
            targets.TARGETS[target](bytes(data))
        except BaseException:
            print(f"input {bytes(data)!r}")
            raise


@pytest.mark.parametrize("find", FINDS, ids=lambda path: path.name)
def test_what_once_broke_a_target(find: Path) -> None:
    """Does so no more. The file's name says which target, and what was wrong."""
    targets.TARGETS[find.name.partition("-")[0]](find.read_bytes())
