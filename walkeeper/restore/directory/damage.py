"""What a restore that met damage leaves: the note that ``verify --deep`` leaves, and which other backup reaches the target."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from functools import partial

from walkeeper.archive import proofs
from walkeeper.config import Config
from walkeeper.errors import Damaged, StoreDenied, StoreError, WalkeeperError
from walkeeper.lib.retry import with_retries
from walkeeper.restore.directory import any_store
from walkeeper.restore.directory.model import Plan, Request
from walkeeper.restore.directory.target import Latest, ToLsn, ToTime


def note(plan: Plan, problem: Damaged) -> None:
    """In the store, if that may be written, so that the next restore, status and expire know. A trial writes its own."""
    if plan.request.is_trial:
        return
    store, layout = plan.evidence.store, plan.evidence.layout
    (backup,) = [each for each in plan.chain if each.id == problem.backup]
    with suppress(StoreDenied, StoreError):
        if backup.id not in with_retries(lambda: proofs.damaged(store, layout)):
            found = proofs.note(backup, f"restore: {problem}", plan.config.store.clock_ahead() or 0.0)
            with_retries(partial(proofs.write_proof, store, layout, found))


def instead(config: Config, request: Request, plan: Plan, problem: Damaged) -> Damaged:
    """``problem`` with a hint that names the backup, in whatever store, with which the same command reaches the target. Where one
    would have to look for that in the WAL, or has to end elsewhere, none is named.
    """
    if plan.request.use != "server" or not isinstance(plan.target, Latest | ToLsn | ToTime):
        return problem
    with suppress(WalkeeperError):
        asked = replace(request, backup=None, delta=True)
        other = any_store.make_of_any(config, asked, known={problem.backup: str(problem)})
        if not other.damage:
            where = f" of store {other.config.store_name}" if config.others else ""
            return Damaged(
                str(problem),
                hint=f"Backup {other.backup.id}{where} has no known damage and reaches {other.end} on timeline "
                f"{other.timeline}: the same command with --backup {other.backup.id} --delta restores it. What was written "
                "does not start as a database.",
            )
    return problem
