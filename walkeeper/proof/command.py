"""``walkeeper verify --restore``: the newest complete backup and its WAL, restored for real, started and looked at.

Exit codes are verify's: 0 it restores, 1 it is damaged, 2 cannot tell. A job's is ``backup_job.DAMAGED`` instead of 1, and
``backup_job.LATER`` where only a newer backup can be proved.
"""

from __future__ import annotations

import json as json_module
import logging
import os
import pwd
import re
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Final

from walkeeper.config import Config
from walkeeper.core import amounts, backup_job
from walkeeper.core.incremental import manifest_of_whole
from walkeeper.core.lsn import Lsn
from walkeeper.core.proof import RESTORE
from walkeeper.errors import BadBackup, CannotRestore, CannotTell, Locked, StoreError
from walkeeper.lib import events
from walkeeper.lib.retry import with_retries
from walkeeper.lib.terminal import Progress, at_margin, complain, printable
from walkeeper.postgres.scratch import ScratchServer, newer_tablespace
from walkeeper.proof import fence, modest
from walkeeper.proof.found import Check, Found, commit, joined, remember
from walkeeper.proof.place import DATA, DEFAULT, check_room, clear, scratch
from walkeeper.restore.directory import here, others, settings
from walkeeper.restore.directory import plan as planning
from walkeeper.restore.directory.carry_out import BACKUP_LABEL, carry_out
from walkeeper.restore.directory.command import restore_script
from walkeeper.restore.directory.fetch import OURS
from walkeeper.restore.directory.model import Plan
from walkeeper.restore.directory.model import Request as RestoreRequest
from walkeeper.verify.answer import DAMAGED, FORMAT, SOUND, VERDICT, say

_LOOKS: Final = 0.2
"""Seconds between two looks at the server."""
_REACHED: Final = """
select json_build_object(
    'recovers', pg_is_in_recovery(),
    'lsn', pg_last_wal_replay_lsn(),
    'last_commit', to_char(pg_last_xact_replay_timestamp(), 'YYYY-MM-DD HH24:MI:SS.US'),
    'databases', (select json_agg(datname) from pg_database where datallowconn and datconnlimit <> -2),
    'other_collation', (select coalesce(json_agg(datname order by datname), '[]') from pg_database
        where datallowconn and datcollversion is not null
        and datcollversion is distinct from pg_database_collation_actual_version(oid)),
    'superuser', (select rolname from pg_roles where rolsuper and rolcanlogin order by oid limit 1))"""
_DAMAGE: Final = {"pg_verifybackup": 1, "pg_amcheck": 2, "pg_checksums": 1}
"""The exit code for what was found. pg_amcheck's 1 says that it could not look; a signal's is negative."""
_LACKING: Final = re.compile("ERROR:  (could not (access file|load library|find function)|incompatible library) ")
"""The server's words where an extension's library is not on this host, or another one."""
_LAST: Final = (
    "Proved: the backup and its WAL restore. Everything that was written for it is gone again.",
    "Damaged: see above. Restore from another backup; walkeeper backup takes a new one now.",
    "Cannot tell: it was restored and started, and not everything could be looked at.",
)
"""By exit code."""
_SAID: Final = 5
"""Lines of what a program says that are shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """As the command line has it. ``below``: where the scratch directory is made.

    ``job``: the cluster's own, on a member whose server has better things to do. ``clear``: only remove what a killed one left.
    """

    below: Path | None = None
    to: str = "latest"
    timeline: int | None = None
    system_identifier: int | None = None
    json: bool = False
    job: bool = False
    clear: bool = False


def main(config: Config, request: Request) -> int:
    """Print what was found; returns the exit code. An interrupt ends the server and removes what was written, too."""
    events.to_stderr(logging.INFO if request.job else logging.WARNING)
    if request.job or request.clear:
        modest.be()
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
            signal.signal(number, _interrupt)
    later = False

    def work() -> tuple[str, int]:
        nonlocal later
        try:
            return _work(config, request)
        except CannotTell as problem:
            later = problem.of_this_backup
            raise

    code = say(work, json=request.json, does=True)
    if not request.job:
        return code
    return backup_job.LATER if later else backup_job.DAMAGED if code == DAMAGED else code


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _work(config: Config, request: Request) -> tuple[str, int]:
    if os.geteuid() == 0:
        raise CannotRestore(
            "verify --restore: this is root, and PostgreSQL does not start as root",
            hint="Run it as PostgreSQL's user: sudo -u postgres walkeeper verify --restore",
        )
    if request.clear:
        clear(config, request.below or DEFAULT)
        return "", SOUND
    script = restore_script()
    with scratch(config, request.below) as place, Progress() as progress:
        found = Found(_planned(config, request, place, progress))
        pace = modest.Pace(found.plan.backup.id, found.plan.bytes, config.backup_rate) if request.job else None
        _prove(found, settings.restore_command(script, config.source, None), place, progress, pace)
    if found.code == SOUND:
        remember(found)
    elif damage := [each for each in found.of_the_backup if each.state == "damage"]:
        remember(found, damage=joined(damage))
    elif not found.of_the_backup:
        remember(found, besides=joined(found.wrong))
    if found.code != SOUND and request.job:
        for each in found.wrong:
            complain(f"backup {found.plan.backup.id}: {each.name}: {each.text}", _LAST[found.code])
    text = json_module.dumps(_document(found), indent=2) if request.json else "\n".join(map(printable, _lines(found)))
    return text, found.code


def _planned(config: Config, request: Request, place: Path, progress: Progress) -> Plan:
    """Raises what ``plan.make`` and ``here.check_place`` raise: nothing is written by then."""
    asked = RestoreRequest(
        to=request.to,
        timeline=None if request.timeline is None else str(request.timeline),
        directory=place / DATA,
        system_identifier=request.system_identifier,
        action=None if request.to.strip() == "latest" else "promote",
        is_trial=True,
    )
    plan = planning.make(config, asked, progress.show)
    plan = replace(plan, tablespaces={oid: place / f"tablespace-{oid}" for oid in plan.tablespaces})
    if plan.folder is None:
        raise CannotTell(
            f"no server of PostgreSQL {plan.backup.major} is here",
            hint="Install it, or set postgresql.bin_dir to where it is.",
        )
    _check_neighbours(plan)
    try:
        here.check_place(plan)
    except CannotRestore as problem:
        raise CannotRestore(
            str(problem), hint="Make room, or name another place: walkeeper verify --restore DIRECTORY"
        ) from None
    return plan


def _check_neighbours(plan: Plan) -> None:
    """Raises CannotTell. What is made later meets the fence, after all the work."""
    if which := others.newer_tablespace(plan.backup, plan.evidence.layout.system_identifier):
        raise newer_tablespace(which)


def _prove(found: Found, command: str, place: Path, progress: Progress, pace: modest.Pace | None) -> None:
    """One step after the other; what is behind one that found damage is not done. Raises CannotTell or the store's errors."""
    plan = found.plan
    begun, done = time.monotonic(), 0

    def moved(count: int) -> None:
        nonlocal done
        done += count
        check_room(place)
        if pace is not None:
            pace.moved(done)
        progress.show(f"restoring {plan.backup.id}: {amounts.size(done)} of {amounts.size(plan.bytes)}")

    try:
        found.fetched = carry_out(plan, command, moved).fetched
    except (Locked, StoreError):
        raise
    except (BadBackup, CannotTell) as problem:
        check_room(place)
        found.checks.append(Check(RESTORE, "damage", str(problem)))
        return
    begun = _took(found, "restore", begun)
    folder = plan.folder
    assert folder is not None  # noqa: S101 - it was looked at
    server = ScratchServer(
        folder, plan.backup.major, plan.directory, plan.directory / settings.START_CONF,
        settings.sockets(plan.directory), place, plan.evidence.size, meanwhile=partial(check_room, place),
    )  # fmt: skip
    progress.show("pg_verifybackup")
    found.checks.append(_as_sent(plan, server, place))
    if found.code == DAMAGED:
        return
    begun = _took(found, "pg_verifybackup", begun)
    _check_neighbours(plan)
    fence.shut(plan.directory)
    with server:
        found.reached = _recovered(plan, server, place, progress)
        begun = _took(found, "replay", begun)
        progress.show("pg_amcheck")
        workers = 1 if pace is not None else max(1, os.cpu_count() or 1)
        found.checks.append(_relations(server, found.reached["superuser"], workers, found.reached["databases"]))
        begun = _took(found, "pg_amcheck", begun)
        server.shut_down()
    fence.lift(plan.directory)
    progress.show("pg_checksums")
    found.checks.append(_pages(plan, server))
    _took(found, "pg_checksums", begun)


def _took(found: Found, what: str, begun: float) -> float:
    now = time.monotonic()
    found.seconds[what] = round(now - begun)
    return now


def _recovered(plan: Plan, server: ScratchServer, place: Path, progress: Progress) -> dict[str, Any]:
    """Once it is a primary: how far it came. Raises CannotTell."""
    own = plan.config.node.postgresql
    users = [*([own.user] if own is not None else []), pwd.getpwuid(os.geteuid()).pw_name, "postgres"]
    while True:
        check_room(place)
        answer = server.ask(_REACHED, users)
        if answer is not None and not answer["recovers"]:
            return {**answer, "lsn": str(Lsn.parse(answer["lsn"] or "0/0"))}  # PostgreSQL 19 says 0/08000000
        if at := server.replayed:
            progress.show(f"replaying WAL: at {at}" + (f" of {plan.end}" if plan.end is not None else ""))
        time.sleep(_LOOKS)


def _as_sent(plan: Plan, server: ScratchServer, place: Path) -> Check:
    """Each file is what the server sent, by PostgreSQL's own manifest."""
    name = "pg_verifybackup"
    if not server.has(name):
        return Check(name, "absent", "not installed")
    manifest = place / "backup_manifest"
    plain = with_retries(lambda: plan.backups.read_document(plan.backup, "manifest", plan.backup.manifest))
    ours = [settings.AUTO_CONF, *sorted(OURS)]
    if len(plan.chain) > 1:
        parts = (part for piece in with_retries(lambda: plan.backups.index(plan.backup)) for part in piece.parts)
        plain = manifest_of_whole(plain, {part.path: part.restored for part in parts if part.offset == 0})
        ours.append(BACKUP_LABEL)
    manifest.write_bytes(plain)
    ignored = [f"--ignore={each}" for each in ours]
    ran = server.run(name, ["--no-parse-wal", "--quiet", f"--manifest-path={manifest}", *ignored, plan.directory])
    return _judged(name, ran.code, ran.err)


def _relations(server: ScratchServer, superuser: str | None, workers: int = 1, databases: Sequence[str] = ()) -> Check:
    """Tables and B-tree indexes of all databases."""
    name = "pg_amcheck"
    if not server.has(name):
        return Check(name, "absent", "not installed")
    if superuser is None:
        return Check(name, "absent", "no superuser may connect")
    if why := server.move_amcheck(superuser, databases):
        return Check(name, "unsure", why)
    ran = server.run(
        name,
        [
            "--all", "--install-missing", "--no-password", f"--host={server.sockets}", "--port=5432",
            f"--username={superuser}", f"--jobs={workers}",
        ],
    )  # fmt: skip
    if ran.code == _DAMAGE[name] and _only_lacks(ran.out):
        return Check(name, "unsure", f"this host lacks an extension of the cluster: {_shown(ran.out)}")
    return _judged(name, ran.code, ran.out, ran.err)


def _only_lacks(out: Path) -> bool:
    """Whether pg_amcheck reports nothing but libraries that the server did not get. It names a relation, and below it, indented,
    what is wrong with it.
    """
    named = lacks = 0
    with out.open(errors="replace") as lines:
        for line in lines:
            if not line[0].isspace():
                named += 1
            elif _LACKING.search(line):
                lacks += 1
    return 0 < named == lacks


def _pages(plan: Plan, server: ScratchServer) -> Check:
    """Every page's checksum, of a server that was shut down."""
    name = "pg_checksums"
    if not plan.backup.checksums:
        return Check(name, "absent", "the cluster has no data checksums")
    if not server.has(name):
        return Check(name, "absent", "not installed")
    ran = server.run(name, ["--check", "-D", plan.directory])
    return _judged(name, ran.code, ran.err, ran.out)


def _judged(name: str, code: int, *files: Path) -> Check:
    """``files``: what it said; the first that is not empty is shown."""
    if code == 0:
        return Check(name, "ok")
    said = next(filter(None, map(_shown, files)), "")
    if code == _DAMAGE[name]:
        return Check(name, "damage", said)
    how = f"it was ended by signal {-code}" if code < 0 else f"it ended with exit code {code}"
    return Check(name, "unsure", f"{how}: {said}" if said else how)


def _shown(path: Path) -> str:
    """Its first lines, and how many more there are."""
    with path.open(errors="replace") as file:
        lines = (line.strip() for line in file if not line.isspace())
        first, more = list(islice(lines, _SAID)), sum(1 for _ in lines)
    return " / ".join(first) + (f" / and {more} lines more" if more else "")


def _document(found: Found) -> dict[str, Any]:
    plan, reached = found.plan, found.reached
    return {
        "format": FORMAT,
        "verdict": VERDICT[found.code],
        "exit_code": found.code,
        "store": plan.evidence.store.url,
        "archive": plan.evidence.layout.root.rstrip("/"),
        "backup": plan.backup.id,
        "stop_at": plan.backup.stop.at,
        "bytes": plan.bytes,
        "fetched_bytes": found.fetched,
        "target": plan.request.to,
        "timeline": plan.timeline,
        "lsn": reached.get("lsn"),
        "last_commit": commit(reached) or None,
        "databases": len(reached["databases"]) if reached else None,
        "other_collation": reached.get("other_collation"),
        "checks": [{"name": each.name, "state": each.state, "text": each.text or None} for each in found.checks],
        "seconds": found.seconds,
        "remembered": found.remembered,
        "cleared": found.cleared or None,
        "stays": found.stays or None,
    }


def _lines(found: Found) -> list[str]:
    return [*at_margin(_rows(found)), "", _LAST[found.code]]


def _rows(found: Found) -> Iterator[tuple[str, str]]:
    plan, reached = found.plan, found.reached
    stopped = amounts.to_the_second(plan.backup.stop.at)
    yield "Backup", f"{plan.backup.id} of {plan.backup.member}, PostgreSQL {plan.backup.major}, of {stopped}"
    if "restore" in found.seconds:
        took = amounts.duration(found.seconds["restore"])
        yield "Restored", f"in {took}: {amounts.size(plan.bytes)}, {amounts.size(found.fetched)} fetched"
    if reached:
        last = f", the last commit at {commit(reached)}" if commit(reached) else ""
        took = amounts.duration(found.seconds["replay"])
        yield "Replayed", f"in {took}, up to {reached['lsn']} on timeline {plan.timeline}{last}"
        good = [each.name for each in found.checks if each.state == "ok"]
        count = amounts.counted(len(reached["databases"]), "database")
        yield "Checked", ", ".join([f"it starts, with {count}", *good])
        if sorts := ", ".join(reached["other_collation"]):
            other = f"sorted by another version of libc or ICU than this host's: database {sorts}"
            needs = "a server here, or on a host like this one, needs REINDEX of its indexes on text"
            yield "Collation", f"{other}. Not the backup's fault: {needs}."
    for each in found.checks:
        if each.state != "ok":
            word = {"absent": "Without", "damage": "DAMAGE", "unsure": "UNSURE"}[each.state]
            yield word, f"{each.name}: {each.text}"
    if found.cleared:
        yield "Cleared", f"expire counts this backup again: {found.cleared}; that is not there any more"
    if found.stays:
        yield "Stays", f"expire does not count this backup: {found.stays}; what found that did not look now"
