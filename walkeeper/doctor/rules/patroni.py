"""Patroni: the hold slot and what Patroni does with it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from typing import Any, Final

from walkeeper.core.amounts import size
from walkeeper.doctor.facts import Facts, known
from walkeeper.doctor.rule import Good, NotKnown, Rule, Verdict, Wrong
from walkeeper.doctor.rules import each, paste

error = partial(Rule, area="Patroni", severity="error")
warning = partial(Rule, area="Patroni", severity="warning")
info = partial(Rule, area="Patroni", severity="info")
OLDEST: Final = (3, 2)
LAG: Final = 1024 * 1024
"""Bytes: Patroni's default of maximum_lag_on_failover."""
ENOUGH: Final = 1024 * LAG
_OFF: Final = ("false", "off", "no", "0", "none")
_SLOT_KEYS: Final = ("permanent_replication_slots", "permanent_slots", "slots")
"""In Patroni's order: the first one that says anything counts."""


@error(
    what="Every member's Patroni is 3.2 or newer.",
    why="Older ones do not keep permanent physical slots on replicas: a promoted node would lack what is not archived.",
    fix="Upgrade Patroni.",
)
def patroni_version(facts: Facts) -> Iterator[Verdict]:
    known(facts.topology)
    for member in facts.members:
        found = re.match(r"(\d+)\.(\d+)", member.patroni_version or "")
        if found is None:
            yield NotKnown("its key in the DCS does not say the version", member.name)
        elif (int(found[1]), int(found[2])) < OLDEST:
            fix = "pip install --upgrade 'patroni>=3.2'   # or your distribution's package, and a restart of Patroni"
            yield Wrong(f"Patroni {member.patroni_version} is older than 3.2", (fix,), member.name)
        else:
            yield Good(f"Patroni {member.patroni_version}", member.name)


@error(
    what="Patroni's dynamic configuration declares the hold slot, as a physical one.",
    why="Patroni makes it on every node and copies its position from the leader. Without it replicas recycle WAL that is "
    "not archived yet, and the next failover leaves a gap.",
    fix="patronictl edit-config --set slots.walkeeper.type=physical",
    fixable=True,
    safe_in_pause=True,
)
def slot_declared(facts: Facts) -> Iterator[Verdict]:
    name, dynamic = facts.config.hold_slot, known(facts.topology).dynamic
    key = next((key for key in _SLOT_KEYS if dynamic.get(key)), "slots")
    slots = dynamic.get(key)
    declared = slots.get(name) if isinstance(slots, dict) and name in slots else None
    change = {key: {name: {"type": "physical"}}}
    fix = (paste.patronictl(facts, "edit-config", "--force", "--set", f"{key}.{name}.type=physical"),)
    if not isinstance(slots, dict) or name not in slots:
        yield Wrong(f"the dynamic configuration does not declare the slot {name}", fix, change=change)
    elif not _is_physical(declared):
        yield Wrong(f"the slot {name} is declared as a logical one", _declare_again(facts, key, name))
    elif isinstance(declared, dict) and declared.get("cluster_type"):
        text = f"the slot {name} is declared for cluster_type {declared['cluster_type']} only"
        fix = (paste.patronictl(facts, "edit-config", "--force", "--set", f"{key}.{name}.cluster_type=null"),)
        yield Wrong(text, fix, severity="warning")
    else:
        yield Good(f"the dynamic configuration declares the slot {name}")


def _is_physical(declared: Any) -> bool:
    return not isinstance(declared, dict) or declared.get("type", "physical") == "physical"


def _declare_again(facts: Facts, key: str, name: str) -> tuple[str, ...]:
    """Patroni drops the slot of the wrong kind only when nothing declares it."""
    return (
        paste.patronictl(facts, "edit-config", "--force", "--set", f"{key}.{name}=null"),
        paste.let_patroni_look(facts),
        paste.patronictl(facts, "edit-config", "--force", "--set", f"{key}.{name}.type=physical"),
    )


@error(
    what="postgresql.use_slots is on.",
    why="With use_slots off Patroni drops every slot, the hold slot with them.",
    fix="patronictl edit-config --set postgresql.use_slots=true",
    fixable=True,
)
def use_slots(facts: Facts) -> Iterator[Verdict]:
    if known(facts.topology).slots_off:
        fix = (paste.patronictl(facts, "edit-config", "--force", "--set", "postgresql.use_slots=true"),)
        yield Wrong("use_slots is off: Patroni drops every slot", fix, change={"postgresql": {"use_slots": True}})
    else:
        yield Good("use_slots is on")


def _on(value: object) -> bool:
    return value is True or str(value).lower() in ("on", "true", "yes", "1")


@info(
    what="No member has the tag nofailover.",
    why="Patroni gives such a member no permanent slot, so that it does not keep what is not archived. It is never promoted "
    "either, so that nothing is lost by it.",
    fix="Take the tag out of that member's patroni.yml, if it is to be promoted one day.",
)
def nofailover(facts: Facts) -> Iterator[Verdict]:
    known(facts.topology)
    tagged = [member for member in facts.members if member.nofailover]
    others = [member for member in facts.members if not member.nofailover and not member.leads]
    for member in tagged:
        lines = paste.yaml_lines("tags", {"nofailover": "false"})
        fix = (f"# in patroni.yml of {member.name}:", *lines, paste.reload(facts, member.name))
        alone = "; no other replica could be promoted" if not others else ""
        text = f"it has the tag nofailover, and so no hold slot{alone}"
        yield Wrong(text, fix, member.name, "info" if others else "warning")
    if not tagged:
        yield Good("no member has the tag nofailover")


@info(
    what="failsafe_mode is on.",
    why="While the DCS is away, Patroni without it demotes the primary. Nothing is lost by that; with it the cluster keeps "
    "working, and Patroni goes on to carry the hold slot to the replicas.",
    fix="patronictl edit-config --set failsafe_mode=true",
)
def failsafe_mode(facts: Facts) -> Iterator[Verdict]:
    if _on(known(facts.topology).dynamic.get("failsafe_mode", False)):
        yield Good("failsafe_mode is on")
    else:
        yield Wrong("failsafe_mode is off", (paste.edit_config(facts, failsafe_mode="true"),))


@warning(
    what="No member waits for a restart.",
    why="A setting that needs one has been changed and is not in force there.",
    fix="patronictl restart CLUSTER --pending",
)
def pending_restart(facts: Facts) -> Iterator[Verdict]:
    known(facts.topology)
    waiting = [member for member in facts.members if member.pending_restart]
    for member in waiting:
        fix = paste.patronictl(facts, "restart", facts.config.scope, member.name, "--pending")
        yield Wrong("it waits for a restart, for settings to come into force", (fix,), member.name)
    if not waiting:
        yield Good("no member waits for a restart")


@info(
    what="Patroni is not paused.",
    why="In a pause there is no failover, and slots are not looked after as usual. walkeeper goes on archiving.",
    fix="patronictl resume",
)
def not_paused(facts: Facts) -> Iterator[Verdict]:
    if known(facts.topology).paused:
        yield Wrong("Patroni is paused", (paste.patronictl(facts, "resume", facts.config.scope),))
    else:
        yield Good("Patroni is not paused")


@error(
    what="With `durability: store`, synchronous_mode is off.",
    why="With it Patroni writes synchronous_standby_names itself, with members only: no commit waits for the store. The store is "
    "the synchronous standby here; pre_promote replays it before a promotion.",
    fix="patronictl edit-config --set synchronous_mode=false",
)
@each.where_commits_wait
def synchronous_mode(facts: Facts) -> Iterator[Verdict]:
    found = str(known(facts.topology).dynamic.get("synchronous_mode", "off")).lower()
    if found in _OFF:
        yield Good("synchronous_mode is off")
    else:
        fix = (paste.edit_config(facts, synchronous_mode="false"),)
        yield Wrong(f"synchronous_mode is {found}: Patroni leaves the store out of synchronous_standby_names", fix)


@error(
    what="With `durability: store`, check_timeline is on.",
    why="Patroni that was away finds its server still running as a primary, and takes the leader key again if nobody has it: "
    "without a promotion, so without pre_promote, although another member has led since, on a newer timeline. Its agent "
    "refuses that timeline, so commits wait, and the others follow it and lose theirs.",
    fix="patronictl edit-config --set check_timeline=true",
)
@each.where_commits_wait
def check_timeline(facts: Facts) -> Iterator[Verdict]:
    found = str(known(facts.topology).dynamic.get("check_timeline", "off")).lower()
    if found not in _OFF:
        yield Good(f"check_timeline is {found}")
    else:
        fix = (paste.edit_config(facts, check_timeline="true"),)
        yield Wrong(
            "check_timeline is off: an old primary can lead again without having what was acknowledged since", fix
        )


@warning(
    what="With `durability: store`, maximum_lag_on_failover is more than its default of 1 MiB.",
    why="A replica that lags more is not promoted by Patroni, though the store has the rest and pre_promote replays it. With "
    "asynchronous replication a busy cluster would stay without a leader until the replica has fetched it by itself.",
    fix="patronictl edit-config --set maximum_lag_on_failover=1073741824",
)
@each.where_commits_wait
def maximum_lag_on_failover(facts: Facts) -> Iterator[Verdict]:
    said = str(known(facts.topology).dynamic.get("maximum_lag_on_failover", LAG))
    found = int(said) if re.fullmatch(r"\d{1,18}", said) else LAG
    if found > LAG:
        yield Good(f"maximum_lag_on_failover is {size(found)}")
    else:
        fix = (paste.edit_config(facts, maximum_lag_on_failover=str(ENOUGH)),)
        yield Wrong(f"maximum_lag_on_failover is {size(found)}: a replica that lags more is not promoted", fix)
