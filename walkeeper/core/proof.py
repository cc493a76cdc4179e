"""That a backup was restored, started and found whole, or damaged: what ``verify --restore`` leaves in the store."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from walkeeper.core.backup import BackupId, Position, Text, Timeline
from walkeeper.core.floor import Moment, moment
from walkeeper.errors import BadBackup, WalkeeperError

SCHEMA: Final = 1
MAX_PROOF_BYTES: Final = 65536
RESTORE: Final = "restore"
"""The check that all others come after: that it is restored at all."""


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """``lsn`` is how far the restored server replayed, ``last_commit`` the time of the last transaction in that, "" for none.

    ``at`` is the store's clock; ``checks`` are the programs that found nothing wrong; ``by`` is for people. ``damage`` is what
    was found against it, in words: its place is another one then. There, too, is one with neither damage nor a proof: ``besides``
    is what is not held against the backup. ``stays``: what an earlier one found, and none since has shown to be gone.
    ``found_by``: the checks that found this or that damage; ``verify --deep`` is none of them, as each restore reads as much.
    """

    schema: int = SCHEMA
    backup: Text
    at: Moment
    timeline: Timeline
    lsn: Position
    last_commit: Text = ""
    checks: Annotated[tuple[Text, ...], Meta(max_length=16)] = ()
    by: Text = ""
    damage: Text = ""
    found_by: Annotated[tuple[Text, ...], Meta(max_length=16)] = ()
    stays: Text = ""
    besides: Text = ""

    @property
    def against(self) -> str:
        """The damage that counts once this is the newest trial, in words."""
        return f"it was found damaged at {self.at}: {self.damage}" if self.damage else self.stays


_DECODER: Final = msgspec.json.Decoder(Proof)


def encode(proof: Proof) -> bytes:
    return msgspec.json.format(msgspec.json.encode(proof), indent=2) + b"\n"


def decode(document: bytes, key: str) -> Proof:
    """Bounded and checked. ``key`` is its name in the store, for people. Raises BadBackup."""
    try:
        if len(document) > MAX_PROOF_BYTES:
            raise BadBackup(f"{len(document)} bytes, limit {MAX_PROOF_BYTES}")
        proof = _DECODER.decode(document)
        moment(proof.at)
        BackupId.parse(proof.backup)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, WalkeeperError) as error:
        raise BadBackup(f"{key}: it cannot be used: {error}") from None
    if proof.schema != SCHEMA:
        raise BadBackup(f"{key}: schema {proof.schema}, this version knows {SCHEMA}")
    return proof


def scratch_name(scope: str, group: int | None) -> str:
    """Of the directory for one proof."""
    return re.sub(r"[^\w.-]", "_", f"walkeeper-verify-{scope}{'' if group is None else f'-{group}'}")


def age(proof: Proof, now: float) -> float:
    """Seconds; ``now`` since 1970."""
    return max(0.0, (datetime.fromtimestamp(now, UTC) - moment(proof.at)).total_seconds())
