"""What the DCS and the store say about one archive, put together. Used by verify, list and fetch; nothing is judged here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Final

from walkeeper.archive import contents
from walkeeper.archive.contents import Inventory, Listing, Names
from walkeeper.archive.expiry import below_floors
from walkeeper.archive.histories import stored_history
from walkeeper.archive.layout import Layout
from walkeeper.archive.life import is_planted
from walkeeper.archive.open import open_archives
from walkeeper.archive.stored_runs import Runs
from walkeeper.config import Config
from walkeeper.core.coverage import Archived
from walkeeper.core.history import History
from walkeeper.core.lsn import SegmentSize
from walkeeper.core.names import Segment
from walkeeper.dcs.base import RECORD, RecordStore
from walkeeper.dcs.claim import Claim, read_claim, unknown
from walkeeper.errors import BadRecord, CannotTell, DcsError, Refused, WalkeeperError
from walkeeper.lib.parallel import in_parallel
from walkeeper.postgres.data_directory import read_control_file
from walkeeper.store.base import Store

DCS_SECONDS: Final = 5.0
"""Seconds for one call to the DCS."""
CONFIRMED: Final = 64
"""Names that a listing lacks and that are asked for in vain, newest first: a listing may be late."""
_AT_ONCE: Final = 8
_SHOWN: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """One archive. ``starts`` are those that the store states, in order; ``histories`` are those that can be read."""

    store: Store
    layout: Layout
    size: SegmentSize
    claim: Claim
    starts: Sequence[Segment]
    inventory: Inventory
    runs: Mapping[tuple[int, str], Runs]
    archived: Archived
    histories: Mapping[int, History]
    bad_histories: Mapping[int, str]
    others: Mapping[int, Inventory]
    """Archives of other system identifiers below the same prefix."""
    strange: Names

    @property
    def start(self) -> Segment | None:
        """The newest that is stated."""
        return self.starts[-1] if self.starts else None

    @property
    def begins(self) -> Segment | None:
        """Where the archive begins: as the store states it, else as the record does."""
        record = self.claim.record
        return self.start or (None if record is None else Segment.parse(record.start, self.size))

    def history(self, timeline: int) -> History | None:
        """As it is stored; else as a descendant tells it; else, for the timeline that the archive began on, without ancestors."""
        if timeline in self.histories:
            return self.histories[timeline]
        for descendant in self.histories.values():
            if descendant.includes(timeline):
                return descendant.up_to(timeline)
        begins = self.begins
        return History(timeline) if timeline == 1 or (begins and begins.timeline == timeline) else None

    def described(self) -> dict[str, Any]:
        """Which archive it is, and what the DCS says of it: the beginning of every document about it."""
        record = self.claim.record
        return {
            "store": self.store.url,
            "archive": self.layout.root.rstrip("/"),
            "system_identifier": str(self.layout.system_identifier),
            "segment_size": int(self.size),
            "record": None
            if record is None
            else {
                "timeline": record.timeline,
                "frontier": record.lsn,
                "owner": record.owner,
                "updated_at": record.updated_at,
            },
        }


def ask_the_dcs(config: Config) -> Claim:
    """Never raises: a restore host may have no DCS at all."""
    try:
        with closing(open_records(config)) as records:
            return read_claim(records)
    except WalkeeperError as problem:
        return unknown(problem)
    except ImportError as problem:
        return unknown(DcsError(str(problem)))


def open_records(config: Config) -> RecordStore:
    """Raises ConfigError where no DCS is configured."""
    from walkeeper.dcs.patroni import connect  # noqa: PLC0415 - Patroni takes 400 ms

    return connect(
        config.patroni_config, config.node.name, min(DCS_SECONDS, config.agent.dcs_timeout), config.key(RECORD)
    )


def gather(
    config: Config,
    store: Store,
    claim: Claim,
    system_identifier: int | None = None,
    seen: Callable[[int], None] = lambda _: None,
) -> Evidence:
    """One LIST, the histories, and what else is small. Raises CannotTell where there is no such archive, or the store's errors.

    ``claim`` was read before: so that what it says is in the store is in a listing that begins now.
    """
    listing = contents.take(store, config.scope, config.group, seen)
    chosen = _which(config, claim, listing, system_identifier, f"{store.url}/{config.scope}")
    layout = open_archives(config, store, to_read=True).layout(chosen)
    found = listing.archives.pop(chosen)
    claim = _of_this_cluster(claim, chosen)
    size = _segment_size(store, layout, claim, found.starts)
    starts, record = found.stated_starts(size), claim.record
    begin = starts[-1].timeline if starts else 1
    histories, bad = _histories(store, layout, set(found.histories), begin, record.timeline if record else 1)
    found.signs = {token: sign for token, sign in found.signs.items() if not is_planted(store, layout, sign)}
    return Evidence(
        store=store,
        layout=layout,
        size=size,
        claim=claim,
        starts=starts,
        inventory=found,
        runs=found.runs(size),
        archived=replace(found.archived(size), histories=frozenset(histories), below=below_floors(store, layout)),
        histories=histories,
        bad_histories=bad,
        others=listing.archives,
        strange=listing.strange,
    )


def locate(config: Config, store: Store, claim: Claim, system_identifier: int | None) -> tuple[Layout, SegmentSize]:
    """Only where the archive is, with a LIST of the whole prefix only where nothing else says it. Raises as ``gather`` does."""
    chosen = system_identifier or which_cluster(config, claim)
    if chosen is None:
        listing = contents.take(store, config.scope, config.group)
        chosen = _which(config, claim, listing, None, f"{store.url}/{config.scope}")
    layout = open_archives(config, store, to_read=True).layout(chosen)
    starts = contents.starts(store, layout)
    if not starts:
        raise CannotTell(
            f"{store.url}/{layout.root}: there is no archive there",
            hint="Is it the right bucket, prefix and scope, and is the disk mounted? An archive begins with start/.",
        )
    return layout, _segment_size(store, layout, _of_this_cluster(claim, chosen), starts)


def _of_this_cluster(claim: Claim, system_identifier: int) -> Claim:
    record = claim.record
    if record is None or int(record.system_identifier) == system_identifier:
        return claim
    return unknown(BadRecord(f"the record in the DCS is of system identifier {record.system_identifier}"))


def which_cluster(config: Config, claim: Claim) -> int | None:
    """The system identifier as the record says it, or this machine's own server; None where neither is there."""
    if claim.record is not None:
        return int(claim.record.system_identifier)
    if config.node.data_dir is None:
        return None
    try:
        return read_control_file(config.node.data_dir).system_identifier
    except CannotTell:
        return None


def _which(config: Config, claim: Claim, listing: Listing, wanted: int | None, prefix: str) -> int:
    there = sorted(number for number, found in listing.archives.items() if found.objects)
    named = wanted or which_cluster(config, claim)
    if named is None and len(there) == 1:
        return there[0]
    if named in there:
        return named
    if not there:
        raise CannotTell(
            f"{prefix}: there is no archive there",
            hint="Is it the right bucket, prefix and scope, and is the disk mounted? walkeeper status says what archives where.",
        )
    shown = ", ".join(str(number) for number in there[:_SHOWN])
    if named is None:
        raise CannotTell(
            f"{prefix}: it has the archives of {len(there)} clusters: {shown}",
            hint="Choose one with --system-identifier. "
            f"What is in the first says walkeeper backups --system-identifier {there[0]}",
        )
    raise CannotTell(
        f"{prefix}: it has no archive of system identifier {named}, but of {shown}",
        hint="The cluster was initialised again under the same scope, or this is another cluster's prefix. "
        "--system-identifier looks at one of those.",
    )


def _segment_size(store: Store, layout: Layout, claim: Claim, starts: list[str]) -> SegmentSize:
    if claim.record is not None:
        return claim.record.size
    if size := contents.stated_size(store, layout, starts):
        return size
    raise CannotTell(
        f"{store.url}/{layout.root}: it does not state its start, and there is no record that does",
        hint="An archive begins with an object below start/, which the first takeover writes and restore-wal needs. With the "
        "DCS reachable the next takeover writes it again.",
    )


def _histories(
    store: Store, layout: Layout, listed: set[int], begin: int, newest: int
) -> tuple[dict[int, History], dict[int, str]]:
    """Those that are listed, and those of the timelines after ``begin`` up to ``newest`` that are there nevertheless."""

    def read(timeline: int) -> tuple[int, History | str | None]:
        try:
            return timeline, stored_history(store, layout, timeline) or there.get(timeline)
        except (Refused, CannotTell) as problem:
            return timeline, str(problem)

    there = dict.fromkeys(listed, "it is listed, and not there")
    late = islice((each for each in range(max([newest, *listed]), begin, -1) if each not in listed), CONFIRMED)
    read_all = dict(in_parallel(read, sorted([*listed, *late]), _AT_ONCE))
    return (
        {timeline: read for timeline, read in sorted(read_all.items()) if isinstance(read, History)},
        {timeline: read for timeline, read in sorted(read_all.items()) if isinstance(read, str)},
    )
