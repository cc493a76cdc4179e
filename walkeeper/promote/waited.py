"""Which stores commits wait for: the records say it, and a record that could not be read has said nothing. Where none says it,
PostgreSQL's own setting does.

Members may name the stores in different orders, and the leader's first is the one that counts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from walkeeper.config.model import Durability
from walkeeper.core.promotion import may_be_read
from walkeeper.dcs.base import RecordStore
from walkeeper.dcs.claim import Claim, Known, decoded, unknown
from walkeeper.errors import DcsError, DcsUnavailable, PromotionVetoed
from walkeeper.lib import events
from walkeeper.lib.clock import Clock

ATTEMPTS: Final = 10
"""Of one promotion at a record, as its owner may write it several times a second, and the DCS may be silent."""
_AGAIN: Final = 1.0
"""Seconds before the DCS is asked again."""


def ask(
    records: Mapping[str, RecordStore], durability: Durability, clock: Clock, server_waits: Callable[[], bool | None]
) -> tuple[str, ...]:
    """Their names, of ``records``, the first's first; none where no commit waits. ``durability``: of this node's configuration,
    which may be old; ``server_waits``: whether the local server's settings have commits wait for one of them, None: not known.

    Raises PromotionVetoed where a record may say that commits wait, and cannot be read.
    """
    claims = {name: _claim(each) for name, each in records.items()}
    if durability == "local" and not _said(claims) and not server_waits():
        for store, claim in claims.items():  # a DCS that is away must not hinder a cluster in which no commit waits
            if claim.problem is not None:
                events.warning("pre_promote_without_record", store=store, error=claim.problem)
        return ()
    for name, each in records.items():
        for _ in range(ATTEMPTS - 1):
            if not isinstance(claims[name].problem, DcsError):
                break
            clock.sleep(_AGAIN)
            claims[name] = _claim(each)
    return waited_for(claims)


def none_wait(records: Mapping[str, RecordStore]) -> bool:
    """Whether all records can be read, and none says that commits wait."""
    claims = {name: _claim(each) for name, each in records.items()}
    return not _said(claims) and all(claim.problem is None for claim in claims.values())


def waited_for(claims: Mapping[str, Claim]) -> tuple[str, ...]:
    """Where none says it, the first: commits are about to wait for it, or its record is gone."""
    said = _said(claims)
    for store in said - claims.keys():
        raise PromotionVetoed(
            f"store {store}: commits wait for it, and this member's configuration does not name it",
            hint="Give each member the same stores, in the same order.",
        )
    for at, (store, claim) in enumerate(claims.items()):
        if claim.known is not Known.UNKNOWN:
            continue
        named_behind = said.intersection(list(claims)[:at])
        if named_behind and store not in said and _is_denied(claim):  # a store that was just added, without its rights
            events.warning("pre_promote_without_record", store=store, error=claim.problem)
            continue
        raise PromotionVetoed(
            f"store {store}: commits may wait for it, and its record cannot be read: {claim.why}",
            hint=claim.problem.hint if claim.problem is not None else "",
        )
    return tuple(store for store in claims if store in said) or tuple(claims)[:1]


def _said(claims: Mapping[str, Claim]) -> set[str]:
    """Of those that a record names. Its own record, by its owner, comes first: without that nobody acknowledges by a store."""
    owned = {store: claim.record for store, claim in claims.items() if claim.record is not None and claim.record.owner}
    named = {record.waits_for for record in owned.values() if record.waits_for} - owned.keys()
    return named | {store for store, record in owned.items() if record.durability == "store"}


def _claim(records: RecordStore) -> Claim:
    """A record that only a newer version can read is none that is lost."""
    try:
        found = records.read()
    except DcsError as problem:
        return unknown(problem)
    claim = decoded(found)
    if found is not None and claim.problem is not None and may_be_read(found.document):
        return unknown(claim.problem)
    return claim


def _is_denied(claim: Claim) -> bool:
    return isinstance(claim.problem, DcsError) and not isinstance(claim.problem, DcsUnavailable)
