"""``walkeeper restore``: from nothing but the store to a server that starts with one command.

Exit codes: 0 it is there, or with --dry-run it can be; 1 it is refused or went wrong; 2 the configuration or call cannot be used.
"""

from __future__ import annotations

import json as json_module
import logging
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from walkeeper.config import Config
from walkeeper.core import amounts
from walkeeper.errors import CannotRestore, Damaged
from walkeeper.lib import events
from walkeeper.lib.terminal import Progress, answered, complain, tell, wrapped
from walkeeper.restore.directory import any_store, damage, here, near, others, settings
from walkeeper.restore.directory.carry_out import Result, carry_out
from walkeeper.restore.directory.model import Plan, Request
from walkeeper.restore.directory.target import Latest, ToLsn
from walkeeper.store.several import Several

FORMAT: Final = 1
"""Of the document that --json prints."""
_SCRIPT: Final = "walkeeper-restore-wal"
_SAMPLES: Final = 3
"""Pieces that --dry-run fetches, to say how long it would take."""
_LOG_EVERY: Final = 30.0
"""Seconds between two lines of progress where no terminal shows it."""


def main(config: Config, request: Request, *, dry_run: bool, json: bool) -> int:
    """Raises what ``any_store.make_of_any`` and ``carry_out`` raise; returns 0."""
    events.to_stderr(logging.WARNING if request.use == "server" else logging.INFO)
    if os.geteuid() == 0:
        raise CannotRestore(
            "restore: this is root, and PostgreSQL does not start on what root owns",
            hint="Run it as PostgreSQL's user: sudo -u postgres walkeeper restore …",
        )
    script = restore_script()
    with Progress() as progress:
        plan = any_store.make_of_any(config, request, progress.show)
    command = settings.restore_command(script, config.source, request.scope)
    if plan.is_done:
        _check_not_recovered(plan)
        _print(_there_already(plan), _document(plan, "restored"), json=json)
        return 0
    others.check(plan)
    here.check_place(plan)
    if dry_run:
        seconds = _estimate(plan)
        _print(_told(plan, seconds), _document(plan, "planned", seconds=round(seconds)), json=json)
        return answered(0)
    if not json:
        tell("\n".join(_told(plan, None)))
    begun = time.monotonic()
    try:
        with Progress() as progress:
            result = carry_out(plan, command, _shown(progress, plan))
    except Damaged as problem:
        raise damage.instead(config, request, plan, problem) from None
    except KeyboardInterrupt:
        hint = "The same command goes on. Until that has ended, nothing there starts as a database."
        complain(f"{plan.directory}: interrupted", hint)
        raise
    seconds = time.monotonic() - begun
    document = _document(plan, "restored", seconds=round(seconds), fetched_bytes=result.fetched, kept_bytes=result.kept)
    _print(_ended(plan, result, seconds), document, json=json)
    return 0


def _check_not_recovered(plan: Plan) -> None:
    """What has ended its recovery is not what was asked for any more, whatever was written to it since."""
    if not any((plan.directory / name).exists() for name in ("recovery.signal", "standby.signal")):
        raise CannotRestore(
            f"{plan.directory}: this command has restored it, and its recovery has ended since",
            hint=near.WHOLE,
        )


def restore_script() -> str:
    """Where the script is that PostgreSQL will run: beside this Python, else on the search path. Raises CannotRestore."""
    beside = Path(sys.executable).with_name(_SCRIPT)
    found = str(beside) if beside.exists() else shutil.which(_SCRIPT)
    if not found:
        raise CannotRestore(
            f"{_SCRIPT}: it is neither beside {sys.executable} nor on the search path",
            hint="PostgreSQL gets its WAL with it. Install walkeeper from its wheel.",
        )
    return str(Path(found).absolute())


def _shown(progress: Progress, plan: Plan) -> Callable[[int], None]:
    """How much of it is there, how fast, how long it will take: on a terminal in place, else as a line now and then."""
    begun, done, total = time.monotonic(), 0, plan.bytes
    logged = begun

    def moved(count: int) -> None:
        nonlocal done, logged
        done += count
        now = time.monotonic()
        seconds = max(0.001, now - begun)
        rate = done / seconds
        left = amounts.duration(max(0, total - done) / rate) if rate else "?"
        part = min(1.0, done / total) if total else 1.0
        bar = "#" * int(20 * part)
        progress.show(f"[{bar:<20}] {part:4.0%} of {amounts.size(total)}, {amounts.rate(rate)}, {left} left")
        if not progress.shows and now - logged >= _LOG_EVERY:
            logged = now
            events.info(
                "restore_goes_on", backup=plan.backup.id, bytes=done, of=total, bytes_per_second=int(rate), left=left
            )

    return moved


def _estimate(plan: Plan) -> float:
    """Seconds, roughly: some pieces are fetched to see how fast they come, and the WAL is taken to come as fast."""
    begun, packed = time.monotonic(), 0
    pieces = sorted(plan.backups.index(plan.chain[0]), key=lambda piece: -piece.packed_size)[:_SAMPLES]
    for piece in pieces:
        for _ in plan.backups.pour(plan.chain[0], piece):
            pass
        packed += piece.packed_size
    rate = packed / max(0.001, time.monotonic() - begun)
    return (plan.packed_bytes / plan.config.restore_workers + plan.wal_bytes) / max(1.0, rate)


def _told(plan: Plan, seconds: float | None) -> list[str]:
    backup, spaces = plan.backup, plan.tablespaces.items()
    upto = f", which is at {plan.end}" if plan.end is not None and not isinstance(plan.target, Latest | ToLsn) else ""
    if "recovery_target_name" in plan.recovery:
        upto = ", the first of that name behind the backup"
    what = f"just before {plan.target.text}" if plan.request.exclusive else plan.target.text
    end = f", {plan.end}" if isinstance(plan.target, Latest) else ""
    again = f"; the name is there again at {plan.again}, where --to {plan.again} ends" if plan.again is not None else ""
    if plan.unsearched is not None:
        again += f"; whether the name is there again is not known, as WAL is missing after {plan.unsearched}"
    size = f"{amounts.size(plan.bytes)}, {amounts.size(plan.packed_bytes)} to fetch"
    stopped, wal = amounts.to_the_second(backup.stop.at), amounts.counted(plan.wal_segments, "segment")
    of_all = f", from {plan.wal_store.url}: no store has all of it" if isinstance(plan.wal_store, Several) else ""
    lines = [
        *(wrapped("Store", f"{plan.config.store_name}, {plan.evidence.store.url}") if plan.config.others else ()),
        *wrapped("Backup", f"{backup.id} of {backup.member}, PostgreSQL {backup.major}, stopped at {stopped}: {size}"),
        *(wrapped("Not used", f"{plan.passed_over}. --backup takes it") if plan.passed_over else ()),
        *(line for each in plan.stores_passed_over for line in wrapped("Not used", each)),
        *(wrapped("Not there", plan.incomplete) if plan.incomplete else ()),
        *(wrapped("DAMAGED", f"{plan.damage}. What that is about may be missing or wrong") if plan.damage else ()),
        *(
            wrapped("Chain", f"it and {amounts.counted(len(plan.chain) - 1, 'backup')} that it builds on")
            if len(plan.chain) > 1
            else ()
        ),
        *wrapped("Target", f"{what}{upto}{end} on timeline {plan.timeline}{again}"),
        *wrapped("WAL", f"{wal} at most, some {amounts.size(plan.wal_bytes)} to fetch{of_all}"),
        *wrapped("Into", "; ".join([str(plan.directory), *(f"tablespace {oid}: {place}" for oid, place in spaces)])),
    ]
    if plan.folder is None:
        lines += wrapped("Programs", f"PostgreSQL {backup.major} is not found here: install it before the start.")
    if plan.resumed is not None:
        lines += wrapped("Goes on", f"what was begun at {plan.resumed.began}")
    if seconds is not None:
        lines += wrapped(
            "Takes", f"{amounts.duration(seconds)} roughly, and the time to replay the WAL. Nothing was written."
        )
    return lines


def _ended(plan: Plan, result: Result, seconds: float) -> list[str]:
    kept = f", {amounts.size(result.kept)} were there" if result.kept else ""
    lines = [
        "",
        *wrapped(
            "Restored",
            f"in {amounts.duration(seconds)}: {amounts.size(result.fetched)} fetched{kept}. It is not started.",
        ),
    ]
    if result.aside:
        names = ", ".join(result.aside)
        lines += wrapped(
            "Aside", f"{settings.AUTO_CONF} set {names}: comments now, for you to put back when this is production."
        )
    if plan.request.use == "server" and not (plan.directory / "postgresql.conf").exists():
        lines += wrapped(
            "Settings",
            "the backup has no postgresql.conf, which lay elsewhere: the start below has PostgreSQL's defaults.",
        )
    if result.pin_problem:
        lines += wrapped("No pin", f"expire does not know of this restore: {result.pin_problem}")
    return [*lines, *_next_steps(plan)]


def _there_already(plan: Plan) -> list[str]:
    done = f"backup {plan.backup.id} is in {plan.directory} already, whole, by this command. Nothing was done."
    return [*wrapped("Restored", done), *_next_steps(plan)]


def _next_steps(plan: Plan) -> list[str]:
    if plan.request.use != "server":
        return ["Patroni starts it."]
    lines = [
        "",
        "Start it, reachable through a socket only, not archiving:",
        f"  {_start(plan)}",
        f"If it does not start, {settings.START_LOG} says why. Its settings, in {settings.START_CONF}, are for this start alone.",
    ]
    action = plan.recovery.get("recovery_target_action")
    psql = ["psql", "-h", str(settings.sockets(plan.directory)), "-p", settings.PORT]
    if action == "pause":
        lines += [
            "It replays up to the target and pauses there: 'pausing at the end of recovery' in walkeeper.log. Look at it: a",
            "query that hangs wants what a transaction had locked then, by DROP TABLE for instance, and is answered when the",
            "recovery has ended. To end it:",
            f"  {shlex.join([*psql, '-c', 'select pg_wal_replay_resume()'])}",
            "Or stop it, and restore to another target with --delta:",
            f"  {shlex.join([_pg_ctl(plan), '-D', str(plan.directory), 'stop'])}",
        ]
    elif action == "shutdown":
        lines += [
            "It replays up to the target and shuts down, at each start: pg_ctl may say that it could not start the server, and",
            f"{settings.START_LOG} has the reason, shutdown at recovery target. To open it there:",
            f"  {_start(plan, ' -c recovery_target_action=promote')}",
        ]
    else:
        lines += [
            "It replays up to the target, and then is a primary on a new timeline. pg_ctl comes back before that, when the",
            "server can be read, and not all of it is there yet: look at it, or dump from it, when this says f:",
            f"  {shlex.join([*psql, '-c', 'select pg_is_in_recovery()'])}",
        ]
    over = (
        "Then hand it over, to Patroni for instance: docs/recovery.md says how."
        if action is None
        else "Hand it over when its recovery has ended: Patroni, started earlier, replays beyond the target (docs/recovery.md)."
    )
    return [*lines, over]


def _pg_ctl(plan: Plan) -> str:
    return str(plan.folder / "pg_ctl") if plan.folder else "pg_ctl"


def _start(plan: Plan, more: str = "") -> str:
    return settings.start_command(_pg_ctl(plan), plan.directory, settings.over_auto_conf(plan.directory) + more)


def _document(plan: Plan, outcome: str, **more: Any) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "outcome": outcome,
        **({"store": plan.config.store_name} if plan.config.others else {}),
        "archive": plan.evidence.layout.root.rstrip("/"),
        "backup": plan.backup.id,
        "damage": plan.damage or None,
        "passed_over": plan.passed_over or None,
        "stores_passed_over": list(plan.stores_passed_over),
        "incomplete": plan.incomplete or None,
        "postgresql": plan.backup.major,
        "timeline": plan.timeline,
        "target": plan.request.to,
        "end": None if plan.end is None else str(plan.end),
        "again": None if plan.again is None else str(plan.again),
        "unsearched": None if plan.unsearched is None else str(plan.unsearched),
        "chain": [each.id for each in plan.chain],
        "bytes": plan.bytes,
        "packed_bytes": plan.packed_bytes,
        "wal_segments": plan.wal_segments,
        "wal_bytes": plan.wal_bytes,
        "directory": str(plan.directory),
        "tablespaces": {str(oid): str(place) for oid, place in plan.tablespaces.items()},
        "recovery": plan.recovery,
        "start": _start(plan),
        "sockets": str(settings.sockets(plan.directory)),
        **more,
    }


def _print(lines: list[str], document: dict[str, Any], *, json: bool) -> None:
    tell(json_module.dumps(document, indent=2) if json else "\n".join(lines))
