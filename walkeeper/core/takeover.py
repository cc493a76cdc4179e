"""The takeover decision (design: "The protocol", steps 3 to 5)."""

from __future__ import annotations

from dataclasses import dataclass

from walkeeper.core.history import History
from walkeeper.core.lsn import Lsn, SegmentSize
from walkeeper.core.record import Record
from walkeeper.errors import BadRecord, WrongCluster, WrongTimeline


@dataclass(frozen=True, slots=True)
class LocalServer:
    """What the node that wants the record knows about its own PostgreSQL."""

    system_identifier: int
    segment_size: SegmentSize
    history: History
    lsn: Lsn
    """How far its WAL reaches."""


def resume_at(record: Record, record_history: History, local: LocalServer) -> Lsn:
    """Where the local server's archiver goes on: the start of a segment at or below the record's frontier.

    Everything below it, along the local history, is in the store. Raises WrongCluster, WrongTimeline (this node must not
    take over), or BadRecord (the record cannot be true; it must be rebuilt from the store).
    """
    if int(record.system_identifier) != local.system_identifier:
        raise WrongCluster(
            f"record in the DCS: of system identifier {record.system_identifier}, this server's is {local.system_identifier}",
            hint="The cluster was initialised again under the same scope. If that was meant, remove the record "
            "(patronictl remove does it, or delete its key) and restart the agent: the old archive stays as it is.",
        )
    if record.size != local.segment_size:
        raise WrongCluster(
            f"record in the DCS: segments of {record.segment_size} bytes, this server's have {local.segment_size}",
            hint="wal_segment_size was changed, which needs a new archive: give the store another prefix.",
        )
    if local.history.timeline < record.timeline:
        raise WrongTimeline(
            f"timeline {local.history.timeline}: the archive is already on timeline {record.timeline}",
            hint="This server was the primary of an older branch. Patroni will rewind or rebuild it.",
        )
    forks = local.history.parts_from(record_history)
    if forks is None and record.position > local.lsn.floor(local.segment_size) + local.segment_size:
        raise BadRecord(
            f"record in the DCS: the frontier {record.lsn} lies beyond this server's WAL, which ends at {local.lsn}",
            hint="walkeeper does not trust it and looks at the store instead.",
        )
    return (record.position if forks is None else min(record.position, forks)).floor(local.segment_size)
