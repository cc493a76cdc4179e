"""What a problem of the agent is about: the fixed words of its log, of status and of the metrics."""

from __future__ import annotations

from enum import StrEnum


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
