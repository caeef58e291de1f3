"""Charts of the figures as SVG: lines over a logarithmic axis."""

import html
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

from .measures import BATCHES, WORKERS, Measured

__all__ = ["draw"]

_WIDTH, _HEIGHT = 640, 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 130, 40, 50
_COLOURS = ("#1f6feb", "#d1602e", "#2e8b57", "#7a5cc0")

Line = Sequence[tuple[float, float]]


def draw(directory: Path, rows: Sequence[Measured]) -> list[Path]:
    """Draw the charts for which the rows have figures, and return the files."""
    found = {row.name: {name: median(runs) for name, runs in row.runs.items()} for row in rows}
    sizes = sorted(
        int(name.partition(" waiting: drain")[0].replace(",", "")) for name in found if name.endswith(" waiting: drain")
    )
    charts = {
        "rate-against-backlog": (
            "Drain, 1 worker: tasks a second against how many wait",
            "tasks waiting",
            _lines(found, {size: f"{size:,} waiting: drain" for size in sizes}),
        ),
        "latency": (
            "From the call to the task's first line, idle worker: milliseconds",
            "percentile",
            _lines(found, {one: f"idle latency, relaxed, p{one}" for one in (50, 90, 99)}),
        ),
        "rate-against-workers": (
            "Drain: tasks a second against workers",
            "workers",
            _lines(found, {count: f"drain, {count} worker{'s' * (count > 1)}" for count in WORKERS}),
        ),
        "enqueue-against-batch": (
            "Enqueue: tasks a second against the size of a batch",
            "tasks in a batch",
            {
                f"{mode}: {system}": line
                for mode in ("relaxed", "full")
                for system, line in _lines(
                    found,
                    {1: f"enqueue, {mode}"} | {batch: f"enqueue, {mode}, {batch:,} at a time" for batch in BATCHES},
                ).items()
                if system != "uWSGI"
            },
        ),
    }
    drawn = []
    for name, (title, axis, lines) in charts.items():
        if any(len(line) > 1 for line in lines.values()):
            path = directory / f"{name}.svg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(_chart(title, axis, lines), encoding="utf-8")
            drawn.append(path)
    return drawn


def _lines(
    found: Mapping[str, Mapping[str, float]], points: Mapping[float, str]
) -> dict[str, list[tuple[float, float]]]:
    lines: dict[str, list[tuple[float, float]]] = {}
    for x, row in points.items():
        for system, figure in found.get(row, {}).items():
            lines.setdefault(system, []).append((x, figure))
    return lines


def _chart(title: str, axis: str, lines: Mapping[str, Line]) -> str:
    xs = sorted({x for line in lines.values() for x, _ in line})
    most = _nice(max(y for line in lines.values() for _, y in line))
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    low, high = math.log(xs[0]), math.log(xs[-1])

    def place(x: float, y: float) -> tuple[float, float]:
        along = (math.log(x) - low) / (high - low)
        return round(_LEFT + along * (right - _LEFT), 1), round(bottom - y / most * (bottom - _TOP), 1)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" '
        f'font-size="12"><rect width="100%" height="100%" fill="#fff"/>',
        f'<text x="{_LEFT}" y="22" font-size="14">{html.escape(title)}</text>',
        f'<text x="{(_LEFT + right) / 2}" y="{_HEIGHT - 12}" text-anchor="middle">{html.escape(axis)}</text>',
    ]
    for step in range(5):
        value = most * step / 4
        y = place(xs[0], value)[1]
        parts.append(f'<path d="M{_LEFT} {y}H{right}" stroke="#ddd"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4}" text-anchor="end">{value:,.4g}</text>')
    parts += [f'<text x="{place(x, 0)[0]}" y="{bottom + 18}" text-anchor="middle">{x:,g}</text>' for x in xs]
    for number, (name, line) in enumerate(lines.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        points = [place(*point) for point in line]
        parts.append(
            f'<polyline fill="none" stroke="{colour}" stroke-width="2" '
            f'points="{" ".join(f"{x},{y}" for x, y in points)}"/>'
        )
        parts += [f'<circle cx="{x}" cy="{y}" r="3" fill="{colour}"/>' for x, y in points]
        parts.append(f'<text x="{right + 12}" y="{_TOP + 10 + 18 * number}" fill="{colour}">{html.escape(name)}</text>')
    return "\n".join([*parts, "</svg>\n"])


def _nice(value: float) -> float:
    """Return the next round number."""
    size = 10 ** math.floor(math.log10(value))
    return next(step * size for step in (1, 2, 4, 5, 8, 10) if step * size >= value)
