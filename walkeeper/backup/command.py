"""``walkeeper backup``: a base backup of this member's own server. Exit 0: it is stored; 1: it is not, or it is damaged."""

from __future__ import annotations

import os
import secrets
import socket
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

import msgspec

from walkeeper import __version__
from walkeeper.archive.backups import Backups
from walkeeper.archive.contents import starts, stated_size
from walkeeper.archive.expiry import pin_for_backup, pinned
from walkeeper.archive.layout import Layout
from walkeeper.archive.open import Archives, open_archives
from walkeeper.backup.parent import Parent, begin_incremental, lacking, newest_chain
from walkeeper.backup.pipeline import PATIENCE, Contents, Pipeline
from walkeeper.backup.survey import Surveyed, connected, stopped_at, survey
from walkeeper.config import Config
from walkeeper.core.amounts import duration, rate, size
from walkeeper.core.backup import Backup, BackupId, Place, Tablespace, Tombstone, wal_ranges
from walkeeper.core.backup_job import DAMAGED
from walkeeper.core.floor import Pin
from walkeeper.core.incremental import BLOCK, SEGMENT, is_full_due, unfit
from walkeeper.core.lsn import Lsn, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.errors import BadBackup, CannotTell, PostgresError, StoreError, WalkeeperError, WrongCluster
from walkeeper.lib import clock, events, heap
from walkeeper.lib.retry import with_retries
from walkeeper.lib.terminal import Progress, complain, printable, tell
from walkeeper.postgres import base_backup
from walkeeper.postgres.base_backup import BackupStream, Start, Stop

STORED: Final = 0
NOT_STORED: Final = 1
INTERRUPTED: Final = 130
_LOG_EVERY: Final = 30.0
"""Seconds between two lines of progress in a log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the command line asks for. ``max_rate`` in bytes a second; ``resume`` is the id of an attempt, and so is ``job``, the
    cluster's own, which may have to be begun, or be over. ``incremental``: if it can be; the cluster's own go by
    ``backup.full_every``.
    """

    incremental: bool = False
    resume: str | None = None
    job: str | None = None
    max_rate: int | None = None
    spread: bool = False
    patience: float = PATIENCE


def main(config: Config, request: Request) -> int:
    """Take it, and say what was stored."""
    events.to_stderr()
    heap.return_large_blocks()
    attempt = _Attempt(config, request)
    try:
        return attempt.run()
    except WalkeeperError as problem:
        complain(str(problem), problem.hint)
        attempt.say_resume()
        return problem.exit_code
    except KeyboardInterrupt:
        attempt.say_resume()
        return INTERRUPTED


class _Attempt:
    """One run. ``pipeline`` is there while something is stored that ``backup.json`` does not name yet."""

    def __init__(self, config: Config, request: Request) -> None:
        self._config = config
        self._request = request
        self.id: BackupId | None = None
        self.pipeline: Pipeline | None = None
        self._why_full = ""
        """Where it was to be incremental."""

    def run(self) -> int:
        archives = open_archives(self._config)
        named = self._request.resume or self._request.job
        resumed = None if named is None else BackupId.parse(named)
        settings = self._config.postgresql
        source = survey(settings)
        layout = archives.layout(source.state.system_identifier)
        first = with_retries(lambda: _first(archives, layout, source.state.segment_size))
        with_retries(archives.store.probe)
        backups = archives.backups(source.state.system_identifier)
        may_be_new = self._request.job is not None
        there = with_retries(lambda: backups.read(resumed)) if resumed is not None and may_be_new else None
        if isinstance(there, Backup):
            events.info("backup_is_stored", backup=resumed)
            return self._verdict(there)
        known = frozenset() if resumed is None else with_retries(lambda: _attempted(backups, resumed, new=may_be_new))
        if resumed is not None and not with_retries(lambda: backups.claim(resumed, known)):
            complain(
                f"backup {resumed}: what is stored of it is encrypted for other recipients",
                "Nobody could read all of it with one key. Begin a new backup; expire clears this one up.",
            )
            return NOT_STORED if self._request.job is None else DAMAGED
        with ExitStack() as opened, Progress() as progress:
            walsender, timeline = connected(settings, source, opened)
            id_ = resumed or _new_id(timeline)
            progress.show("waiting for the checkpoint")
            walsender, start, builds_on = self._begin(id_, archives, source, walsender, opened)
            began = source.now()
            if start.lsn < first.start:
                raise PostgresError(
                    f"backup: it would begin at {start.lsn}, before the archive, which begins with {first}",
                    hint="Nothing could be replayed from there. Run CHECKPOINT on the primary, wait until a replica has "
                    "replayed it, and begin again.",
                )
            if resumed is None:
                with_retries(lambda: backups.claim(id_))
            self.id = id_
            events.info("backup_begins", backup=id_, start=start.lsn, timeline=start.timeline, bytes=start.estimate)
            meter = _Meter(id_, start.estimate, progress)
            self.pipeline = pipeline = Pipeline(
                backups, id_, workers=self._config.upload_workers, known=known, patience=self._request.patience,
                moved=meter.moved, incremental=bool(builds_on), seed=secrets.randbits(63),
            )  # fmt: skip
            with pinned(archives.store, layout, _pin(self._config, id_, start.timeline, start.lsn)):
                try:
                    stop = walsender.copy(pipeline)
                    stopped = stopped_at(settings, source)
                    contents = pipeline.finish()
                    suffix = backups.codec.suffix
                    made = _described(self._config, source, id_, (start, began), (stop, stopped), contents, suffix)
                    if builds_on:
                        made = msgspec.structs.replace(made, kind="incremental", parent=builds_on)
                    committed = pipeline.patiently(lambda: backups.commit(made))
                finally:
                    pipeline.close()
            for warning in walsender.warnings:
                events.warning("server_warns", backup=id_, text=warning)
        self.pipeline = None
        if isinstance(committed, Tombstone):
            raise BadBackup(
                f"backup {made.id}: it was given up while it was taken: {committed.why}", hint="Begin a new backup."
            )
        if committed != made:
            events.warning("another_attempt_was_first", backup=made.id, member=committed.member)
        tell("\n".join(map(printable, _lines(committed, contents, meter, self._why_full))))
        return self._verdict(committed)

    def _begin(
        self, id_: BackupId, archives: Archives, source: Surveyed, walsender: BackupStream, opened: ExitStack
    ) -> tuple[BackupStream, base_backup.Start, str]:
        """On which connection it has begun, where, and the id of the backup that it builds on, empty for a full one."""
        most = self._request.max_rate or self._config.backup_rate
        rate_kb = None if most is None else most // 1024
        wanted = base_backup.Request(f"walkeeper {id_}", self._request.spread, rate_kb)
        parent = self._parent(id_, archives, source, opened)
        if parent is not None:
            try:
                start = begin_incremental(self._config, walsender, wanted, parent, source.state)
            except PostgresError as problem:
                self._full(str(problem))
                walsender.abandon()
                walsender, _ = connected(self._config.postgresql, source, opened)
            else:
                return walsender, start, parent.id
        return walsender, walsender.begin(wanted), ""

    def _parent(self, id_: BackupId, archives: Archives, source: Surveyed, opened: ExitStack) -> Parent | None:
        """For an incremental, until ``opened`` is left; None for a full backup."""
        backups = archives.backups(source.state.system_identifier)
        full_every = self._config.backup_full_every if self._request.job is not None else None
        if not self._request.incremental and full_every is None:
            return None
        try:
            chain, passed = with_retries(lambda: newest_chain(self._config, archives, source.state, id_))
            why = unfit(
                chain, source.version_num, checksums=source.checksums, tablespaces=source.tablespaces,
                summarizes=source.summarizes,
            )  # fmt: skip
            if passed and not chain:
                why = f"{why}: {passed}"
            if source.blocks != BLOCK:
                why = f"the server's blocks have {source.blocks} bytes"
            if source.files != SEGMENT:
                why = f"the server's files have {size(source.files)} at most"
            if not why and full_every is not None and is_full_due(chain[0], full_every, clock.now_utc()):
                why = f"{chain[0].id} is full, and as old as backup.full_every"
            why = why or with_retries(lambda: lacking(backups, chain))
            if not why:
                found = chain[-1]
                manifest = with_retries(lambda: backups.read_document(found, "manifest", found.manifest))
                begin = found.wal[0]
                pin = _pin(self._config, BackupId.parse(found.id), begin.timeline, Lsn.parse(begin.start))
                opened.enter_context(pinned(archives.store, backups.layout, pin, must=True))
                if passed:
                    events.info("backup_passed_over", builds_on=found.id, not_on=passed)
                return Parent(found.id, manifest)
        except WalkeeperError as problem:  # a full one needs nothing of that
            why = str(problem)
        self._full(why)
        return None

    def _full(self, why: str) -> None:
        self._why_full = why
        events.info("backup_is_full", why=why)

    def _verdict(self, backup: Backup) -> int:
        """Of one that is stored."""
        if not backup.damage:
            return STORED
        complain(
            f"backup {backup.id}: damaged: {backup.damage[0]}",
            "It is stored and does not count. Repair the table (pg_amcheck, a replica's copy), and take another one.",
        )
        return NOT_STORED if self._request.job is None else DAMAGED

    def say_resume(self) -> None:
        """What is stored of it is not sent again."""
        if self.pipeline is not None and self.pipeline.stored:
            kind = "--incremental " if self._request.incremental else ""
            complain(
                f"backup {self.id}: not finished",
                f"walkeeper backup {kind}--resume {self.id} begins it again, and does not send again what is stored.",
            )


def _first(archives: Archives, layout: Layout, segment_size: SegmentSize) -> Segment:
    """Where this cluster's archive began. Raises WrongCluster: without its WAL a backup would restore nothing."""
    where = f"{archives.store.url}/{layout.root}"
    names = starts(archives.store, layout)
    if not names:
        raise WrongCluster(
            f"{where}: no archive of this server's cluster begins there",
            hint="Start the agent first: it begins the archive, and a backup is nothing without the WAL that follows. If there "
            "is one already, the scope or the store's prefix is another one; walkeeper doctor looks.",
        )
    stated = stated_size(archives.store, layout, names)
    found = archives.contents(layout.system_identifier, segment_size).listed(layout.starts).stated_starts(segment_size)
    if stated is None or (stated == segment_size and not found):
        raise CannotTell(f"{where}: it does not state how large its segments are", hint="walkeeper verify says more.")
    if stated != segment_size:
        raise WrongCluster(
            f"{where}: its segments have {int(stated)} bytes, this server's have {int(segment_size)}",
            hint="pg_resetwal --wal-segsize begins another archive: initialise walkeeper again under another scope.",
        )
    return found[0]


def _attempted(backups: Backups, id_: BackupId, *, new: bool) -> frozenset[str]:
    """The pieces that the attempt has stored. Raises BadBackup for what is not one any more, or, if not ``new``, never was."""
    there = backups.read(id_)
    if there is not None:
        what = "is stored already" if isinstance(there, Backup) else "was given up, and what it had stored may be gone"
        raise BadBackup(f"backup {id_}: it {what}", hint="Begin a new one, without --resume.")
    found = frozenset(backups.pieces(id_))
    if not found and not new:
        raise BadBackup(f"backup {id_}: nothing of it is stored", hint="walkeeper backups lists what there is.")
    return found


def _pin(config: Config, id_: BackupId, timeline: int, start: Lsn) -> Pin:
    """So that expire keeps it, and its WAL, while it is needed."""
    try:
        ahead = config.store.clock_ahead() or 0.0
    except StoreError:
        ahead = 0.0
    by = f"{config.node.name or socket.gethostname()}, pid {os.getpid()}"
    return pin_for_backup(id_, timeline, start, by, ahead)


def _new_id(timeline: int) -> BackupId:
    at = clock.timestamp().replace("-", "").replace(":", "")
    return BackupId(at, timeline, secrets.token_hex(4))


def _described(
    config: Config,
    source: Surveyed,
    id_: BackupId,
    start: tuple[Start, str],
    stop: tuple[Stop, str],
    contents: Contents,
    suffix: str,
) -> Backup:
    (began, began_at), (ended, ended_at) = start, stop
    orders = contents.orders
    if missing := {each.oid for each in began.tablespaces} - set(orders) or {0} - set(orders):
        raise BadBackup(f"backup {id_}: the server did not send tablespace {missing}", hint="Begin a new backup.")
    return Backup(
        id=str(id_),
        system_identifier=str(source.state.system_identifier),
        segment_size=int(source.state.segment_size),
        version=source.version_num,
        start=Place(began.timeline, str(began.lsn), began_at),
        stop=Place(ended.timeline, str(ended.lsn), ended_at),
        wal=wal_ranges(contents.manifest_end),
        damage=tuple(text[:4096] for text in ended.damage),
        checksums=source.checksums,
        suffix=".zst.age" if suffix.endswith(".age") else ".zst",
        index=contents.index,
        manifest=contents.manifest,
        order=orders[0],
        tablespaces=tuple(Tablespace(each.oid, each.location, orders[each.oid]) for each in began.tablespaces),
        files=contents.files,
        bytes=contents.file_bytes,
        pieces=contents.pieces,
        packed_bytes=contents.packed_bytes,
        seed=contents.seed,
        member=config.node.name or socket.gethostname(),
        walkeeper=__version__,
    )


class _Meter:
    """Shows how far it is: on a terminal in place, else as a line of the log now and then."""

    def __init__(self, id_: BackupId, estimate: int, progress: Progress) -> None:
        self._id = id_
        self._estimate = estimate
        self._progress = progress
        self._began = self._logged = time.monotonic()

    @property
    def seconds(self) -> float:
        return max(time.monotonic() - self._began, 0.001)

    def moved(self, came: int) -> None:
        now = time.monotonic()
        if not self._progress.shows and now - self._logged < _LOG_EVERY:
            return
        each_second = came / self.seconds
        left = max(0, self._estimate - came) / max(each_second, 1)
        self._progress.show(f"{size(came)} of about {size(self._estimate)}, {rate(each_second)}, {duration(left)} left")
        if not self._progress.shows:
            self._logged = now
            events.info(
                "backup_goes_on", backup=self._id, bytes=came, of=self._estimate, bytes_per_second=int(each_second),
                seconds_left=int(left),
            )  # fmt: skip


def _lines(backup: Backup, contents: Contents, meter: _Meter, why_full: str) -> list[str]:
    sent = "" if contents.sent_bytes == contents.packed_bytes else f", {size(contents.sent_bytes)} of them sent now"
    return [
        f"Backup    {backup.id}",
        *([f"Builds on {backup.parent}"] if backup.parent else []),
        *([f"Full      not incremental: {why_full}"] if why_full else []),
        f"Files     {backup.files:,}, {size(backup.bytes)}",
        f"Stored    {backup.pieces:,} pieces, {size(backup.packed_bytes)}{sent}",
        f"Took      {duration(meter.seconds)}, {rate(backup.bytes / meter.seconds)}",
        f"From      {backup.start.lsn} on timeline {backup.start.timeline}",
        f"To        {backup.stop.lsn} on timeline {backup.stop.timeline}; WAL up to there makes it complete",
        *(f"Damage    {text}" for text in backup.damage),
    ]
