"""Run a target under atheris for a time: ``python -m fuzz spool_file --seconds 60``.

What it learns is kept in ``.fuzz/<target>`` for later runs. An input that breaks the target is written to
``.fuzz/<target>-crash-…``. Put it into ``tests/fuzz/finds``, and it is a test from then on.
"""

import argparse
import os
import sys
import tempfile

import atheris

with atheris.instrument_imports(include=["unspool", "fuzz"]):
    from fuzz import targets
    from unspool import codec


def main() -> None:
    """Run the fuzzer in a child, because it ends its process, and clean up after it."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("target", choices=sorted(targets.TARGETS))
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0, help="0: another one each time")
    chosen = parser.parse_args()
    corpus = os.path.abspath(f".fuzz/{chosen.target}")
    os.makedirs(corpus, exist_ok=True)
    for number, seed in enumerate(targets.SEEDS[chosen.target]):
        with open(f"{corpus}/seed-{number}", "wb") as file:
            file.write(seed)
    options = [
        f"-max_total_time={chosen.seconds}",
        f"-seed={chosen.seed}",
        f"-artifact_prefix={corpus}-",
        "-max_len=8192",
        "-timeout=20",
        "-rss_limit_mb=2048",
        "-print_final_stats=1",
        "-verbosity=0",
    ]
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as place:
        child = os.fork()
        if child == 0:
            codec.SERIALIZERS["pickle"] = targets.SAFE_PICKLE
            targets.start(os.path.realpath(place))
            atheris.Setup([sys.argv[0], *options, corpus], targets.TARGETS[chosen.target])
            atheris.Fuzz()
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    sys.exit(status)


main()
