"""The trials of backups: ``proof/<when>-<backup>.json``, or ``proof/damaged-<backup>-<when>.json``, each created once.

``expire`` does not count a backup in which one found damage, until a later trial of the same backup found none, with each program
that had. What tells of backups says so, and a restore takes another one, if there is one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from walkeeper.archive.layout import Layout
from walkeeper.archive.stated import FORMAT
from walkeeper.core.backup import Backup, BackupId
from walkeeper.core.floor import written
from walkeeper.core.proof import MAX_PROOF_BYTES, Proof, decode, encode
from walkeeper.core.windows import Choice, Windows, choose, consistent_at
from walkeeper.errors import BadBackup, NotAuthentic, TooLarge
from walkeeper.lib import events
from walkeeper.lib.clock import now_utc, timestamp
from walkeeper.store.base import AlreadyThere, Store

_LOOKED_AT: Final = 20
"""Documents that are read at most, the newest first, until one can be used."""
_NAME: Final = re.compile(r"(?:damaged-([0-9A-Za-z-]{34})-([0-9TZ]{16})|([0-9TZ]{16})-([0-9A-Za-z-]{34}))\.json\Z")
_AHEAD: Final = timedelta(hours=1)
"""What is said to be proved later than that is not believed: it would be the newest for ever."""


def write_proof(store: Store, layout: Layout, proof: Proof) -> str:
    """Its key; "" where another trial that ended in this second has it. Raises the store's errors."""
    key = _key(layout, proof)
    try:
        store.create(key, encode(proof), {"format": FORMAT})
    except AlreadyThere:
        return ""
    return key


def note(backup: Backup, damage: str, ahead: float) -> Proof:
    """What bytes prove, where no trial was made; any trial that goes well clears it. ``ahead``: the store's clock, in seconds."""
    return Proof(
        backup=backup.id,
        at=timestamp(ahead),
        timeline=backup.stop.timeline,
        lsn="0/0",
        by=os.uname().nodename,
        damage=damage[:4096],
    )


def listed(store: Store, layout: Layout) -> list[str]:
    """The keys of all. Raises the store's errors."""
    return [info.key for info in store.list(layout.proofs)]


def newest_proof(store: Store, layout: Layout, keys: Sequence[str] | None = None) -> Proof | None:
    """By one listing, or ``keys``, and one small document. One that cannot be used is logged, and says nothing.

    Raises the store's errors.
    """
    until = layout.proof(written(now_utc() + _AHEAD))
    believed = sorted((key for key in (listed(store, layout) if keys is None else keys) if key < until), reverse=True)
    return next(filter(None, (_read(store, layout, key) for key in believed[:_LOOKED_AT])), None)


def damaged(store: Store, layout: Layout, keys: Sequence[str] | None = None) -> dict[str, str]:
    """What ``against`` has, in words, by id."""
    return {id_: trial.against for id_, trial in against(store, layout, keys).items()}


def against(store: Store, layout: Layout, keys: Sequence[str] | None = None) -> dict[str, Proof]:
    """The newest trial of each backup in which damage was found that is not shown to be gone, by id. By one listing, or ``keys``,
    and few documents. Raises the store's errors.
    """
    until = layout.proof(written(now_utc() + _AHEAD)).removeprefix(layout.proofs)
    trials: dict[str, list[tuple[str, str]]] = {}
    for key in listed(store, layout) if keys is None else keys:
        if match := _NAME.match(key.removeprefix(layout.proofs)):
            trials.setdefault(match[1] or match[4], []).append((match[2] or match[3], key))
    found = {}
    for id_, of_it in trials.items():
        if not any(key.startswith(layout.damaged("", id_)[: -len(".json")]) for _, key in of_it):
            continue
        believed = [key for at, key in sorted(of_it, reverse=True) if at < until]
        newest = next(filter(None, (_read(store, layout, key) for key in believed[:_LOOKED_AT])), None)
        if newest is not None and newest.against:
            found[id_] = newest
    return found


def proved_by(there: Windows, id_: str) -> str:
    """The command that restores this backup, and no newer one: to its stop. Empty where no restore begins with it."""
    for backup in there.complete:
        if backup.id == id_:
            stop = consistent_at(backup)
            for timeline in (there.kept.timeline, *sorted(there.chains)):
                chosen = choose(there, stop, timeline=timeline)
                if isinstance(chosen, Choice) and chosen.backup.id == id_:
                    named = "" if timeline == there.kept.timeline else f" --timeline {timeline}"
                    return f"walkeeper verify --restore --to {stop}{named}"
    return ""


def _key(layout: Layout, proof: Proof) -> str:
    return (layout.damaged if proof.damage or proof.besides else layout.proof)(proof.at, BackupId.parse(proof.backup))


def _read(store: Store, layout: Layout, key: str) -> Proof | None:
    """None for one that cannot be used."""
    try:
        body = store.get(key, MAX_PROOF_BYTES)
        proof = None if body is None else decode(body, key)
    except (BadBackup, NotAuthentic, TooLarge) as problem:
        events.failure("proof_unreadable", problem)
        return None
    return proof if proof is not None and key == _key(layout, proof) else None
