"""What a problem of the agent is about: the fixed words of its log, of status and of the metrics."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final


class About(StrEnum):
    """The first word of the problem's line in the log; with ``_over`` behind it, of the line that says that it has ended."""

    POSTGRESQL = "postgresql"
    DCS = "dcs"
    RECORD = "record"
    ARCHIVE_COMMAND = "archive_command"
    TWO_ACKNOWLEDGE = "two_acknowledge"
    NOT_GAP_SAFE = "not_gap_safe"
    NO_LEADERSHIP = "no_leadership"
    TAKEOVER_FAILED = "takeover_failed"
    TAKEOVER_RUNS = "takeover_runs"
    TWO_AGENTS = "two_agents"
    LEFTOVERS = "leftovers"
    STORE_PROBE = "store_probe"
    PUSH_REFUSED = "push_refused"
    PUSH_STORE = "push_store"
    BACKUP_JOB = "backup_job"
    PROOF_JOB = "proof_job"
    REMEMBERED = "remembered"
    METRICS_NOT_SERVED = "metrics_not_served"
    ARCHIVER_STORE = "archiver_store"
    ARCHIVER_REFUSED = "archiver_refused"
    ARCHIVER_SPOOL = "archiver_spool"
    ARCHIVER_RECEIVER = "archiver_receiver"
    ARCHIVER_COMMITS = "archiver_commits"
    ARCHIVER_DEGRADED = "archiver_degraded"
    ARCHIVER_RECORD = "archiver_record"
    ARCHIVER_SLOT = "archiver_slot"
    ARCHIVER_TAIL = "archiver_tail"
    ARCHIVER_LOST_WAL = "archiver_lost_wal"
    ARCHIVER_WAL_MISSING = "archiver_wal_missing"
    ARCHIVER_LIFE = "archiver_life"
    ARCHIVER_ANOTHER_CLUSTER = "archiver_another_cluster"
    ARCHIVER_GAP = "archiver_gap"
    ARCHIVER_AUDIT = "archiver_audit"
    ARCHIVER_BACKUPS = "archiver_backups"

    @property
    def of_archiver(self) -> bool:
        """Whether it ends when the archiver ends, as what it speaks of does."""
        return self.value.startswith("archiver_")


MEANS: Final[Mapping[About, str]] = {
    About.POSTGRESQL: "The local server does not answer the agent, or refuses it.",
    About.DCS: "The DCS does not answer, or refuses.",
    About.RECORD: "The record in the DCS cannot be believed.",
    About.ARCHIVE_COMMAND: "PostgreSQL's last call of `archive_command` failed.",
    About.TWO_ACKNOWLEDGE: "With `durability: store`: a second walsender could acknowledge commits.",
    About.NOT_GAP_SAFE: "If this node were promoted now, WAL that is not archived could be lost.",
    About.NO_LEADERSHIP: "The server takes writes, and another member is Patroni's leader.",
    About.TAKEOVER_FAILED: "This node leads, and its agent could not take the archive over.",
    About.TAKEOVER_RUNS: "A takeover has compared store and server for longer than usual, and goes on.",
    About.TWO_AGENTS: "Two agents of one member take the record from each other.",
    About.LEFTOVERS: "On a replica: what the spool has left cannot be handed in.",
    About.STORE_PROBE: "The store does not keep what it is given as it must.",
    About.PUSH_REFUSED: "archive-push was refused: the file does not agree with the archive.",
    About.PUSH_STORE: "archive-push could not store a file.",
    About.BACKUP_JOB: "The cluster's scheduled base backup, or the `expire` after it, failed, or no member takes it.",
    About.PROOF_JOB: "The cluster's scheduled proof that backups restore did not go well, or no member makes it.",
    About.REMEMBERED: "What is remembered beside the record could not be read or written in the DCS.",
    About.METRICS_NOT_SERVED: "Page and metrics cannot be served at `agent.listen`.",
    About.ARCHIVER_STORE: "A complete segment cannot be stored.",
    About.ARCHIVER_REFUSED: "A segment is refused: it does not agree with the archive, or is not a whole one.",
    About.ARCHIVER_SPOOL: "The spool is full, its disk is short, or it cannot be used.",
    About.ARCHIVER_RECEIVER: "The WAL cannot be streamed from the local server.",
    About.ARCHIVER_COMMITS: "With `durability: store`: commits wait.",
    About.ARCHIVER_DEGRADED: "With `durability: store`: commits go on without the store.",
    About.ARCHIVER_RECORD: "The frontier cannot be written into the record.",
    About.ARCHIVER_SLOT: "The hold slot cannot be moved.",
    About.ARCHIVER_TAIL: "The open segment's tail cannot be stored.",
    About.ARCHIVER_LOST_WAL: "It cannot be told whether WAL that the server has recycled is lost.",
    About.ARCHIVER_WAL_MISSING: "WAL is suspected lost.",
    About.ARCHIVER_LIFE: "Signs of life in the store cannot be written or read.",
    About.ARCHIVER_ANOTHER_CLUSTER: "Another cluster keeps this archive alive.",
    About.ARCHIVER_GAP: "A gap is recorded that nobody has accepted.",
    About.ARCHIVER_AUDIT: "An object that was archived is gone or damaged.",
    About.ARCHIVER_BACKUPS: "The newest base backup lacks an object.",
}
"""For docs/metrics.md."""
