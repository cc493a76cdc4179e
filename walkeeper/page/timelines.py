"""The picture of the archive as SVG, and the same in a table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from walkeeper.core.amounts import size
from walkeeper.core.coverage import Range
from walkeeper.core.lsn import Lsn
from walkeeper.page.picture import Lane, Picture
from walkeeper.page.text import count, esc, moment

MAX_LANES: Final = 12
"""The newest ones are drawn."""
MAX_ROWS: Final = 100
"""Those that the table has."""
MAX_PARTS: Final = 300
"""Rangees drawn or listed of one lane."""

_LEFT: Final = 52
_RIGHT: Final = 14
_LANE: Final = 34
_BAR: Final = 12
_LABEL: Final = 17
_CHARACTER: Final = 7.2
"""About the width of one, at the pictures' font size."""


def svg(picture: Picture, name: str, width: int) -> str:
    """``name`` makes the ids unique in the document; ``width`` in CSS pixels."""
    return _Drawing(picture, name, width).svg()


class _Drawing:
    def __init__(self, picture: Picture, name: str, width: int) -> None:
        self.picture = picture
        self.name = name
        self.width = width
        self.lanes = picture.lanes[-MAX_LANES:]
        self.marks = _marks(picture)
        self.top = _LABEL * len(self.marks) + 8
        self.bottom = self.top + _LANE * len(self.lanes)
        self.times = list(self._times())
        self.row = {lane.timeline: self.top + _LANE * number + _LANE // 2 for number, lane in enumerate(self.lanes)}

    def svg(self) -> str:
        height = self.bottom + 26 + (_LABEL if self.times else 0)
        hidden = len(self.picture.lanes) - len(self.lanes)
        words = description(self.picture) + (f" {hidden} older timelines are not drawn." if hidden else "")
        return (
            f'<svg role="img" aria-labelledby="{self.name}-t {self.name}-d" viewBox="0 0 {self.width} {height}" '
            f'width="{self.width}" height="{height}">'
            f'<title id="{self.name}-t">Timelines of the archive</title><desc id="{self.name}-d">{esc(words)}</desc>'
            f"{self._patterns()}{self._axis()}{''.join(self.times)}{''.join(map(self._fork, self.lanes))}"
            f"{''.join(map(self._lane, self.lanes))}{self._marks()}</svg>"
        )

    def x(self, lsn: int) -> float:
        whole = max(1, self.picture.end - self.picture.start)
        part = min(1.0, max(0.0, (lsn - self.picture.start) / whole))
        return round(_LEFT + part * (self.width - _LEFT - _RIGHT), 1)

    def _patterns(self) -> str:
        return "".join(
            f'<pattern id="{self.name}-{kind}" width="6" height="6" patternUnits="userSpaceOnUse" '
            f'patternTransform="rotate({turn})"><rect width="6" height="6" class="{kind}-under"/>'
            f'<path d="M0 0V6" class="{kind}-line"/></pattern>'
            for kind, turn in (("gap", 45), ("open", -45))
        )

    def _axis(self) -> str:
        ticks = 3 if self.width < 500 else 5
        whole = self.picture.end - self.picture.start
        drawn = []
        for number in range(ticks):
            lsn = Lsn(self.picture.start + whole * number // (ticks - 1)).floor(self.picture.size)
            at = self.x(lsn)
            anchor = "start" if number == 0 else "end" if number == ticks - 1 else "middle"
            drawn.append(
                f'<path class="grid" d="M{at} {self.top}V{self.bottom}"/>'
                f'<text class="tick" x="{at}" y="{self.bottom + 18}" text-anchor="{anchor}">{lsn}</text>'
            )
        return "".join(drawn)

    def _times(self) -> Iterator[str]:
        """Under the positions, from the right to the left, as many as fit."""
        free = self.width - 2.0
        for lsn, time in reversed(self.picture.times):
            words = time[5:16].replace("T", " ")
            half = len(words) * _CHARACTER / 2
            at = min(self.x(lsn), self.width - 2 - half)
            if lsn >= self.picture.start and at + half <= free and at - half >= 0:
                free = at - half - _CHARACTER
                y = self.bottom + 18 + _LABEL
                yield (
                    f'<path class="grid" d="M{self.x(lsn)} {self.bottom}v5"/>'
                    f'<text class="tick" x="{round(at, 1)}" y="{y}" text-anchor="middle">{esc(words)}</text>'
                )

    def _fork(self, lane: Lane) -> str:
        if lane.parent is None or lane.begins < self.picture.start:
            return ""
        at, here = self.x(lane.begins), self.row[lane.timeline]
        above = self.row.get(lane.parent, self.top)
        return f'<path class="fork" d="M{at} {above}V{here}"/><circle class="fork-dot" cx="{at}" cy="{above}" r="3.5"/>'

    def _lane(self, lane: Lane) -> str:
        y = self.row[lane.timeline]
        kind = "lane" if lane.on_chain else "lane aside"
        drawn = [
            f'<text class="lane-name" x="4" y="{y + 4}">TL {lane.timeline}</text>',
            f'<path class="base" d="M{self.x(lane.begins)} {y}H{self.x(lane.ends)}"/>',
            *(self._bar(part, y, "stored") for part in lane.stored[-MAX_PARTS:]),
            *(self._bar(part, y, "missing") for part in lane.missing[-MAX_PARTS:]),
            *(self._bar(part, y, "gap", fill=f"url(#{self.name}-gap)") for part in lane.gaps[-MAX_PARTS:]),
        ]
        written, tail = self.picture.written, self.picture.tail
        if lane.timeline == self.picture.timeline and written is not None and written > self.picture.frontier:
            drawn.append(self._rectangle(self.picture.frontier, written, y, "open", f"url(#{self.name}-open)"))
        if lane.timeline == self.picture.timeline and tail is not None:
            drawn.append(self._rectangle(*tail, y, "tail", ""))
        return f'<g class="{kind}">{"".join(drawn)}</g>'

    def _bar(self, part: Range, y: int, kind: str, fill: str = "") -> str:
        first, end = part.first * self.picture.size, part.end * self.picture.size
        return self._rectangle(first, end, y, kind, fill) if end > self.picture.start else ""

    def _rectangle(self, first: int, end: int, y: int, kind: str, fill: str) -> str:
        left, right = self.x(first), self.x(end)
        at_least = 4.0 if kind in ("gap", "missing") else 1.0  # what is lost is seen, however small
        width = max(at_least, round(right - left, 1))
        left = min(left, self.width - _RIGHT - width)
        painted = f' fill="{fill}"' if fill else ""
        height = _BAR // 2 if kind == "tail" else _BAR
        return f'<rect class="{kind}" x="{left}" y="{y - height // 2}" width="{width}" height="{height}"{painted}/>'

    def _marks(self) -> str:
        drawn = []
        for number, (kind, name, lsn) in enumerate(self.marks):
            words = f"{name} (further left)" if lsn < self.picture.start else name
            at, y = self.x(lsn), _LABEL * number + 13
            fits = at - 6 - len(words) * _CHARACTER > 0
            anchor, place = ("end", at - 6) if fits else ("start", at + 6)
            drawn.append(
                f'<path class="mark {kind}" d="M{at} {y - 9}V{self.bottom}"/>'
                f'<text class="mark-name" x="{place}" y="{y}" text-anchor="{anchor}">{esc(words)}</text>'
            )
        return "".join(drawn)


def _marks(picture: Picture) -> list[tuple[str, str, Lsn]]:
    marks = [("frontier", f"frontier {picture.frontier}", picture.frontier)]
    if picture.hold_slot is not None:
        marks.append(("hold", f"hold slot here {picture.hold_slot}", picture.hold_slot))
    if picture.written is not None:
        marks.append(("written", f"WAL here up to {picture.written}", picture.written))
    return sorted(marks, key=lambda mark: -mark[2])  # so that no line runs through another's name


def description(picture: Picture) -> str:
    """The picture in words, for those who do not see it."""
    lanes = count(len(picture.lanes), "timeline")
    said = [
        f"{lanes}, from {picture.start} to {picture.end}.",
        f"The frontier is {picture.frontier} on timeline {picture.timeline}.",
    ]
    if picture.tail is not None:
        said.append(f"{_tail(picture)} of the open segment are stored as its tail.")
    said.extend(f"The commit at {lsn} was made at {moment(time)}." for lsn, time in picture.times)
    if picture.hold_slot is not None:
        said.append(f"This node's hold slot is at {picture.hold_slot}.")
    said.extend(
        f"Timeline {lane.timeline} leaves timeline {lane.parent} at {lane.begins}."
        for lane in picture.lanes[-MAX_LANES:]
        if lane.parent is not None
    )
    said.append(f"{count(picture.gaps, 'gap')}." if picture.gaps else "No gap.")
    if picture.missing:
        said.append(f"{count(picture.missing, 'segment')} below the frontier missing in the store.")
    return " ".join(said)


def _tail(picture: Picture) -> str:
    begins, end = picture.tail or (picture.frontier, picture.frontier)
    return size(end - begins)


def table(picture: Picture) -> str:
    rows = "".join(_table_row(picture, lane) for lane in reversed(picture.lanes[-MAX_ROWS:]))
    hidden = len(picture.lanes) - MAX_ROWS
    more = f"; {count(hidden, 'older one')} not shown" if hidden > 0 else ""
    return (
        f"<table><caption>Timelines, the newest first{more}</caption><thead><tr>"
        '<th scope="col">Timeline</th><th scope="col">Comes from</th><th scope="col">Stored</th>'
        '<th scope="col">Gaps</th><th scope="col">Missing</th></tr></thead>'
        f"<tbody>{rows}</tbody></table>"
    )


def _table_row(picture: Picture, lane: Lane) -> str:
    origin = "its beginning" if lane.parent is None else f"{lane.parent} at {lane.begins}"
    aside = "" if lane.on_chain else " (a dead branch)"
    stored, gaps, missing = (_listed(picture, parts) for parts in (lane.stored, lane.gaps, lane.missing))
    if lane.timeline == picture.timeline and picture.tail is not None:
        stored += f"<br>to {picture.frontier} ({_tail(picture)}), the tail"
    return (
        f'<tr><th scope="row">{lane.timeline}{aside}</th><td>{esc(origin)}</td>'
        + "".join(f"<td>{cell}</td>" for cell in (stored, gaps, missing))
        + "</tr>"
    )


def _listed(picture: Picture, parts: Sequence[Range]) -> str:
    if not parts:
        return "none"
    shown = [_range(picture, part) for part in parts[-8:]]
    if len(parts) > len(shown):
        shown.insert(0, f"{count(len(parts) - len(shown), 'earlier stretch', 'earlier stretches')}")
    return "<br>".join(esc(words) for words in shown)


def _range(picture: Picture, part: Range) -> str:
    first, end = Lsn(part.first * picture.size), Lsn(part.end * picture.size)
    return f"{first} to {end} ({size(end - first)})"


def key(kinds: Iterable[tuple[str, str]]) -> str:
    """What the colours and patterns mean."""
    items = "".join(
        f'<li><span class="swatch {kind}" aria-hidden="true"></span>{esc(text)}</li>' for kind, text in kinds
    )
    return f'<ul class="key">{items}</ul>'
