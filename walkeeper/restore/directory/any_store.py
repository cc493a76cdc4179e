"""Of several stores, the one that a restore begins with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from walkeeper.config import Config
from walkeeper.errors import CannotRestore, CannotTell, Refused, StoreError, WalkeeperError, WrongCall
from walkeeper.lib import events
from walkeeper.restore.directory import plan as planning
from walkeeper.restore.directory.model import Plan, Request
from walkeeper.restore.directory.target import Immediate, Latest, ToName
from walkeeper.restore.directory.together import diverged
from walkeeper.verify.evidence import Evidence


def make_of_any(
    config: Config,
    request: Request,
    tell: Callable[[str], None] = lambda _: None,
    known: Mapping[str, str] | None = None,
) -> Plan:
    """``plan.make`` of the first store that can be asked and can restore the target from a backup that was not found damaged; to
    latest, of the one that goes furthest, and to a restore point, of the one that has its name last. Where none can by itself, or
    goes further so, with the WAL of all that answer.

    Raises what ``make`` raises; where none of several can, what each has said.
    """
    if not config.others:
        return planning.make(config, request, tell, known)
    seen: dict[str, Evidence] = {}

    def of_each(*, together: bool) -> tuple[list[Plan], dict[str, WalkeeperError]]:
        plans: list[Plan] = []
        passed: dict[str, WalkeeperError] = {}
        for each in config.of_each_store:
            if together and each.store_name not in seen:
                continue
            try:
                plans.append(planning.make(each, request, tell, known, seen, together=together))
            except WrongCall:
                raise
            except (Refused, CannotTell, StoreError) as problem:
                passed[each.store_name] = problem
            if plans and not plans[-1].damage and not _may_end_further(plans[-1]):
                break
        # A recovery follows the first store that has a timeline's history.
        return [plan for plan in plans if plan.config.store_name not in _diverged_from_first(seen)], passed

    plans, passed = of_each(together=False)
    if len(seen) > 1 and _may_gain(plans, passed):
        more, refused = of_each(together=True)
        if not plans or (_reach(_best(more)) > _reach(_best(plans)) if more else _stops(_best(plans), refused)):
            plans, passed = more, passed | refused
    passed = {name: why for name, why in passed.items() if all(name != plan.config.store_name for plan in plans)}
    if not plans:
        raise _none_can(passed, _diverged_from_first(seen))
    for name, why in passed.items():
        if isinstance(why, CannotRestore):
            events.info("store_passed_over", name=name, error=why)
        else:
            events.warning("store_passed_over", name=name, error=why, hint=why.hint)
    best = _best(plans)
    if best.resumed is not None:
        return best  # another store could not go on with it, of course
    refused_by = (f"store {name}: {why}" for name, why in passed.items() if isinstance(why, CannotRestore))
    others = (f"store {name}: {why}" for name, why in diverged(best.config.store_name, seen).items())
    return replace(best, stores_passed_over=(*refused_by, *best.stores_passed_over, *others))


def _diverged_from_first(seen: Mapping[str, Evidence]) -> Mapping[str, str]:
    return diverged(next(iter(seen)), seen) if seen else {}


def _stops(plan: Plan, refused: Mapping[str, WalkeeperError]) -> bool:
    """A recovery to latest reads all stores: what stops it in one of them it meets, whatever its own store says. A replica goes
    on from its leader.
    """
    if plan.request.use == "replica":
        return False
    return isinstance(plan.target, Latest) and isinstance(refused.get(plan.config.store_name), CannotRestore)


def _may_gain(plans: Sequence[Plan], passed: Mapping[str, WalkeeperError]) -> bool:
    """Whether the WAL of all may restore what no store restores by itself."""
    if all(plan.damage for plan in plans):
        return True
    return _may_end_further(plans[0]) and (bool(passed) or len({_reach(plan) for plan in plans}) > 1)


def _may_end_further(plan: Plan) -> bool:
    """The newest restore point of a name may be in WAL that this store lacks."""
    return isinstance(plan.target, Latest) or (isinstance(plan.target, ToName) and plan.end is not None)


def _best(plans: Sequence[Plan]) -> Plan:
    """The first that is not damaged and ends where the others do; to latest, the one that goes furthest."""
    best = max(plans, key=_reach)
    told = tuple(
        f"store {plan.config.store_name}: {_told_of(plan)}. --store {plan.config.store_name} takes it"
        for plan in plans
        if bool(plan.damage) != bool(best.damage)
    )
    return replace(best, stores_passed_over=told)


def _reach(plan: Plan) -> tuple[int, int, bool]:
    """To immediate the backup is the target: one that is consistent earlier would end there. Other targets are where they are."""
    ends = isinstance(plan.target, Latest | Immediate | ToName)
    return plan.timeline if ends else 0, (plan.end or 0) if ends else 0, not plan.damage


def _told_of(plan: Plan) -> str:
    upto = f", which reaches {plan.end} on timeline {plan.timeline}" if plan.end is not None else ""
    return f"{plan.backup.id}: {plan.damage}" if plan.damage else f"{plan.backup.id}{upto}"


def _none_can(passed: Mapping[str, WalkeeperError], branches: Mapping[str, str]) -> WalkeeperError:
    """Where not every store could be asked, that is not the same as that none can."""
    kind = CannotRestore if all(isinstance(each, CannotRestore) for each in passed.values()) else CannotTell
    hints = dict.fromkeys(each.hint for each in passed.values() if each.hint)
    if branches:
        hints["A recovery reads all stores: leave those of the other branch out of this host's configuration."] = None
    said = (f"store {name}: {each}" for name, each in (*passed.items(), *branches.items()))
    return kind("; ".join(said), hint=" ".join(hints))
