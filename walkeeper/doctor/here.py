"""What only this node can tell: Patroni's configuration, the spool, the agent, the store as it is seen from here."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from walkeeper.archive.authentic import believing
from walkeeper.archive.open import Archives, open_archives
from walkeeper.archive.restorable import claimed, summary
from walkeeper.archive.write import Archive
from walkeeper.config import Config, load
from walkeeper.control import client, paths
from walkeeper.core.lsn import Lsn
from walkeeper.core.record import Record
from walkeeper.core.suspicion import covers
from walkeeper.dcs.base import Topology
from walkeeper.dcs.patroni import settings
from walkeeper.doctor.branch import newer_branch, other_branch
from walkeeper.doctor.commands import Command, parse
from walkeeper.doctor.facts import AgentFacts, PatroniFacts, SpoolFacts, StoreFacts, Unknown
from walkeeper.errors import AgentError, BadFloor, ConfigError, Refused, StoreUnavailable, WalkeeperError
from walkeeper.lib.clock import now_utc, wall_seconds
from walkeeper.store.base import Store
from walkeeper.store.open import open_store

AGENT_SECONDS: Final = 3.0
_AGENT_SHOWS: Final = frozenset({"version", "pid", "store", "spool_limit", "started_at"})


# --- Patroni's configuration ----------------------------------------------------------------------------------------


def look_at_patroni(config: Config, topology: Topology | Unknown) -> PatroniFacts:
    """Raises ConfigError. Without the DCS the dynamic configuration is the one that Patroni keeps in the data directory."""
    local, effective = settings(config.patroni_config, {} if isinstance(topology, Unknown) else topology.dynamic)
    postgresql = _section(effective, "postgresql")
    commands = _section(postgresql, "callbacks")
    restore = _section(postgresql, "recovery_conf").get("restore_command") or _section(postgresql, "parameters").get(
        "restore_command"
    )
    promote = postgresql.get("pre_promote")
    return PatroniFacts(
        local=local,
        callbacks={str(event): _looked_up(str(text), config) for event, text in commands.items() if text},
        restore_command=_looked_up(str(restore), config) if restore else None,
        pre_promote=_looked_up(str(promote), config) if promote else None,
    )


def _section(tree: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = tree.get(key)
    return found if isinstance(found, dict) else {}


def _looked_up(text: str, config: Config) -> Command:
    command = parse(text)
    named = command.config
    return replace(
        command,
        runs=shutil.which(command.program) is not None if command.program else False,
        same_config=None if named is None else os.path.realpath(named) == os.path.realpath(config.source),
    )


# --- the store ------------------------------------------------------------------------------------------------------


def look_at_store(config: Config, record: Record | Unknown | None) -> StoreFacts:
    """Writes one object under ``probe/``, and removes it if it may. Raises ConfigError or StoreUnfit if it cannot be opened."""
    store = believing(open_store(config.store), config)
    facts = StoreFacts(url=store.url, clock_ahead=_clock(config))
    try:
        store.probe()
    except Refused as problem:  # by root, who may read it
        facts = replace(facts, problem=problem)
    except WalkeeperError as problem:
        return replace(unseen(facts, f"the store could not be probed: {problem}"), problem=problem)
    facts = replace(facts, kept_versions=_kept_versions(config))
    if isinstance(record, Unknown):
        return unseen(facts, record.because)
    if record is None:
        return replace(facts, backups=Unknown("there is no record, which says what there is"))
    try:
        return _look_at_archive(config, store, record, facts)
    except WalkeeperError as problem:
        return unseen(facts, str(problem))


def unseen(facts: StoreFacts, because: str) -> StoreFacts:
    """The same, with nothing known of the archive itself."""
    unknown = Unknown(because)
    return replace(
        facts, before_frontier=unknown, gaps=unknown, backups=unknown, other_branch=unknown, newer_branch=unknown
    )


def _look_at_archive(config: Config, store: Store, record: Record, facts: StoreFacts) -> StoreFacts:
    archives = open_archives(config, store, to_read=True)
    archive = archives.archive(int(record.system_identifier), record.size)
    accepted = archive.contents.accepted_gaps()
    gaps = [(covers(accepted, gap), gap) for gap in archive.contents.open_gaps()]
    return replace(
        facts,
        before_frontier=_before_frontier(archive, record),
        gaps=tuple(gap for is_accepted, gap in gaps if not is_accepted),
        accepted_gaps=tuple(gap for is_accepted, gap in gaps if is_accepted),
        suspected=record.suspected,
        backups=_backups(config, archives, record),
        other_branch=other_branch(config.data_dir, archive, record),
        newer_branch=newer_branch(archive, record),
    )


def _backups(config: Config, archives: Archives, record: Record) -> Mapping[str, Any] | Unknown | None:
    try:
        return summary(claimed(archives, record), wall_seconds(), config)
    except BadFloor as problem:
        return Unknown(str(problem))


def _before_frontier(archive: Archive, record: Record) -> str | None:
    """The segment that ends at the frontier, on any timeline of its number; None where the archive begins there."""
    first = record.start[8:]
    number = record.position // record.size - 1
    history = archive.contents.history(record.timeline)
    if history is None:
        return ""
    segment = history.segment(number, record.size) if number >= 0 else None
    if segment is None or segment.name[8:] < first:
        return None
    gaps = {Lsn.parse(gap.end) for gap in archive.contents.gaps()}
    if segment.end in gaps:
        return f"a recorded gap before {segment.end}"
    return segment.name if archive.contents.has(segment) else ""


def _clock(config: Config) -> float | Unknown | None:
    try:
        return config.store.clock_ahead()
    except StoreUnavailable as problem:
        return Unknown(str(problem))


def _kept_versions(config: Config) -> str | Unknown | None:
    try:
        return config.store.kept_versions()
    except WalkeeperError as problem:
        return Unknown(str(problem))


# --- the spool ------------------------------------------------------------------------------------------------------


def look_at_spool(config: Config) -> SpoolFacts:
    """Raises OSError or ConfigError."""
    path = config.spool_directory
    near = next(each for each in (path, *path.parents) if each.exists())
    disk = os.statvfs(near)
    free = disk.f_bavail * disk.f_frsize
    if not path.exists() and not path.is_symlink():
        creatable = os.access(near, os.W_OK | os.X_OK)
        return SpoolFacts(path=str(path), exists=False, free=free, creatable=creatable)
    found = path.lstat()
    return SpoolFacts(
        path=str(path),
        exists=True,
        plain=stat.S_ISDIR(found.st_mode),
        uid=found.st_uid,
        mode=stat.S_IMODE(found.st_mode),
        used=_used(path),
        free=free,
    )


def _used(path: Path) -> int:
    """Bytes in the receiver's directory; 0 where this user may not look, which is said elsewhere."""
    try:
        return sum(entry.stat(follow_symlinks=False).st_size for entry in os.scandir(path / "wal"))
    except OSError:
        return 0


def owner_of_data(config: Config) -> int:
    """Raises OSError or ConfigError."""
    return config.data_dir.stat().st_uid


def newest_backup_label(config: Config) -> str | Unknown:
    """From the ``.backup`` files that PostgreSQL leaves in pg_wal where it archives by itself. Raises OSError."""
    labels = sorted((config.data_dir / "pg_wal").glob("*.backup"), key=lambda path: path.stat().st_ctime)
    if not labels:
        return Unknown("walkeeper takes none, and PostgreSQL's pg_wal has no label of one")
    for line in labels[-1].read_text("utf-8", "replace").splitlines():
        if line.startswith("STOP TIME:"):
            return f"the newest that PostgreSQL knows of ended at {line.partition(':')[2].strip()}"
    return Unknown(f"{labels[-1].name} does not say when it ended")


# --- the agent ------------------------------------------------------------------------------------------------------


def expire_keep(config: Config) -> float | Unknown | None:
    """What the configuration says that ``backup.expire`` names."""
    named = config.backup_expire
    if named is None or named == config.source:
        return None if named is None else config.backup_keep
    try:
        return load(named, os.environ).backup_keep
    except ConfigError as problem:
        return Unknown(str(problem))


def backup_every(config: Config) -> float | None:
    """Seconds."""
    if not config.backup_schedule:
        return None
    older, newer = config.backup_schedule.last_two(now_utc())
    return (newer - older).total_seconds()


def verify_room(config: Config) -> int | Unknown:
    """Raises OSError."""
    directory = config.backup_verify_directory
    if not os.access(directory, os.W_OK | os.X_OK):
        return Unknown("it may not be written" if directory.is_dir() else "there is no such directory")
    disk = os.statvfs(directory)
    return disk.f_bavail * disk.f_frsize


def look_at_agent(config: Config, *, as_its_user: bool) -> tuple[AgentFacts | Unknown, bool]:
    """Its report; and whether it certainly is not there."""
    try:
        socket = paths.socket_path(config.source, os.environ)
        report = client.ask(socket, "status", AGENT_SECONDS)
    except AgentError as problem:
        return Unknown(f"this node's agent does not answer: {problem}"), as_its_user and "no agent is running" in str(
            problem
        )
    except paths.RunDirectoryError as problem:
        return Unknown(f"this node's agent cannot be asked: {problem}"), False
    own = report.get("agent")
    if not isinstance(own, dict) or not own.keys() >= _AGENT_SHOWS or not isinstance(report.get("troubles"), list):
        return Unknown("this node's agent is of another version, and its report is not understood"), False
    return AgentFacts(report=report), False
