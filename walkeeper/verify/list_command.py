"""``walkeeper list``: what is in the archive, for people. Judges nothing: that is verify's. Exit 0, or 2 for cannot tell."""

from __future__ import annotations

import json as json_module
from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice
from typing import Any, Final

from walkeeper.archive.codec import AGE, Codec
from walkeeper.archive.open import open_archives
from walkeeper.archive.stored_runs import Run
from walkeeper.archive.tail import longest_stored
from walkeeper.config import Config
from walkeeper.core.amounts import counted, size
from walkeeper.core.coverage import coverage, end_of, last_stored
from walkeeper.core.lsn import Lsn
from walkeeper.core.names import Segment
from walkeeper.errors import CannotTell
from walkeeper.lib.terminal import Progress, printable
from walkeeper.verify import windows
from walkeeper.verify.answer import FORMAT, SOUND, say_of_each
from walkeeper.verify.evidence import Evidence, ask_the_dcs, gather
from walkeeper.verify.tail import look
from walkeeper.verify.target import choose
from walkeeper.verify.windows import TOLD, not_shown

_SHOWN: Final = 10
"""Ranges and gaps of one timeline, the newest ones, and names of one kind, that people are shown."""


def main(config: Config, *, timeline: int | None, system_identifier: int | None, json: bool) -> int:
    """Print it; returns the exit code."""
    return say_of_each(config, lambda each: (_work(each, timeline, system_identifier, json=json), SOUND), json=json)


def _work(config: Config, timeline: int | None, system_identifier: int | None, *, json: bool) -> str:
    with Progress() as progress:
        archives, claim = open_archives(config, to_read=True), ask_the_dcs(config)
        evidence = gather(
            config, archives.store, claim, system_identifier, lambda count: progress.show(f"{count:,} objects listed")
        )
        found = {**document(evidence, timeline), **_windows(evidence, timeline, archives.codec)}
    return json_module.dumps(found, indent=2) if json else "\n".join(map(printable, _lines(found)))


def document(evidence: Evidence, timeline: int | None = None) -> dict[str, Any]:
    """What --json prints; docs/verify.md describes it. Raises CannotTell for a timeline that is not there."""
    known = {number for number, _ in evidence.runs} | {
        *evidence.histories,
        *evidence.bad_histories,
        *evidence.archived.gaps,
    }
    if timeline is not None and timeline not in known:
        there = ", ".join(map(str, sorted(known))) or "none"
        raise CannotTell(f"timeline {timeline}: nothing of it is in the store", hint=f"There are: {there}.")
    inventory = evidence.inventory
    return {
        "format": FORMAT,
        "exit_code": SOUND,
        **evidence.described(),
        "start": evidence.start.name if evidence.start else None,
        "objects": inventory.objects,
        "bytes": inventory.bytes,
        "timelines": [_timeline(evidence, number) for number in sorted(known) if timeline in (None, number)],
        "backups": asdict(inventory.backups),
        "partials": asdict(inventory.partials),
        "tails": {"count": inventory.tails.count, "bytes": inventory.tails.bytes, "newest": _newest_tail(evidence)},
        "strange": asdict(inventory.strange),
        "others": [
            {"system_identifier": str(number), "objects": other.objects, "bytes": other.bytes}
            for number, other in sorted(evidence.others.items())
        ],
    }


def _windows(evidence: Evidence, timeline: int | None, codec: Codec) -> dict[str, Any]:
    """As verify has them, whose business it is to say why there are none; None where the chain is not known."""
    try:
        target = choose(evidence, None, timeline)
    except CannotTell:
        return {"windows": None, "older_windows": None}
    found = coverage(evidence.archived, target.history, evidence.size, target.first, target.end)
    end = windows.end_of(evidence, target, look(evidence, target))
    return {
        "windows": windows.windows(evidence, target, found, end, codec)[0],
        "older_windows": windows.older(found),
    }


def _newest_tail(evidence: Evidence) -> dict[str, Any] | None:
    """Of the segment that the frontier is in; without a record, of the one after the newest timeline's last."""
    record = evidence.claim.record
    begins = evidence.begins
    newest = record.timeline if record else max([*evidence.histories, begins.timeline if begins else 1])
    history = evidence.history(newest)
    if history is None or not evidence.inventory.tails.count:
        return None
    end = record.position // evidence.size if record else last_stored(evidence.archived, history, evidence.size)
    segment = history.segment(end or (begins.number if begins else 0), evidence.size)
    chain, _ = longest_stored(evidence.store, evidence.layout, segment.name)
    if not chain:
        return None
    end_lsn = Lsn(segment.start + chain[-1].end)
    return {"segment": segment.name, "end_lsn": str(end_lsn), "pieces": len(chain)}


def _timeline(evidence: Evidence, number: int) -> dict[str, Any]:
    history = evidence.histories.get(number)
    switch = history.switches[-1] if history and history.switches else None
    runs = {suffix: found for (timeline, suffix), found in evidence.runs.items() if timeline == number}
    newest = [(suffix, run) for suffix, found in runs.items() for run in islice(reversed(found), TOLD)]
    newest = sorted(newest, key=lambda each: each[1].first)[-TOLD:]
    totals = [found.total() for found in runs.values()]
    gaps, stored = evidence.archived.gaps.get(number, ()), evidence.archived.segments.get(number, ())
    return {
        "timeline": number,
        "parent": switch.timeline if switch else None,
        "forked_at": str(switch.lsn) if switch else None,
        "history": "damaged" if number in evidence.bad_histories else "stored" if history else "none",
        "segments": sum(each.segments for each in totals),
        "bytes": sum(each.bytes for each in totals),
        "ranges": [_range(evidence, number, suffix, run) for suffix, run in newest],
        "older_ranges": sum(map(len, runs.values())) - len(newest),
        "gaps": [
            {
                "start_lsn": str(Lsn(gap.first * evidence.size)),
                "end_lsn": str(Lsn(gap.end * evidence.size)),
                "segments": gap.length,
                "closed": end_of(stored, gap.first) >= gap.end,
            }
            for gap in gaps[-TOLD:]
        ],
        "older_gaps": max(0, len(gaps) - TOLD),
    }


def _range(evidence: Evidence, timeline: int, suffix: str, run: Run) -> dict[str, Any]:
    first, last = (Segment(timeline, number, evidence.size) for number in (run.first, run.end - 1))
    return {
        "first": first.name,
        "last": last.name,
        "start_lsn": str(first.start),
        "end_lsn": str(Lsn(run.end * evidence.size)),
        "segments": run.end - run.first,
        "bytes": run.bytes,
        "encrypted": suffix.endswith(AGE),
        "oldest": run.oldest.isoformat(timespec="seconds") if run.oldest else None,
        "newest": run.newest.isoformat(timespec="seconds") if run.newest else None,
    }


def _lines(found: dict[str, Any]) -> Iterator[str]:
    yield f"Archive   {found['store']}/{found['archive']}"
    yield f"Begins    {found['start'] or 'it does not say where'}"
    record = found["record"]
    yield f"Frontier  {record['frontier']} on timeline {record['timeline']}" if record else "Frontier  unknown"
    yield f"Objects   {found['objects']:,}, {size(found['bytes'])}"
    if found["windows"] is not None:
        yield from windows.lines(found["windows"], found["older_windows"], len("Objects   "))
    for timeline in found["timelines"]:
        yield ""
        yield from _timeline_lines(timeline)
    yield from _other_lines(found)


def _timeline_lines(timeline: dict[str, Any]) -> Iterator[str]:
    forked = f", forked from {timeline['parent']} at {timeline['forked_at']}" if timeline["parent"] else ""
    history = "" if timeline["timeline"] == 1 else f"; history: {timeline['history']}"
    yield f"Timeline {timeline['timeline']}{forked}{history}"
    ranges = timeline["ranges"]
    if len(ranges) > _SHOWN:
        yield f"  {not_shown(len(ranges), _SHOWN, 'older range', timeline['older_ranges'])}"
    for each in ranges[-_SHOWN:]:
        yield f"  {each['first']}..{each['last']}"
        when = _when(each["oldest"], each["newest"])
        encrypted = ", encrypted" if each["encrypted"] else ""
        stored = f"{counted(each['segments'], 'segment')}, {size(each['bytes'])}{encrypted}"
        yield f"    {stored}, {each['start_lsn']} to {each['end_lsn']}"
        if when:
            yield f"    {when}"
    if not ranges:
        yield "  no segments"
    if len(timeline["gaps"]) > _SHOWN:
        yield f"  {not_shown(len(timeline['gaps']), _SHOWN, 'older recorded gap', timeline['older_gaps'])}"
    for gap in timeline["gaps"][-_SHOWN:]:
        closed = ", closed since" if gap["closed"] else ""
        yield f"  recorded gap: {gap['start_lsn']} to {gap['end_lsn']}, {counted(gap['segments'], 'segment')}{closed}"


def _other_lines(found: dict[str, Any]) -> Iterator[str]:
    for kind, title in (("backups", "Backup files"), ("partials", "Partial segments"), ("strange", "Not walkeeper's")):
        names = found[kind]
        if names["count"]:
            yield ""
            yield f"{title}: {names['count']:,}, {size(names['bytes'])}"
            yield from (f"  {name}" for name in names["first"][:_SHOWN])
            if names["count"] > _SHOWN:
                yield f"  and {names['count'] - _SHOWN:,} more"
    if found["tails"]["count"]:
        yield ""
        yield f"Pieces of segments that were being written: {found['tails']['count']:,}, {size(found['tails']['bytes'])}"
        if newest := found["tails"]["newest"]:
            yield f"  {newest['segment']} up to {newest['end_lsn']}, {newest['pieces']:,} of them"
    for other in found["others"]:
        yield ""
        yield f"Another cluster's archive: {other['system_identifier']}, {other['objects']:,} objects, {size(other['bytes'])}"


def _when(oldest: str | None, newest: str | None) -> str:
    if oldest is None or newest is None:
        return ""
    first, last = oldest[:19].replace("T", " "), newest[:19].replace("T", " ")
    return f"stored {first} UTC" if first == last else f"stored {first} to {last} UTC"
