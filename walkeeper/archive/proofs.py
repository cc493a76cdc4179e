"""The restores that were proved: ``proof/<when>-<backup>.json``, each created once. Nothing depends on them."""

from __future__ import annotations

from typing import Final

from walkeeper.archive.layout import Layout
from walkeeper.archive.stated import FORMAT
from walkeeper.core.backup import BackupId
from walkeeper.core.proof import MAX_PROOF_BYTES, Proof, decode, encode
from walkeeper.errors import BadBackup, NotAuthentic, TooLarge
from walkeeper.lib import events
from walkeeper.store.base import AlreadyThere, Store

_LOOKED_AT: Final = 3
"""Documents that are read at most, the newest first, until one can be used."""


def write_proof(store: Store, layout: Layout, proof: Proof) -> None:
    """Raises the store's errors."""
    try:
        store.create(layout.proof(proof.at, BackupId.parse(proof.backup)), encode(proof), {"format": FORMAT})
    except AlreadyThere:
        return  # of another proof that ended in this second


def newest_proof(store: Store, layout: Layout) -> Proof | None:
    """By one listing and one small document. One that cannot be used is logged, and says nothing. Raises the store's errors."""
    for key in sorted((info.key for info in store.list(layout.proofs)), reverse=True)[:_LOOKED_AT]:
        try:
            body = store.get(key, MAX_PROOF_BYTES)
            if body is not None:
                return decode(body, key)
        except (BadBackup, NotAuthentic, TooLarge) as problem:
            events.failure("proof_unreadable", problem)
    return None
