"""What a trial found, and what of it is remembered in the store."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal

from msgspec.structs import replace

from walkeeper.archive.proofs import against, listed, write_proof
from walkeeper.core.floor import moment, written
from walkeeper.core.lsn import Lsn
from walkeeper.core.proof import RESTORE, Proof
from walkeeper.errors import StoreError
from walkeeper.lib import events
from walkeeper.lib.clock import timestamp
from walkeeper.lib.retry import with_retries
from walkeeper.restore.directory.model import Plan
from walkeeper.verify.answer import CANNOT_TELL, DAMAGED, SOUND


@dataclass(frozen=True, slots=True)
class Check:
    """``absent``: it cannot be done here, or with this backup, and is not missed; ``unsure``: it should have been possible."""

    name: str
    state: Literal["ok", "damage", "unsure", "absent"]
    text: str = ""


@dataclass(slots=True)
class Found:
    """Seconds by what they were spent on."""

    plan: Plan
    fetched: int = 0
    reached: dict[str, Any] = field(default_factory=dict)
    checks: list[Check] = field(default_factory=list)
    seconds: dict[str, int] = field(default_factory=dict)
    remembered: bool = False
    cleared: str = ""
    """What was found in this backup before, and is not there."""
    stays: str = ""
    """What was found in it before, by a program that did not look now."""

    @property
    def code(self) -> int:
        states = {each.state for each in self.checks}
        return DAMAGED if "damage" in states else CANNOT_TELL if "unsure" in states else SOUND

    @property
    def wrong(self) -> list[Check]:
        return [each for each in self.checks if each.state in ("damage", "unsure")]

    @property
    def of_the_backup(self) -> list[Check]:
        """What need not be wrong with an older backup. What pg_amcheck finds is of the cluster's own tables and indexes, or of a
        host that sorts text otherwise.
        """
        return [each for each in self.wrong if each.name != "pg_amcheck"]


def joined(checks: list[Check]) -> str:
    return "; ".join(f"{each.name}: {each.text}" for each in checks)


def remember(found: Found, *, damage: str = "", besides: str = "") -> None:
    """In the store, beside the backups: ``damage`` for expire, which does not count that one; or, with ``besides``, that what was
    found in it before is not there. Without a right to write there it is only said.

    The newest trial is all that is read later: it says as well what an earlier one found by a check that was not made now.
    """
    plan, reached = found.plan, found.reached
    store, layout = plan.evidence.store, plan.evidence.layout
    good = {each.name for each in found.checks if each.state == "ok"} | (set() if damage else {RESTORE})
    try:
        keys = with_retries(lambda: listed(store, layout))
        before = with_retries(lambda: against(store, layout, keys)).get(plan.backup.id)
        if besides and before is None:
            return
        left = set() if before is None else {*before.found_by} - good
        again = {each.name for each in found.of_the_backup if each.state == "damage"}
        stays = before.against if before is not None and left - again else ""
        ahead = with_retries(plan.config.store.clock_ahead) or 0.0
        proof = Proof(
            backup=plan.backup.id,
            at=timestamp(ahead),
            timeline=plan.timeline,
            lsn=str(Lsn.parse(reached.get("lsn") or "0/0")),
            last_commit=commit(reached),
            checks=tuple(each.name for each in found.checks if each.state == "ok"),
            by=os.uname().nodename,
            damage=(f"{damage}; and {stays}" if damage and stays else damage)[:4096],
            found_by=tuple(sorted(left | again)),
            stays="" if damage else stays[:4096],
            besides=besides[:4096],
        )
        own = with_retries(lambda: write_proof(store, layout, proof))
        found.remembered = not damage and not besides
        came = [key for key in with_retries(lambda: listed(store, layout)) if key not in {own, *keys}]
        between = with_retries(lambda: against(store, layout, came)).get(plan.backup.id)
        if between is not None and between != proof and {*between.found_by} - good:
            proof = _carrying(proof, between, good)
            with_retries(lambda: write_proof(store, layout, proof))
        found.stays = proof.stays
        found.cleared = before.against if before is not None and not damage and not proof.found_by else ""
    except StoreError as problem:
        events.warning("proof_not_stored", error=problem, hint="walkeeper backups and status will not know of it.")


def _carrying(proof: Proof, between: Proof, good: set[str]) -> Proof:
    """The same once more, after both, with what was found in a trial that ended while this one was written."""
    at = max(moment(proof.at), moment(between.at)) + timedelta(seconds=1)
    words = "; and ".join(filter(None, (proof.damage or proof.stays, between.against)))[:4096]
    return replace(
        proof,
        at=written(at),
        damage=words if proof.damage else "",
        stays="" if proof.damage else words,
        found_by=tuple(sorted({*proof.found_by, *between.found_by} - good)),
    )


def commit(reached: dict[str, Any]) -> str:
    return f"{reached['last_commit']} UTC" if reached.get("last_commit") else ""
