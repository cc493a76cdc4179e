"""The takeover decision (design: "The protocol", steps 3 to 5)."""

from __future__ import annotations

from dataclasses import dataclass

from walkeeper.core.history import History
from walkeeper.core.lsn import Lsn, SegmentSize
from walkeeper.core.record import Record
from walkeeper.errors import BeyondServer, StandbyLags, WrongCluster, WrongSegmentSize, WrongTimeline


@dataclass(frozen=True, slots=True)
class LocalServer:
    """What the node that wants the record knows about its own PostgreSQL."""

    system_identifier: int
    segment_size: SegmentSize
    history: History
    lsn: Lsn
    """How far its WAL reaches."""
    in_recovery: bool = False
    """A standby cluster's leader."""


def check_cluster(record: Record, local: LocalServer) -> None:
    """That the record is of this server's cluster. It comes before everything else that is looked at.

    Raises WrongCluster or WrongSegmentSize.
    """
    if int(record.system_identifier) != local.system_identifier:
        raise WrongCluster(
            f"record in the DCS: of system identifier {record.system_identifier}, this server's is {local.system_identifier}",
            hint="The cluster was initialised again under the same scope, or upgraded with pg_upgrade. If that was meant: "
            "walkeeper takeover --accept begins an archive beside the old one, which stays as it is; then take a base backup. If "
            "not, this server has another cluster's scope or data directory.",
        )
    if record.size != local.segment_size:
        raise WrongSegmentSize(
            f"record in the DCS: segments of {record.segment_size} bytes, this server's have {local.segment_size}",
            hint="wal_segment_size was changed, which needs a new archive: give the store another prefix.",
        )


def common_end(record: Record, record_history: History, local: LocalServer) -> Lsn:
    """Up to where the record's WAL is also the local server's: its frontier, or the fork if that comes before it.

    Raises WrongCluster, WrongTimeline (this node must not take over), BeyondServer (the record claims what this server has not
    written) or StandbyLags.
    """
    check_cluster(record, local)
    if local.history.timeline < record.timeline:
        raise WrongTimeline(
            f"timeline {local.history.timeline}: the archive is already on timeline {record.timeline}",
            hint="This server was the primary of an older branch. Patroni will rewind or rebuild it.",
        )
    forks = local.history.parts_from(record_history)
    if forks is not None:
        return min(record.position, forks)
    if record.position > local.lsn:
        raise beyond(f"record in the DCS: the frontier {record.lsn}", local)
    return record.position


def resume_at(record: Record, record_history: History, local: LocalServer) -> Lsn:
    """Where the local server's archiver goes on: the start of a segment at or below the record's frontier.

    Everything below it, along the local history, is in the store, if the record is true. Raises as ``common_end``.
    """
    return common_end(record, record_history, local).floor(local.segment_size)


def beyond(what: str, local: LocalServer) -> BeyondServer | StandbyLags:
    """The error for ``what`` of the local timeline, which lies beyond the local server's WAL."""
    text = f"{what} lies beyond this server's WAL, which ends at {local.lsn} on timeline {local.history.timeline}"
    if local.in_recovery:
        return StandbyLags(text, hint="This standby leader lags: walkeeper waits until it has received as much.")
    problem = BeyondServer(
        text,
        hint="The volume went back to an earlier state, or two servers wrote this timeline. Promote to a new timeline "
        "(patronictl switchover) before more is written, and take a base backup. If only the record is wrong: walkeeper "
        "takeover --accept.",
    )
    problem.second_life_of = local.history.timeline
    return problem
