"""The result of verify for people, at 80 columns where names allow, and as the document that docs/verify.md describes."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, Final

from walkeeper.core.amounts import counted, size
from walkeeper.core.coverage import Coverage
from walkeeper.core.lsn import Lsn
from walkeeper.core.names import Segment
from walkeeper.lib.terminal import at_margin, printable, wrapped
from walkeeper.verify.answer import CANNOT_TELL, DAMAGED, FORMAT, SOUND, VERDICT
from walkeeper.verify.deep import Deep
from walkeeper.verify.evidence import Evidence
from walkeeper.verify.judge import Finding, Severity
from walkeeper.verify.tail import OpenSegment
from walkeeper.verify.target import Target
from walkeeper.verify.windows import backup_lines, end_of, older
from walkeeper.verify.windows import lines as window_lines

_WIDTH: Final = 80
_INDENT: Final = " " * 10
_SHOWN: Final = 10
"""Findings of one kind that people are shown; --json has more."""


def exit_code(findings: list[Finding]) -> int:
    """Damage that was found counts, whatever else could not be learnt."""
    severities = {finding.severity for finding in findings}
    return DAMAGED if Severity.DAMAGE in severities else CANNOT_TELL if Severity.UNSURE in severities else SOUND


def document(
    evidence: Evidence,
    target: Target,
    found: Coverage,
    opened: OpenSegment | None,
    deep: Deep | None,
    windows: list[dict[str, Any]],
    findings: list[Finding],
) -> dict[str, Any]:
    """What --json prints, and what people are shown is made from."""
    code = exit_code(findings)
    return {
        "format": FORMAT,
        "verdict": VERDICT[code],
        "exit_code": code,
        **evidence.described(),
        "timeline": target.history.timeline,
        "timelines": sorted({timeline for timeline, _, _ in found.stored} | {hole.timeline for hole in found.holes}),
        "start": _start(evidence, target),
        "start_lsn": str(Lsn(target.first * evidence.size)),
        "end_lsn": str(end_of(evidence, target, opened)),
        "end_is": "frontier" if target.by_record else "last stored",
        "segments": {"expected": target.end - target.first, "stored": sum(stretch.length for stretch in found.stored)},
        "archive_objects": evidence.inventory.objects,
        "archive_bytes": evidence.inventory.bytes,
        "windows": windows,
        "older_windows": older(found),
        "tail": None
        if opened is None or not opened.pieces
        else {"segment": opened.segment.name, "end_lsn": str(opened.end), "pieces": opened.pieces},
        "deep": None
        if deep is None
        else {
            "segments": deep.objects,
            "bytes": deep.bytes,
            "damaged": deep.damaged,
            "locked": deep.locked,
            "unread": deep.unread,
        },
        "findings": [_described(finding) for finding in findings],
    }


def render(found: dict[str, Any]) -> str:
    """A document for people."""
    restorable = window_lines(found["windows"], found["older_windows"], len(_INDENT))
    lines = [*at_margin(_head(found), _WIDTH), *restorable, *backup_lines(found["backups"], len(_INDENT)), ""]
    lines += [*_findings(found), *textwrap.wrap(_verdict(found), _WIDTH)]
    return "\n".join(map(printable, lines))


def _start(evidence: Evidence, target: Target) -> str:
    named = target.asked or evidence.begins
    return (named or Segment(target.history.timeline, target.first, evidence.size)).name


def _described(finding: Finding) -> dict[str, Any]:
    return {**asdict(finding), "severity": finding.severity.name.lower(), "hint": finding.hint or None}


def _head(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "Archive", f"{found['store']}/{found['archive']}"
    timelines = ", ".join(str(timeline) for timeline in found["timelines"]) or str(found["timeline"])
    up_to = (
        f"the frontier {found['record']['frontier']}"
        if found["end_is"] == "frontier"
        else f"the last stored, {found['end_lsn']}"
    )
    word = "timelines" if len(found["timelines"]) > 1 else "timeline"
    yield "Chain", f"{word} {timelines}, from {found['start']} up to {up_to}"
    segments = found["segments"]
    yield "Segments", f"{segments['stored']:,} of {segments['expected']:,} are stored"
    if found["tail"] is not None:
        tail = found["tail"]
        pieces = counted(tail["pieces"], "piece")
        yield "Tail", f"{tail['segment']} up to {tail['end_lsn']}, {pieces}"
    if found["deep"] is not None:
        deep = found["deep"]
        yield "Deep", f"{deep['segments']:,} downloaded, {size(deep['bytes'])}; {deep['damaged']:,} damaged"


def _findings(found: dict[str, Any]) -> Iterator[str]:
    kinds = Counter(finding["kind"] for finding in found["findings"])
    untold = Counter({finding["kind"]: finding["more"] for finding in found["findings"] if finding["more"]})
    shown: Counter[str] = Counter()
    hinted: set[tuple[str, str]] = set()
    for finding in found["findings"]:
        kind, hint = finding["kind"], finding["hint"]
        shown[kind] += 1
        if shown[kind] > _SHOWN:
            continue
        yield from wrapped(finding["severity"].upper(), finding["text"], _WIDTH)
        if hint and (kind, hint) not in hinted:
            hinted.add((kind, hint))
            yield from textwrap.wrap(
                f"HINT: {hint}", _WIDTH, initial_indent=_INDENT, subsequent_indent=_INDENT + " " * 6
            )
        if shown[kind] == _SHOWN < kinds[kind]:
            rest, has = kinds[kind] - _SHOWN, "them"
            if untold[kind]:
                rest, has = rest - 1 + untold[kind], f"the first {kinds[kind] - 1:,} of all"
            yield from wrapped("", f"and {rest:,} more of kind {kind}: --json has {has}", _WIDTH)
    if kinds:
        yield ""


def _verdict(found: dict[str, Any]) -> str:
    if found["exit_code"] == SOUND:
        looked = (
            "each object is what it says" if found["deep"] else "nothing is missing (--deep looks into the objects too)"
        )
        return f"Sound: {looked}."
    if found["exit_code"] == DAMAGED:
        return "Damaged: no restore crosses what is named above as DAMAGE."
    return "Cannot tell: nothing is known to be missing, and not everything could be looked at."
