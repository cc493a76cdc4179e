"""``walkeeper backups``: which there are, and what each restores. Exit 0, or 2 for cannot tell."""

from __future__ import annotations

import json as json_module
import textwrap
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from walkeeper.archive.open import Archives, open_archives
from walkeeper.archive.restorable import Restorable, described, look, with_trials
from walkeeper.config import Config
from walkeeper.core.amounts import counted, duration, size, to_the_second
from walkeeper.core.backup import BackupId
from walkeeper.core.floor import lasting
from walkeeper.lib import clock
from walkeeper.lib.retry import with_retries
from walkeeper.lib.terminal import WIDTH, Progress, printable
from walkeeper.verify.answer import FORMAT, SOUND, hint_for, say_of_each
from walkeeper.verify.backups import last_commits
from walkeeper.verify.evidence import ask_the_dcs, locate
from walkeeper.verify.windows import described_commit, proved_lines

OLD: Final = timedelta(days=1)
"""The age of an attempt that hardly runs any more."""
_SHOWN: Final = 10
"""The newest backups, of which people are shown everything."""
_EXPIRED: Final = 3
"""Of those that were given up, which stay in the list for ever."""
_CLOCKS: Final = timedelta(minutes=1)
"""By so much clocks may differ, as for status. A commit may also lie between a backup's stop and when that was read."""


def main(config: Config, *, system_identifier: int | None, json: bool) -> int:
    """Print it; returns the exit code."""
    return say_of_each(config, lambda each: (_work(each, system_identifier, json=json), SOUND), json=json)


def _work(config: Config, system_identifier: int | None, *, json: bool) -> str:
    with Progress() as progress:
        progress.show("listing the archive")
        archives, claim = open_archives(config, to_read=True), ask_the_dcs(config)
        layout, segment_size = with_retries(lambda: locate(config, archives.store, claim, system_identifier))
        system, record = layout.system_identifier, claim.record
        ours = record if record is not None and record.system_identifier == str(system) else None
        found = with_retries(lambda: look(archives, system, segment_size, ours))
        result = document(archives, with_retries(lambda: with_trials(archives.store, layout, found)))
    for each in result["backups"]:
        each["prove"] = hint_for(config, each["prove"]) if each.get("prove") else None
    return json_module.dumps(result, indent=2) if json else "\n".join(map(printable, _lines(result)))


def document(archives: Archives, found: Restorable) -> dict[str, Any]:
    """What --json prints, and what people are shown is made from; docs/backups.md describes it."""
    system = found.holdings.system_identifier
    told = described(found)
    for window, last in zip(told["windows"], last_commits(archives, found), strict=True):
        window["last_commit"] = described_commit(last)
    held = found.expiry.held(_now())
    for each in told["backups"]:
        each["retained_until"] = held.get(each["id"])
    documents = found.documents
    others = [
        *(_attempt(archives, system, id_) for id_ in documents.attempts),
        *({"id": each.id, "state": "expired", "why": each.why} for each in documents.tombstones),
        *({"id": id_, "state": "unreadable", "why": why} for id_, why in documents.unreadable.items()),
    ]
    return {
        "format": FORMAT,
        "exit_code": SOUND,
        "store": archives.store.url,
        "archive": archives.layout(system).root.rstrip("/"),
        "system_identifier": str(system),
        "others": [str(number) for number in with_retries(lambda: archives.others(system))],
        **told,
        "backups": sorted([*told["backups"], *others], key=lambda each: str(each["id"])),
    }


def _attempt(archives: Archives, system: int, id_: BackupId) -> dict[str, Any]:
    pieces = with_retries(lambda: archives.backups(system).pieces(id_))
    old = _age(id_) > OLD
    why = "it was begun more than a day ago; walkeeper backup --resume goes on with it" if old else "it may be running"
    return {
        "id": str(id_), "state": "attempt", "why": why, "old": old, "pieces": len(pieces),
        "packed_bytes": sum(pieces.values()),
    }  # fmt: skip


def _age(id_: BackupId) -> timedelta:
    """By the clocks of who took it and of this host."""
    return timedelta.max if id_.begun is None else _now() - id_.begun


def _now() -> datetime:
    return datetime.fromtimestamp(clock.wall_seconds(), UTC)


def _lines(found: dict[str, Any]) -> Iterator[str]:
    yield f"Archive   {found['store']}/{found['archive']}"
    if not found["backups"]:
        yield "Backups   none: walkeeper backup takes one, of PostgreSQL 15 and newer"
    yield from _each(found["backups"])
    yield ""
    for window in found["windows"]:
        yield from _window(window)
    if not found["windows"]:
        yield "Restore   nothing: no backup is complete"
    yield from proved_lines(found, len("Restore   "))
    if found["others"]:
        yield ""
        yield f"Another cluster's archive under this scope: --system-identifier {' or '.join(found['others'])}"


def _each(backups: list[dict[str, Any]]) -> Iterator[str]:
    """Of many, the older ones with which all is well have a line each."""
    expired = [each for each in backups if each["state"] == "expired"]
    there = [each for each in backups if each["state"] != "expired"]
    short = [each["id"] for each in there[:-_SHOWN] if each["state"] == "complete" and not each["retained_until"]]
    left, before = [each["id"] for each in expired[:-_EXPIRED]], ""
    for each in backups:
        if each["id"] in left:
            continue
        if before not in short or each["id"] not in short:
            yield ""
        before = each["id"]
        named = f"{each['id']}  {each['kind']}, {each['state']}" if "kind" in each else f"{each['id']}  {each['state']}"
        if before in short:
            yield f"{named}, {size(each['bytes'])}; {size(each['packed_bytes'])} stored"
        else:
            yield named
            yield from (f"  {line}" for line in _about(each))
    if left:
        yield ""
        yield f"and {counted(len(left), 'older one')} that {'was' if len(left) == 1 else 'were'} given up: --json has all"


def _about(each: dict[str, Any]) -> Iterator[str]:
    if "kind" in each:
        began, ended = datetime.fromisoformat(each["start_at"]), datetime.fromisoformat(each["stop_at"])
        took = duration((ended - began).total_seconds())
        yield f"{to_the_second(each['start_at'])}, {took}, from {each['member']}, PostgreSQL {each['version'] // 10000}"
        yield f"{size(each['bytes'])} in {each['files']:,} files; {size(each['packed_bytes'])} stored"
        yield f"{each['start_lsn']} to {each['stop_lsn']} on timeline {each['timeline']}"
        if each["parent"]:
            yield f"builds on {each['parent']}"
        if each["retained_until"]:
            yield f"stays {lasting(each['retained_until'])}"
    elif each["state"] == "attempt":
        yield f"{each['pieces']:,} {'piece' if each['pieces'] == 1 else 'pieces'}, {size(each['packed_bytes'])} stored"
    if each["why"]:
        yield from textwrap.wrap(each["why"], WIDTH - 2, break_on_hyphens=False, break_long_words=False)
    if each.get("prove"):
        yield "HINT: It counts again when it is proved:"
        yield f"      {each['prove']}"


def _window(window: dict[str, Any]) -> Iterator[str]:
    dead = ", which the cluster has left" if window["dead"] else ""
    yield f"Restore   {window['start_lsn']} to {window['end_lsn']} on timeline {window['timeline']}{dead}"
    last = window["last_commit"]
    until = (
        f"before the last commit, {to_the_second(last['time'])}"
        if last
        else "the last commit, whose time is not known here"
    )
    before = _before(last["time"], window["start_at"]) if last else timedelta(0)
    if before >= _CLOCKS:
        text = (
            f"the backup stopped at {to_the_second(window['start_at'])}, and the last commit after it was made at "
            f"{to_the_second(last['time'])}: the clocks of its server and of the one that commits differ, so that times say "
            "little here. Restore to a position, or to latest"
        )
        yield from textwrap.wrap(text, WIDTH, initial_indent=" " * 10, subsequent_indent=" " * 10)
        return
    begin = "to times" if before > timedelta(0) else f"from {to_the_second(window['start_at'])} to"
    yield f"          {begin} {until}"


def _before(time: str, other: str) -> timedelta:
    """How long; none where it is not, or one of them is not a time with a zone."""
    try:
        return max(datetime.fromisoformat(other) - datetime.fromisoformat(time), timedelta(0))
    except (TypeError, ValueError):
        return timedelta(0)
