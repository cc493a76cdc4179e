"""Every error that walkeeper raises on purpose.

    WalkeeperError
    ├── ConfigError            the configuration cannot be used (exit 2)
    │   └── WrongSetting       one key of a store's section
    ├── Refused                the input is wrong; nothing was published, nothing was removed
    │   ├── BadName            not a name that PostgreSQL gives to a WAL file
    │   ├── BadSegment         size, magic, address or timeline do not agree
    │   ├── BadHistory         a timeline history that PostgreSQL cannot have written
    │   ├── BadRecord          the document in the DCS cannot be trusted
    │   ├── WrongCluster       the system identifier is another cluster's
    │   ├── WrongSegmentSize   wal_segment_size is not the record's
    │   ├── WrongTimeline      this server is on an older timeline than the record
    │   ├── Conflict           the same name is stored with other bytes
    │   │   ├── OtherBytes     a takeover: the local server's are not the stored ones
    │   │   └── NumberUsedTwice a takeover: the stored history is another server's
    │   ├── BadBackup          a backup's id, its backup.json or its index cannot be relied on
    │   ├── BadFloor           a floor or a pin in the store cannot be relied on
    │   ├── BadJob             the backup job in the DCS cannot be relied on
    │   ├── Unsafe             expire would break a promise, or does not know enough to keep it
    │   ├── CannotRestore      a restore that would not come to what was asked for; nothing was written
    │   │   └── WrongCall      an option cannot be used as it is written (exit 2)
    │   ├── NoSuchGap          nothing that is lost begins there, or it is not clear which is meant
    │   ├── NotForgotten       a member that runs, or that nobody knows
    │   ├── BeyondServer       record or store know more of its timeline than the server: it went back, or they are another's
    │   ├── ArchiveMissing     the record speaks of an archive that the store does not have
    │   ├── AnotherCluster     somebody else keeps the archive alive
    │   ├── StoreBehind        the store lacks what the record claims, and the server does not have it any longer
    │   ├── NothingToCompare   whose bytes the store has could not be shown
    │   └── OfSecondLife       a server had other WAL, and nothing shows that this one does not come from it
    ├── StoreError             the object store; waiting can help
    │   ├── StoreUnavailable   no answer, a server error, a time-out
    │   │   ├── NotFound       a server's 404, and what it is about
    │   │   └── ChangedOnTheWay it got other bytes than it was told of
    │   ├── StoreDenied        credentials or rights; waits slowly
    │   ├── StoreUnfit         it cannot keep what walkeeper promises; waiting does not help
    │   └── TooLarge           an object has more bytes than anything of its kind
    ├── CannotTell             an object is there, or may be, and cannot be delivered
    │   ├── Damaged            it is not what was stored: its checksum says so, or its name, which is one
    │   ├── Locked             it is encrypted, and no key here opens it
    │   ├── NotAuthentic       nobody with the key made it, or it is plain where all is encrypted: it counts for nothing
    │   │   └── Changed        its code is right, and speaks of other bytes: it is damaged as well
    │   └── HoleInArchive      it is not there, and more of its branch is behind it
    │       ├── BeforeStart    the same, and it is from before the archive begins
    │       └── LostForGood    the same, and it is recorded as a gap
    │           └── GivenUp    the same, and it is below the floor
    ├── DcsError               the DCS; waiting can help
    │   ├── DcsUnavailable     no answer within the deadline
    │   ├── RecordDenied       a takeover has compared everything, and the DCS takes no record from it
    │   ├── CasConflict        somebody else wrote the record first
    │   │   ├── NotLeader      Patroni's leader key is another member's
    │   │   └── Fenced         another owner has the record: this ownership is over
    │   └── HeldBack           another member leads: our writes wait for its takeover
    ├── PostgresError          the local server, or a member; waiting can help
    │   ├── WalMissing         WAL is suspected lost
    │   └── StandbyLags        a standby leader has not received it yet
    ├── SpoolError             the spool's disk or its rights; waiting can help
    │   ├── SpoolFull          it has to drain first
    │   └── SpoolShort         its disk is nearly full: WAL is taken from pg_wal alone
    ├── AgentError             the agent: already running, or it refuses
    │   └── NoAgent            none runs on this node, or it does not answer (exit 2)
    ├── CommitsWait            with durability: store, what is committed is not acknowledged
    ├── Degraded               with durability: store, commits go on without the store
    ├── NotGapSafe             this node could lose WAL if it became the primary
    ├── PromotionVetoed        what commits were acknowledged for would be lost by this promotion
    ├── CommandFails           PostgreSQL's own archiver makes no progress, and keeps what it has not handed over
    ├── Watching               a takeover waits until it is known that nobody else is alive
    ├── AtIt                   archive-push: the work goes on, ask again
    ├── NoLeadership           a server accepts writes without Patroni's leader key
    ├── GapOpen                a recorded gap that nobody has accepted
    ├── TakeoverRuns           a takeover that takes long
    ├── TwoAcknowledge         with durability: store, somebody else could tell the server that commits are stored
    ├── TwoAgents              of one member, which take the record from each other
    ├── BackupFails            the cluster's backup job did not come to its end
    ├── ProofFails             the cluster's backups were not proved by a restore
    ├── ObjectMissing          an object that was stored is no longer there
    └── ObjectDamaged          the same, and it is not what was stored

The text is one line, the object first, in lower case. What to do about it is in ``hint``. What only says something to the next
line of code, and reaches nobody (``AlreadyThere``, ``DeadlineExceeded``, ``NoAnswer``), stays where it is raised.
"""

from __future__ import annotations

from typing import ClassVar


class WalkeeperError(Exception):
    """Root of the tree.

    ``exit_code`` is the process's exit code where the error ends a command, ``waiting_helps`` says whether the same call
    can succeed later without anybody doing anything, and ``reason`` is the stable word for logs and metrics.
    """

    exit_code: ClassVar[int] = 1
    waiting_helps: ClassVar[bool] = False
    reason: ClassVar[str] = "error"

    def __init_subclass__(
        cls, *, reason: str | None = None, waiting_helps: bool | None = None, exit_code: int | None = None
    ) -> None:
        """What is not said is its parent's."""
        said = {"reason": reason, "waiting_helps": waiting_helps, "exit_code": exit_code}
        for name, value in said.items():
            if value is not None:
                setattr(cls, name, value)

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class ConfigError(WalkeeperError, reason="config", exit_code=2): ...


class WrongSetting(ConfigError):
    """``key`` of a store's section cannot be used as it is written; empty when it is about the section."""

    def __init__(self, key: str, text: str, *, hint: str = "") -> None:
        super().__init__(f"{key}: {text}" if key else text, hint=hint)
        self.key = key
        self.text = text


class Refused(WalkeeperError, reason="refused"):
    second_life_of = 0
    """The timeline of which the archive and the local server have different WAL, where that is what it was refused for."""


class BadName(Refused, reason="bad_name"): ...


class BadSegment(Refused, reason="bad_segment"): ...


class BadHistory(Refused, reason="bad_history"): ...


class BadRecord(Refused, reason="bad_record"): ...


class WrongCluster(Refused, reason="wrong_cluster"): ...


class WrongSegmentSize(Refused, reason="wrong_segment_size"): ...


class WrongTimeline(Refused, reason="wrong_timeline"): ...


class Conflict(Refused, reason="conflict"): ...


class OtherBytes(Conflict, reason="other_bytes"): ...


class NumberUsedTwice(Conflict, reason="timeline_used_twice"): ...


class BadBackup(Refused, reason="bad_backup"): ...


class BadFloor(Refused, reason="bad_floor"): ...


class BadJob(Refused, reason="bad_job"): ...


class Unsafe(Refused, reason="unsafe"): ...


class CannotRestore(Refused, reason="cannot_restore"): ...


class WrongCall(CannotRestore, exit_code=2): ...


class NoSuchGap(Refused, reason="no_such_gap"): ...


class NotForgotten(Refused, reason="not_forgotten"): ...


class BeyondServer(Refused, reason="beyond_server"): ...


class ArchiveMissing(Refused, reason="archive_missing"): ...


class AnotherCluster(Refused, reason="another_cluster"): ...


class StoreBehind(Refused, reason="store_behind"): ...


class NothingToCompare(Refused, reason="nothing_to_compare"): ...


class OfSecondLife(Refused, reason="second_life"): ...


class StoreError(WalkeeperError, reason="store", waiting_helps=True): ...


class StoreUnavailable(StoreError, reason="store_unavailable"): ...


class NotFound(StoreUnavailable):
    """A 404. ``proved`` says that it is about the object, and not about the bucket, a proxy or a wrong address."""

    def __init__(self, message: str, *, proved: bool, hint: str) -> None:
        super().__init__(message, hint=hint)
        self.proved = proved


class ChangedOnTheWay(StoreUnavailable):
    """The store compared the bytes that came with the sum that came with them, and kept nothing."""


class StoreDenied(StoreError, reason="store_denied"): ...


class StoreUnfit(StoreError, reason="store_unfit", waiting_helps=False): ...


class TooLarge(StoreError, reason="too_large", waiting_helps=False): ...


class CannotTell(WalkeeperError, reason="cannot_tell", waiting_helps=True):
    of_this_backup = False  # whether another one, and nothing else, could be told of


class NotAuthentic(CannotTell, reason="not_authentic"): ...


class Damaged(CannotTell):
    """Its checksum says so, or its name, which is one."""

    backup = ""
    """Whose it is, where that is known."""


class Changed(NotAuthentic, Damaged): ...


class Locked(CannotTell, reason="locked"): ...


class HoleInArchive(CannotTell, reason="hole"): ...


class BeforeStart(HoleInArchive, reason="before_start", waiting_helps=False): ...


class LostForGood(HoleInArchive, reason="gap", waiting_helps=False): ...


class GivenUp(LostForGood, reason="given_up"): ...


class DcsError(WalkeeperError, reason="dcs", waiting_helps=True): ...


class DcsUnavailable(DcsError, reason="dcs_unavailable"): ...


class RecordDenied(DcsError): ...


class CasConflict(DcsError, reason="cas_conflict"): ...


class NotLeader(CasConflict, reason="not_leader"): ...


class Fenced(CasConflict, reason="fenced"): ...


class HeldBack(DcsError, reason="another_leads"): ...


class PostgresError(WalkeeperError, reason="postgres", waiting_helps=True): ...


class WalMissing(PostgresError, reason="wal_missing"): ...


class CommitsWait(WalkeeperError, reason="commits_wait", waiting_helps=True): ...


class Degraded(WalkeeperError, reason="degraded", waiting_helps=True): ...


class StandbyLags(PostgresError, reason="standby_lags"): ...


class SpoolError(WalkeeperError, reason="spool", waiting_helps=True): ...


class SpoolFull(SpoolError, reason="spool_full"): ...


class SpoolShort(SpoolError, reason="spool_disk"): ...


class AgentError(WalkeeperError, reason="agent"): ...


class NoAgent(AgentError, exit_code=2): ...


class NotGapSafe(WalkeeperError, reason="not_gap_safe", waiting_helps=True): ...


class PromotionVetoed(WalkeeperError, reason="promotion_vetoed"): ...


class CommandFails(WalkeeperError, reason="archive_command", waiting_helps=True): ...


class Watching(WalkeeperError, reason="watching", waiting_helps=True): ...


class AtIt(WalkeeperError, reason="at_it", waiting_helps=True): ...


class NoLeadership(WalkeeperError, reason="no_leadership", waiting_helps=True): ...


class GapOpen(WalkeeperError, reason="gap"): ...


class TakeoverRuns(WalkeeperError, reason="takeover_runs", waiting_helps=True):
    def __init__(self, seconds: float) -> None:
        super().__init__(
            f"takeover: it has compared the archive with this server for {seconds:.0f} s, and goes on",
            hint="A large archive is listed once, thousands of objects a second. If it takes much longer, look at the store.",
        )


class TwoAcknowledge(WalkeeperError, reason="two_acknowledge", waiting_helps=True): ...


class TwoAgents(WalkeeperError, reason="two_agents", waiting_helps=True): ...


class BackupFails(WalkeeperError, reason="backup_fails"): ...


class ProofFails(WalkeeperError, reason="proof_fails"): ...


class ObjectMissing(WalkeeperError, reason="object_missing"): ...


class ObjectDamaged(WalkeeperError, reason="object_damaged"): ...
