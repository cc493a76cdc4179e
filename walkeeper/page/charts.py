"""Lines over the last hours, as SVG with labelled axes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from walkeeper.core.amounts import duration
from walkeeper.page.text import esc

Point: TypeAlias = tuple[float, float | None]
"""Seconds, monotonic, and a value; None breaks the line."""

Mark: TypeAlias = tuple[float, str]
"""Seconds, monotonic, and what happened then."""

_LEFT: Final = 78
_RIGHT: Final = 12
_TOP: Final = 12
_PLOT: Final = 130
_POINTS: Final = 240
_SHORTEST: Final = 600.0
_STEPS: Final = (60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0, 7200.0)


@dataclass(frozen=True, slots=True)
class Line:
    """``name`` is empty for the only one; ``kind`` is its CSS class: lines differ in their dashes too."""

    name: str
    kind: str
    points: Sequence[Point]


@dataclass(frozen=True, slots=True)
class Chart:
    """``unit`` writes a value for people; ``binary``: round values of the axis are powers of two."""

    name: str
    title: str
    lines: tuple[Line, ...]
    unit: Callable[[float], str]
    binary: bool
    now: float
    period: float
    """Between two samples."""
    marks: tuple[Mark, ...] = ()


def svg(chart: Chart, width: int, copy: str) -> str:
    """``copy`` makes the ids unique where the chart stands in the document twice."""
    span = max([_SHORTEST, *(chart.now - at for line in chart.lines for at, _ in line.points)])
    highest = max((value for line in chart.lines for _, value in line.points if value is not None), default=0.0)
    step = _step(highest, binary=chart.binary)
    top = max(step, -(-highest // step) * step)
    height = _TOP + _PLOT + 42
    name = f"{chart.name}-{copy}"

    def x(at: float) -> float:
        return round(_LEFT + (1 - (chart.now - at) / span) * (width - _LEFT - _RIGHT), 1)

    def y(value: float) -> float:
        return round(_TOP + _PLOT - value / top * _PLOT, 1)

    drawn = [_grid(chart, width, step, top, y), _hours(width, span, x, chart.now)]
    drawn += [_mark(mark, width, x(mark[0])) for mark in chart.marks]
    drawn += [f'<path class="line {line.kind}" d="{_path(line.points, span, chart, x, y)}"/>' for line in chart.lines]
    return (
        f'<svg role="img" aria-labelledby="{name}-t {name}-d" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}"><title id="{name}-t">{esc(chart.title)}</title>'
        f'<desc id="{name}-d">{esc(summary(chart))}</desc>{"".join(drawn)}</svg>'
    )


def _mark(mark: Mark, width: int, at: float) -> str:
    """A line with its words on the side that has more room."""
    anchor, place = ("end", at - 5) if at > (_LEFT + width) / 2 else ("start", at + 5)
    return (
        f'<path class="event" d="M{at} {_TOP}V{_TOP + _PLOT}"/>'
        f'<text class="tick" x="{place}" y="{_TOP + 10}" text-anchor="{anchor}">{esc(mark[1])}</text>'
    )


def summary(chart: Chart) -> str:
    """The chart in words."""
    said = []
    for line in chart.lines:
        known = [(value, at) for at, value in line.points if value is not None]
        if not known:
            said.append(f"{line.name}: not known yet." if line.name else "Not known yet.")
            continue
        most, at = max(known)
        when = f", {duration(chart.now - at)} ago" if most > 0 else ""
        last = line.points[-1][1]
        present = "not known" if last is None else chart.unit(last)
        prefix = f"{line.name}: now" if line.name else "Now"
        said.append(f"{prefix} {present}, at most {chart.unit(most)}{when}.")
    said += [f"{what}, {duration(chart.now - at)} ago." for at, what in chart.marks]
    return " ".join(said)


def _step(highest: float, *, binary: bool) -> float:
    """Between two lines of the grid, of which there are two to five."""
    wanted = max(highest, 1.0) / 4
    step = 1.0
    if binary:
        while step < wanted:
            step *= 2
        return step
    if highest > 240:  # minutes are read in minutes
        return next((step for step in _STEPS if step >= wanted), -(-wanted // 3600) * 3600)
    while True:
        for nice in (1, 2, 5):
            if step * nice >= wanted:
                return step * nice
        step *= 10


def _grid(chart: Chart, width: int, step: float, top: float, y: Callable[[float], float]) -> str:
    drawn = []
    value = 0.0
    while value <= top:
        at = y(value)
        drawn.append(
            f'<path class="grid" d="M{_LEFT} {at}H{width - _RIGHT}"/>'
            f'<text class="tick" x="{_LEFT - 6}" y="{at + 4}" text-anchor="end">{esc(chart.unit(value))}</text>'
        )
        value += step
    return "".join(drawn)


def _hours(width: int, span: float, x: Callable[[float], float], now: float) -> str:
    step = next((step for step in _STEPS if span / step <= (3 if width < 500 else 6)), _STEPS[-1])
    drawn = []
    back = 0.0
    while back <= span:
        at, words = x(now - back), "now" if back == 0 else _ago(back)
        anchor = "end" if back == 0 else "middle"
        if at > _LEFT + 12:
            drawn.append(
                f'<path class="grid" d="M{at} {_TOP + _PLOT}v5"/>'
                f'<text class="tick" x="{at}" y="{_TOP + _PLOT + 19}" text-anchor="{anchor}">{words}</text>'
            )
        back += step
    drawn.append(
        f'<text class="axis" x="{(_LEFT + width - _RIGHT) // 2}" y="{_TOP + _PLOT + 37}" '
        f'text-anchor="middle">time ago</text>'
    )
    return "".join(drawn)


def _ago(seconds: float) -> str:
    return f"{seconds / 3600:g} h" if seconds >= 3600 else f"{seconds / 60:g} min"


def _path(
    points: Sequence[Point], span: float, chart: Chart, x: Callable[[float], float], y: Callable[[float], float]
) -> str:
    """Of each slice of time its highest value, so that no peak is lost."""
    width = span / _POINTS
    slices: dict[int, Point] = {}
    for at, value in points:
        number = int((at - chart.now) // width)
        known = slices.get(number)
        if known is None or (value is not None and (known[1] is None or value > known[1])):
            slices[number] = (at, value)
    drawn: list[str] = []
    before: float | None = None
    for _, (at, value) in sorted(slices.items()):
        if value is None:
            before = None
            continue
        joins = before is not None and at - before <= max(3 * chart.period, 2.5 * width)
        drawn.append(f"{'L' if joins else 'M'}{x(at)} {y(value)}" + ("" if joins else "h.1"))
        before = at
    return "".join(drawn)
