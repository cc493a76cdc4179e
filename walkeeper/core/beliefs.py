"""What a takeover believes of a record and of a store (promise P13): bytes, not names. No I/O: what was found comes in.

Each refusal has a class of its own, whose ``reason`` is the word that logs, metrics and status use. Those of ``ACCEPTABLE`` say
that something could not be shown, and a person may let the next takeover pass them. That bytes differ is never passed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from walkeeper.core.history import Switch
from walkeeper.core.names import Segment
from walkeeper.core.record import Record
from walkeeper.core.takeover import LocalServer
from walkeeper.errors import (
    AnotherCluster,
    ArchiveMissing,
    BeyondServer,
    NothingToCompare,
    OfSecondLife,
    StoreBehind,
    WrongCluster,
)

PROMOTE: Final = (
    "Two servers, or two lives of one volume, wrote this timeline. Nothing was overwritten. Promote to a new timeline "
    "(patronictl switchover); if that one is refused too, archive under another prefix. Take a base backup then."
)
NO_ARCHIVE: Final = (
    "Is it the right bucket, prefix and scope, is the disk mounted, was everything copied? Nothing was created. To begin a new "
    "archive here: walkeeper takeover --accept, and then take a base backup."
)
_ACCEPTABLE: Final = (
    AnotherCluster, ArchiveMissing, BeyondServer, NothingToCompare, OfSecondLife, StoreBehind, WrongCluster,
)  # fmt: skip
ACCEPTABLE: Final = frozenset(kind.reason for kind in _ACCEPTABLE)


def nothing_archived(record: Record) -> bool:
    """Whether the record claims no whole segment: it was written, and nothing since."""
    return record.position.floor(record.size) <= Segment.parse(record.start, record.size).start


def expected_switches(written: Sequence[Switch], timeline: int) -> tuple[Switch, ...]:
    """What the history of the ancestor ``timeline`` says, if a descendant's says ``written``."""
    return tuple(switch for switch in written if switch.timeline < timeline)


def must_compare(record: Record, me: str, local: LocalServer) -> bool:
    """Whether a takeover by that record needs bytes that agree, or else a person.

    Under Patroni a leader does not change without a new timeline, but in a standby cluster. So the record of this very timeline
    by another owner is a renamed member's, or another server's. One's own record is only a restart of the agent; where the server
    was promoted since, what is below the fork was replicated from the owner's server.
    """
    return record.timeline == local.history.timeline and record.owner not in {me, ""} and not local.in_recovery


def must_compare_own(record: Record, me: str, local: LocalServer) -> bool:
    """Whether what is stored of the server's own timeline has to agree with something here, or else a person is needed.

    Two servers that were promoted at one position under one number write the same history: only bytes tell which is which.
    """
    return must_compare(record, me, local) or (
        record.timeline < local.history.timeline and record.owner != "" and not local.in_recovery
    )
