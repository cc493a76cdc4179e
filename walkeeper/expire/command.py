"""``walkeeper expire``: says what may go and what remains; with ``--apply`` it records the floor, and deletes below older ones.

Exit 0: said, or done; 1: refused, and why; 2: cannot tell.
"""

from __future__ import annotations

import json as json_module
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from walkeeper.archive.open import open_archives
from walkeeper.archive.proofs import proved_by
from walkeeper.config import Config
from walkeeper.core.amounts import counted, duration, size, to_the_second
from walkeeper.core.coverage import Range, intersect
from walkeeper.core.floor import LEAST_GRACE, lasting, moment, written
from walkeeper.core.record import Record
from walkeeper.core.retention import FULLS, Policy, too_few
from walkeeper.dcs.claim import read_claim
from walkeeper.errors import CannotTell, Unsafe
from walkeeper.expire.delete import Deleted
from walkeeper.expire.look import CLOCKS, Looked
from walkeeper.expire.run import Ran, Runner
from walkeeper.lib import clock
from walkeeper.lib.terminal import Progress, at_margin, complain, printable
from walkeeper.postgres.data_directory import read_control_file
from walkeeper.verify.answer import FORMAT, hint_for, say
from walkeeper.verify.evidence import open_records

DONE: Final = 0
REFUSED: Final = 1
_WIDTH: Final = 96
_VERIFY: Final = "walkeeper verify says more of it; walkeeper backup takes a new one."


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the command line asks for. ``grace`` in seconds. ``job``: it is the cluster's own run, after that backup."""

    apply: bool = False
    number: int | None = None
    grace: float = LEAST_GRACE
    json: bool = False
    job: str | None = None


def main(config: Config, request: Request) -> int:
    """Print it; returns the exit code."""
    return say(lambda: _work(config, request), json=request.json, does=request.apply)


def _work(config: Config, request: Request) -> tuple[str, int]:
    policy = policy_of(config, request.number)
    with Progress() as progress:
        progress.show("looking at the archive")
        record = owned_record(config)
        now = store_time(config)
        runner = Runner(
            archives=open_archives(config),
            size=record.size,
            record=record,
            policy=policy,
            grace=timedelta(seconds=max(request.grace, LEAST_GRACE)),
            member=config.name,
        )
        found = runner.consider(now)
        if request.apply and found.looked.refused is None:
            found = runner.apply(found, lambda so_far: _show(progress, so_far))
    result = document(found, policy)
    result["prove"] = {id_: hint_for(config, command) for id_, command in result["prove"].items()}
    text = (
        json_module.dumps(result, indent=2)
        if request.json
        else "\n".join(map(printable, at_margin(_rows(result), _WIDTH)))
    )
    refused, archive = found.looked.refused, found.looked.archive
    if request.job is not None:
        for id_, why in result["damaged"].items():
            complain(f"backup {id_}: it does not count: {why}", _more(result, id_))
    if refused is None:
        return text, DONE
    if request.job is not None:
        if policy != Policy() and not archive.expiry.floors and too_few(archive.windows, archive.holdings):
            return text, DONE  # a young archive: the cluster's first backups are no reason for an alarm
        complain(str(refused), refused.hint)
    return text, REFUSED


def policy_of(config: Config, number: int | None) -> Policy:
    """By the configuration, and ``number`` of full backups. What the store does not let go is not given up."""
    if config.backup_keep is None and number is None:
        return Policy()
    keep = max(config.backup_keep or 0.0, config.store.locked_seconds)
    return Policy(timedelta(seconds=keep) if keep else None, number)


def owned_record(config: Config) -> Record:
    """The record, which is this member's. Raises Unsafe where it is not, or CannotTell where the DCS does not say it."""
    with closing(open_records(config)) as records:
        claim = read_claim(records)
    record = claim.record
    if record is None:
        raise CannotTell(
            f"record in the DCS: {claim.why}", hint="Without it nobody knows what is needed: nothing was changed."
        )
    if record.owner != config.name:
        raise Unsafe(
            f"record in the DCS: {record.owner or 'nobody'} owns it, and this is {config.name}",
            hint=f"Run it on {record.owner}."
            if record.owner
            else "Wait until the agent of Patroni's leader has taken over.",
        )
    here = read_control_file(config.data_dir).system_identifier
    if str(here) != record.system_identifier:
        raise Unsafe(
            f"{config.data_dir}: system identifier {here}, the record is of {record.system_identifier}",
            hint="This is another cluster's server, or another cluster's record. walkeeper doctor says more.",
        )
    return record


def store_time(config: Config) -> datetime:
    """By the store's clock. Raises Unsafe where this node's is another, or the store's errors."""
    ahead = config.store.clock_ahead() or 0.0
    if abs(ahead) > CLOCKS:
        word = "ahead of" if ahead > 0 else "behind"
        raise Unsafe(
            f"clock: the store's is {duration(abs(ahead))} {word} this node's",
            hint="What is old is told by the time: set the clock (chrony, systemd-timesyncd) first.",
        )
    return datetime.fromtimestamp(clock.wall_seconds() + ahead, UTC)


def document(found: Ran, policy: Policy) -> dict[str, Any]:
    """What --json prints, and what people are shown is made from; docs/retention.md describes it."""
    looked, plan, floor = found.looked, found.looked.plan, found.floor
    expiry = looked.archive.expiry
    going, packed = looked.going, {each.id: each.packed_bytes for each in looked.archive.documents.backups}
    return {
        "format": FORMAT,
        "exit_code": REFUSED if looked.refused else DONE,
        "refused": str(looked.refused) if looked.refused else None,
        "hint": looked.refused.hint if looked.refused else None,
        "keep_seconds": policy.keep.total_seconds() if policy.keep else None,
        "keep_number": max(policy.number or 0, FULLS),
        "oldest": plan.oldest.id if plan else None,
        "retained": list(plan.retained) if plan else [],
        "retained_until": {
            each.backup: each.until
            for each in expiry.retained
            if each.backup in packed and looked.elapsed.now_since(moment(each.at)) < moment(each.until)
        },
        "pins": list(plan.pinned) if plan else [],
        "damaged": dict(looked.broken),
        "prove": {id_: said for id_ in sorted(looked.tried) if (said := proved_by(looked.archive.windows, id_))},
        "stood": None if looked.elapsed.stood is None else [written(at) for at in looked.elapsed.stood],
        "next_floor": None
        if floor is None
        else {
            "number": floor.number,
            "recorded": found.deleted is not None,
            "start": floor.start,
            "start_lsn": str(floor.first.start),
            "stands_from": written(floor.stands_from),
            "segments": _stored(looked, floor.given_up),
            "backups": list(floor.backups),
            "backup_bytes": sum(packed.get(id_, 0) for id_ in floor.backups),
        },
        "waiting": [
            {"number": each.number, "start": each.start, "stands_from": written(expiry.stands_from(each))}
            for each in expiry.floors
            if each.number not in expiry.done and each not in expiry.standing(looked.now)
        ],
        "going": {"segments": _stored(looked, going.wal), "backups": [*going.backups, *going.unfinished]},
        "windows": [
            {"timeline": each.timeline, "start_lsn": str(each.start), "start_at": each.backups[0].stop.at,
             "end_lsn": str(each.end), "dead": each.dead}
            for each in (plan.remains.shown if plan else looked.archive.windows.shown)
        ],
        "deleted": None if found.deleted is None else _deleted(found.deleted),
    }  # fmt: skip


def _deleted(deleted: Deleted) -> dict[str, Any]:
    return {
        "objects": deleted.objects,
        "bytes": deleted.bytes,
        "backups": deleted.backups,
        "retained_objects": len(deleted.retained),
        "retained": deleted.retained[:20],
    }


def _stored(looked: Looked, given_up: Mapping[int, Sequence[Range]]) -> int:
    """Of those numbers, how many are in the store."""
    segments = looked.archive.holdings.archived.segments
    return sum(
        each.length for timeline, ranges in given_up.items() for each in intersect(ranges, segments.get(timeline, ()))
    )


def _show(progress: Progress, so_far: Deleted) -> None:
    progress.show(f"{so_far.objects:,} objects deleted, {size(so_far.bytes)}")


def _rows(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if found["refused"]:
        yield "Refused", found["refused"]
        yield "", f"HINT: {found['hint']}"
        yield from _damaged(found)
        yield "", "Nothing was changed."
        return
    age = f"every second of the last {duration(found['keep_seconds'])}, and " if found["keep_seconds"] else ""
    yield "Keeps", f"{age}{found['keep_number']} full backups at least"
    yield "", f"all from {found['oldest']} on"
    for id_, until in found["retained_until"].items():
        yield "", f"retained {lasting(until)}: {id_}"
    for id_ in found["retained"]:
        if id_ not in found["retained_until"]:
            yield "", f"retained, as another builds on it: {id_}"
    if found["pins"]:
        yield "", f"what is pinned, as walkeeper pins says: {', '.join(found['pins'])}"
    if found["stood"]:
        begin, end = found["stood"]
        why = "no other two backups are so far apart, and a clock may have jumped"
        yield "Time", f"{begin} to {end} makes nothing older: {why}"
    yield from _damaged(found)
    yield from _floors(found)
    for window in found["windows"]:
        dead = ", which the cluster has left" if window["dead"] else ""
        yield "Remains", f"{window['start_lsn']} to {window['end_lsn']} on timeline {window['timeline']}{dead}"
        yield "", f"from {to_the_second(window['start_at'])} on"
    yield from _now(found)


def _damaged(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for id_, why in found["damaged"].items():
        yield "Damaged", f"{id_} does not count: {why}"
        yield "", f"HINT: {_more(found, id_)}"


def _more(found: dict[str, Any], id_: str) -> str:
    """What to do about one that does not count."""
    if id_ not in found["prove"]:
        return _VERIFY
    return f"It counts again when it is proved: {found['prove'][id_]}. walkeeper backup takes a new one."


def _floors(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for floor in found["waiting"]:
        yield "Floor", f"{floor['number']}, from {floor['start']} on, waits until {to_the_second(floor['stands_from'])}"
    floor = found["next_floor"]
    if floor is None:
        yield "Gives up", "nothing that was not given up before"
        return
    yield "Gives up", f"WAL before {floor['start_lsn']}, {counted(floor['segments'], 'segment')}"
    for id_ in floor["backups"]:
        yield "", f"backup {id_}"
    if floor["backups"]:
        yield "", f"{size(floor['backup_bytes'])} of base backups"


def _now(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    floor, going, deleted = found["next_floor"], found["going"], found["deleted"]
    if deleted is not None:
        if deleted["objects"]:
            yield "Deleted", f"{counted(deleted['objects'], 'object')}, {size(deleted['bytes'])}"
        if deleted["retained_objects"]:
            some = f"{counted(deleted['retained_objects'], 'object')}, {deleted['retained'][0]} for one"
            yield "Retained", f"{some}: an object lock, or no right to delete; the next run tries again"
        if floor is not None:
            stands = f"from {to_the_second(floor['stands_from'])} on --apply deletes below it; --revoke ends it before"
            yield "Recorded", f"floor {floor['number']}: {stands}"
        return
    if going["segments"] or going["backups"]:
        both = f"{counted(going['segments'], 'segment')} and {counted(len(going['backups']), 'backup')}"
        yield "Now", f"--apply deletes {both} below an older floor"
    if floor is not None:
        after = "deletes nothing of the above before its grace is over"
        yield "Now", f"--apply records floor {floor['number']}, and {after}"
    yield "", "Nothing was changed."
