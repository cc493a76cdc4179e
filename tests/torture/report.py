"""The end of a torture on one page: numbers, and a picture of time lines, faults, frontier and lag. No outside assets."""

from __future__ import annotations

import html
import itertools
from collections.abc import Iterable
from typing import Final

from tests.torture.rig import Diary, Entry, Sample

WIDTH: Final = 1200
LEFT: Final = 150
LANE: Final = 16
CHART: Final = 180
_COLOURS: Final = {"node1": "#2b6cb0", "node2": "#2f855a", "node3": "#b7791f"}
_STYLE: Final = """
body{font:14px/1.5 system-ui,sans-serif;margin:2em auto;max-width:1240px;color:#1a202c}
table{border-collapse:collapse}td,th{padding:.15em .8em;text-align:left;vertical-align:top;border-bottom:1px solid #e2e8f0}
svg text{font:11px system-ui,sans-serif;fill:#4a5568}.violation{color:#c53030;font-weight:bold}.fault{color:#975a16}
pre{white-space:pre-wrap;margin:0}
"""


def page(diary: Diary, title: str, facts: Iterable[tuple[str, object]]) -> str:
    """A whole HTML document."""
    rows = "".join(f"<tr><th>{html.escape(name)}</th><td>{html.escape(str(value))}</td></tr>" for name, value in facts)
    events = "".join(
        f'<tr class="{entry.kind}"><td>{entry.at:.1f}</td><td>{entry.kind}</td><td><pre>{html.escape(entry.text)}</pre></td></tr>'
        for entry in diary.entries
    )
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(title)}</title><style>{_STYLE}</style>"
        f"<h1>{html.escape(title)}</h1><table>{rows}</table>{picture(diary)}"
        f"<h2>Diary</h2><table><tr><th>s</th><th>what</th><th></th></tr>{events}</table></html>\n"
    )


def picture(diary: Diary) -> str:
    """Who led, what was done when, WAL and frontier, and how far the frontier was behind."""
    end = max([diary.now, *(entry.until or entry.at for entry in diary.entries)])
    scale = (WIDTH - LEFT - 10) / end
    faults = [entry for entry in diary.entries if entry.kind == "fault"]
    backups = [entry for entry in diary.entries if entry.kind == "backup"]
    names = sorted({entry.text.split()[0] for entry in faults})
    top = 20
    parts = [_lane(top, "leader"), *_leaders(diary.samples, top, scale)]
    if backups:
        top += LANE
        parts += [_lane(top, "base backup"), *_backups(backups, top, scale)]
    for number, name in enumerate(names, start=1):
        y = top + number * LANE
        parts.append(_lane(y, name))
        parts += [
            f'<rect x="{LEFT + entry.at * scale:.1f}" y="{y - 9}" width="{max(2.0, ((entry.until or entry.at) - entry.at) * scale):.1f}" '
            f'height="10" fill="#dd6b20" opacity=".7"><title>{html.escape(entry.text)}</title></rect>'
            for entry in faults
            if entry.text.split()[0] == name
        ]
    chart = top + (len(names) + 2) * LANE
    parts += _checks(diary, chart, scale)
    parts += _curves(diary.samples, chart, scale)
    height = chart + 2 * CHART + 50
    for second in range(0, int(end) + 1, max(10, int(end / 12) // 10 * 10)):
        x = LEFT + second * scale
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="10" y2="{height - 20}" stroke="#edf2f7"/>')
        parts.append(f'<text x="{x:.1f}" y="{height - 5}">{second} s</text>')
    return f'<svg viewBox="0 0 {WIDTH} {height}" width="100%" role="img">{"".join(parts)}</svg>'


def _lane(y: float, label: str) -> str:
    return f'<text x="4" y="{y}">{html.escape(label)}</text>'


def _leaders(samples: list[Sample], y: float, scale: float) -> list[str]:
    parts = []
    for one, following in itertools.pairwise(samples):
        colour = _COLOURS.get(one.leader or "", "#cbd5e0")
        width = (following.at - one.at) * scale + 0.5
        parts.append(
            f'<rect x="{LEFT + one.at * scale:.1f}" y="{y - 9}" width="{width:.1f}" height="10" fill="{colour}">'
            f"<title>{one.leader or 'nobody'}</title></rect>"
        )
    return parts


def _backups(entries: list[Entry], y: float, scale: float) -> list[str]:
    """Each attempt: green where it ended well."""
    return [
        f'<rect x="{LEFT + entry.at * scale:.1f}" y="{y - 9}" width="{max(2.0, ((entry.until or entry.at) - entry.at) * scale):.1f}" '
        f'height="10" fill="{"#38a169" if entry.text.endswith(": done") else "#c53030"}"><title>{html.escape(entry.text)}</title></rect>'
        for entry in entries
    ]


def _checks(diary: Diary, chart: float, scale: float) -> list[str]:
    return [
        f'<line x1="{LEFT + entry.at * scale:.1f}" x2="{LEFT + entry.at * scale:.1f}" y1="{chart}" y2="{chart + 2 * CHART + 20}" '
        f'stroke="{"#c53030" if entry.kind == "violation" else "#38a169"}"><title>{html.escape(entry.text)}</title></line>'
        for entry in diary.entries
        if entry.kind in {"check", "violation"}
    ]


def _curves(samples: list[Sample], top: float, scale: float) -> list[str]:
    written = [(s.at, s.lsn / 2**20) for s in samples if s.lsn is not None]
    frontier = [(s.at, s.record.position / 2**20) for s in samples if s.record is not None]
    lag = [(s.at, max(0.0, (s.lsn - s.record.position) / 2**20)) for s in samples if s.lsn and s.record]
    low = min([y for _, y in (*written, *frontier)], default=0.0)
    high = max([y for _, y in (*written, *frontier)], default=1.0)
    most = max([y for _, y in lag], default=1.0)
    second = top + CHART + 20
    return [
        f'<text x="4" y="{top + 12}">WAL, MiB</text><text x="4" y="{top + 28}" style="fill:#718096">grey: written</text>',
        f'<text x="4" y="{top + 44}" style="fill:#2b6cb0">blue: frontier</text>',
        f'<text x="4" y="{top + 60}">{low:.0f} to {high:.0f}</text>',
        _line(written, top, low, high, scale, "#a0aec0"),
        _line(frontier, top, low, high, scale, "#2b6cb0"),
        f'<text x="4" y="{second + 12}">lag, MiB</text><text x="4" y="{second + 28}">0 to {most:.0f}</text>',
        _line(lag, second, 0, most, scale, "#c05621"),
    ]


def _line(points: list[tuple[float, float]], top: float, low: float, high: float, scale: float, colour: str) -> str:
    spread = max(high - low, 1e-9)
    path = " ".join(f"{LEFT + x * scale:.1f},{top + CHART - (y - low) / spread * CHART:.1f}" for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
