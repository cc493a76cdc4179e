"""Every error that walkeeper raises on purpose.

    WalkeeperError
    ├── ConfigError            the configuration cannot be used (exit 2)
    ├── Refused                the input is wrong; nothing was published, nothing was removed
    │   ├── BadName            not a name that PostgreSQL gives to a WAL file
    │   ├── BadSegment         size, magic, address or timeline do not agree
    │   ├── BadHistory         a timeline history that PostgreSQL cannot have written
    │   ├── BadRecord          the document in the DCS cannot be trusted
    │   ├── WrongCluster       the system identifier is another cluster's
    │   ├── WrongTimeline      this server is on an older timeline than the record
    │   └── Conflict           the same name is stored with other bytes
    ├── StoreError             the object store; waiting can help
    │   ├── StoreUnavailable   no answer, a server error, a time-out
    │   ├── StoreDenied        credentials or rights; waits slowly
    │   ├── StoreUnfit         it cannot keep what walkeeper promises; waiting does not help
    │   └── TooLarge           an object has more bytes than anything of its kind; it was not read
    ├── CannotTell             an object is there, or may be, and cannot be delivered
    │   ├── Locked             it is encrypted, and no key here opens it
    │   └── HoleInArchive      it is not there, and more of its branch is behind it
    │       └── LostForGood    the same, and it is recorded that it no longer exists anywhere
    ├── DcsError               the DCS; waiting can help
    │   ├── DcsUnavailable     no answer within the deadline
    │   └── CasConflict        somebody else wrote the record first
    ├── PostgresError          the local server, or a member; waiting can help
    ├── SpoolError             the spool's disk or its rights; waiting can help
    └── AgentError             the agent: already running, not running, no answer

The text is one line, the object first, in lower case. What to do about it is in ``hint``.
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

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class ConfigError(WalkeeperError):
    exit_code = 2
    reason = "config"


class Refused(WalkeeperError):
    reason = "refused"


class BadName(Refused):
    reason = "bad_name"


class BadSegment(Refused):
    reason = "bad_segment"


class BadHistory(Refused):
    reason = "bad_history"


class BadRecord(Refused):
    reason = "bad_record"


class WrongCluster(Refused):
    reason = "wrong_cluster"


class WrongTimeline(Refused):
    reason = "wrong_timeline"


class Conflict(Refused):
    reason = "conflict"


class StoreError(WalkeeperError):
    waiting_helps = True
    reason = "store"


class StoreUnavailable(StoreError):
    reason = "store_unavailable"


class StoreDenied(StoreError):
    reason = "store_denied"


class StoreUnfit(StoreError):
    waiting_helps = False
    reason = "store_unfit"


class TooLarge(StoreError):
    waiting_helps = False
    reason = "too_large"


class CannotTell(WalkeeperError):
    waiting_helps = True
    reason = "cannot_tell"


class Locked(CannotTell):
    reason = "locked"


class HoleInArchive(CannotTell):
    reason = "hole"


class LostForGood(HoleInArchive):
    waiting_helps = False
    reason = "gap"


class DcsError(WalkeeperError):
    waiting_helps = True
    reason = "dcs"


class DcsUnavailable(DcsError):
    reason = "dcs_unavailable"


class CasConflict(DcsError):
    reason = "cas_conflict"


class PostgresError(WalkeeperError):
    waiting_helps = True
    reason = "postgres"


class SpoolError(WalkeeperError):
    waiting_helps = True
    reason = "spool"


class AgentError(WalkeeperError):
    reason = "agent"
