"""The restores that were proved: ``proof/<when>-<backup>.json``, each created once. Nothing depends on them."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from walkeeper.archive.layout import Layout
from walkeeper.archive.stated import FORMAT
from walkeeper.core.backup import BackupId
from walkeeper.core.floor import written
from walkeeper.core.proof import MAX_PROOF_BYTES, Proof, decode, encode
from walkeeper.errors import BadBackup, NotAuthentic, TooLarge
from walkeeper.lib import events
from walkeeper.lib.clock import now_utc
from walkeeper.store.base import AlreadyThere, Store

_LOOKED_AT: Final = 20
"""Documents that are read at most, the newest first, until one can be used."""
_AHEAD: Final = timedelta(hours=1)
"""What is said to be proved later than that is not believed: it would be the newest for ever."""


def write_proof(store: Store, layout: Layout, proof: Proof) -> None:
    """Raises the store's errors."""
    try:
        store.create(layout.proof(proof.at, BackupId.parse(proof.backup)), encode(proof), {"format": FORMAT})
    except AlreadyThere:
        return  # of another proof that ended in this second


def newest_proof(store: Store, layout: Layout) -> Proof | None:
    """By one listing and one small document. One that cannot be used is logged, and says nothing. Raises the store's errors."""
    until = layout.proof(written(now_utc() + _AHEAD))
    keys = sorted((info.key for info in store.list(layout.proofs) if info.key < until), reverse=True)
    for key in keys[:_LOOKED_AT]:
        try:
            body = store.get(key, MAX_PROOF_BYTES)
            proof = None if body is None else decode(body, key)
            if proof is not None and key == layout.proof(proof.at, BackupId.parse(proof.backup)):
                return proof
        except (BadBackup, NotAuthentic, TooLarge) as problem:
            events.failure("proof_unreadable", problem)
    return None
