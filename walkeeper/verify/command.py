"""``walkeeper verify``: exit 0 the chain is sound, 1 a gap or damage, 2 cannot tell. A gap that was found is 1 in any case."""

from __future__ import annotations

import json as json_module
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace

from walkeeper.archive.contents import Contents
from walkeeper.archive.open import open_archives
from walkeeper.config import Config
from walkeeper.core.amounts import size
from walkeeper.core.coverage import Coverage, coverage, merged, subtract, united
from walkeeper.core.names import Segment
from walkeeper.lib.terminal import Progress
from walkeeper.verify import backups, rebuild, tail, text, windows
from walkeeper.verify import deep as deep_look
from walkeeper.verify.answer import hint_for, say_of_each
from walkeeper.verify.evidence import CONFIRMED, Evidence, ask_the_dcs, gather
from walkeeper.verify.judge import judge
from walkeeper.verify.target import Target, choose


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the command line asks for."""

    begin: str | None = None
    timeline: int | None = None
    system_identifier: int | None = None
    deep: bool = False
    rebuild: bool = False
    json: bool = False


def main(config: Config, request: Request) -> int:
    """Print what was found; returns the exit code, and 2 for whatever goes wrong. Of every store, where there are several."""
    return say_of_each(
        config, lambda each: _work(each, request), json=request.json and not request.rebuild, does=request.rebuild
    )


def _work(config: Config, request: Request) -> tuple[str, int]:
    if request.rebuild:
        return rebuild.run(config, request.system_identifier, request.timeline)
    with Progress() as progress:
        archives = open_archives(config, to_read=True)
        claim = ask_the_dcs(config)
        evidence = gather(
            config,
            archives.store,
            claim,
            request.system_identifier,
            lambda count: progress.show(f"{count:,} objects listed"),
        )
        target = choose(evidence, request.begin, request.timeline)
        evidence, found = _covered(evidence, target)
        opened = tail.look(evidence, target)
        deep = None
        if request.deep:
            if opened is not None:
                opened = tail.look_inside(evidence, opened, archives.codec)
            deep = deep_look.look(
                evidence,
                found,
                target.history,
                archives.codec,
                _workers(config),
                lambda so_far: _show(progress, so_far),
            )
            found = replace(found, windows=subtract(found.windows, merged(deep.broken)))
            evidence = backups.without(evidence, target.history, merged(deep.broken))
        end = windows.end_of(evidence, target, opened)
        described, untimed = windows.windows(evidence, target, found, end, archives.codec)
        backed, about_them = backups.look(
            config, evidence, archives, deep=request.deep, workers=_workers(config), progress=progress.show
        )
    findings = judge(evidence, target, found, in_flight=config.uploads)
    findings += [*tail.about(opened), *(deep.findings if deep else []), *([] if deep else untimed), *about_them]
    findings.sort(key=lambda finding: finding.severity)
    findings = [replace(each, hint=hint_for(config, each.hint)) for each in findings]
    result = text.document(evidence, target, found, opened, deep, described, findings)
    result["backups"] = backups.document(backed)
    return json_module.dumps(result, indent=2) if request.json else text.render(result), result["exit_code"]


def _workers(config: Config) -> int:
    return max(config.upload_workers, os.cpu_count() or 1)


def _show(progress: Progress, deep: deep_look.Deep) -> None:
    progress.show(
        f"{deep.objects:,} of {deep.total:,} segments, {size(deep.bytes)}"
        + (f", {deep.damaged:,} damaged" if deep.damaged else "")
    )


def _covered(evidence: Evidence, target: Target) -> tuple[Evidence, Coverage]:
    """The coverage, after a second look by name at what the listing lacks."""
    found = coverage(evidence.archived, target.history, evidence.size, target.first, target.end)
    contents = Contents(evidence.store, evidence.layout, evidence.size)
    present: dict[int, list[tuple[int, int]]] = {}
    absent = 0
    for segment, there in contents.looks(_missing(evidence, found)):
        if there:
            present.setdefault(segment.timeline, []).append((segment.number, segment.number + 1))
        absent += not there
        if absent == CONFIRMED:
            break
    if not present:
        return evidence, found
    segments = {
        timeline: united(evidence.archived.segments.get(timeline, ()), merged(present.get(timeline, ())))
        for timeline in sorted({*evidence.archived.segments, *present})
    }
    archived = replace(evidence.archived, segments=segments)
    return replace(evidence, archived=archived), coverage(
        archived, target.history, evidence.size, target.first, target.end
    )


def _missing(evidence: Evidence, found: Coverage) -> Iterator[Segment]:
    """The newest first."""
    for hole in reversed(found.holes):
        for number in range(hole.end - 1, hole.first - 1, -1):
            yield Segment(hole.timeline, number, evidence.size)
