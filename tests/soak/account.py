"""The account of a soak: a table, and whether all promises were kept."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from rich.console import Console
from rich.table import Table

from .cast import Sample
from .oracle import Line
from .verdict import Verdict

__all__ = ["REFUSED", "failures", "show"]

_WARM, _LIFE = 30.0, 60.0  # seconds of warm-up of a supervisor, and seconds after that from which a slope is computed
REFUSED = "refused, and run or listed all the same"
_HELD = {
    "descriptors": "descriptors of a supervisor with its workers",
    "processes": "processes, the same",
    "memory": "megabytes, the same",
    "own_memory": "megabytes of the supervisor itself",
}


def failures(
    verdict: Verdict, lines: Iterable[Line], *, tracebacks: list[str], own_faults: list[str], drafts: int,
    orphans: list[int], held: list[str], refuses: bool,
) -> dict[str, list[str]]:  # fmt: skip
    """Return everything that must be empty.

    :param own_faults: what logs say about processes that were killed by a fault of their own.
    :param orphans: workers of killed supervisors that did not end.
    :param held: removed tasks that idle processes hold open.
    :param refuses: whether a send that raises has sent only the tasks that its error names. A server's answer may be
        lost.
    """
    said: dict[str, list[str]] = {word: [] for word in ("traceback", "odd", "hung", "gaveup", "survived")}
    for line in lines:
        if line.word in said:
            said[line.word].append(" ".join([f"{line.at:.3f}", *line.rest]))
    return {
        "nothing to judge": [] if verdict.acknowledged and verdict.ended else ["no task was sent and has ended"],
        "lost": verdict.lost,
        "two runs at once": verdict.at_once,
        "runs made again without a cause": verdict.unexplained,
        "runs beyond the attempts of a task": verdict.beyond,
        "waiting, and nobody runs it": verdict.waiting,
        "listed or counted, although ended": verdict.ghosts,
        REFUSED: verdict.refused_run if refuses else [],
        "tracebacks of the command line": said["traceback"],
        "tracebacks in logs": tracebacks,
        "odd statuses of the command line": said["odd"],
        "commands and stops that hung": said["hung"],
        "processes that ended by themselves": said["gaveup"],
        "processes that a fault of their own has killed": own_faults,
        "processes that outlived the stop of their supervisor": said["survived"],
        "drafts left behind": [str(drafts)] if drafts else [],
        "removed tasks that idle workers hold open": held,
        "workers of killed supervisors that did not end": [str(pid) for pid in orphans],
    }


def show(
    title: str, verdict: Verdict, failed: Mapping[str, Sequence[str]], samples: Sequence[Sample],
    reasons: Counter[str], counts: Mapping[str, Mapping[str, int]],
) -> None:  # fmt: skip
    """Print the account. ``counts`` has the number of times that each fault and operation was done."""
    table = Table("what", "how much", title=title)
    recoveries = sorted(verdict.recoveries)
    rows: dict[str, object] = {
        "tasks acknowledged": verdict.acknowledged,
        "ended": verdict.ended,
        "set aside": verdict.aside,
        "removed by operators": verdict.removed,
        **{what: len(these) for what, these in failed.items()},
        "sends refused": verdict.refused,
        "refused, and run or listed, the answer being lost": 0 if failed[REFUSED] else len(verdict.refused_run),
        "runs made again": verdict.causes.total(),
        **{f"  after: {cause}": number for cause, number in verdict.causes.most_common()},
        "two runs at once, the server having lost the first": verdict.at_once_cut_off,
        "processes killed in mid-task": len(recoveries),
        "recovery, median": f"{recoveries[len(recoveries) // 2] * 1000:.0f} ms" if recoveries else "",
        "recovery, longest": f"{recoveries[-1]:.2f} s" if recoveries else "",
    }
    slopes = _slopes(samples)
    for name, what in _HELD.items() if samples else ():
        most = f"at most {max(getattr(sample, name) for sample in samples):.0f}"
        rows[what] = f"{slopes[name]:+.2f} an hour, {most}" if name in slopes else most
    for kind, done in counts.items():
        rows[f"{kind}s"] = sum(done.values())
        rows |= {f"  {kind}: {what}": how_often for what, how_often in sorted(done.items())}
    rows |= {f"aside: {what}": how_often for what, how_often in sorted(reasons.items())}
    for what, how_much in rows.items():
        table.add_row(what, str(how_much))
    Console(width=150).print(table)
    for what, these in failed.items():
        for one in these[:20]:
            print(f"{what}: {one}")


def _slopes(samples: Iterable[Sample]) -> dict[str, float]:
    """Return the hourly growth of supervisors, from those that lived long enough, after their warm-up."""
    lives: dict[int, list[Sample]] = {}
    for sample in samples:
        lives.setdefault(sample.pid, []).append(sample)
    slopes = {}
    for name in ("descriptors", "own_memory", "processes"):
        above = below = 0.0
        for whole in lives.values():
            life = [sample for sample in whole if sample.at > whole[0].at + _WARM]
            if len(life) < 5 or life[-1].at - life[0].at < _LIFE:
                continue
            at = sum(sample.at for sample in life) / len(life)
            mean = sum(getattr(sample, name) for sample in life) / len(life)
            above += sum((sample.at - at) * (getattr(sample, name) - mean) for sample in life)
            below += sum((sample.at - at) ** 2 for sample in life)
        if below:  # otherwise none lived long enough
            slopes[name] = 3600 * above / below
    return slopes
