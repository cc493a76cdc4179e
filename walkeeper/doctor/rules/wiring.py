"""Patroni's configuration on this node: callbacks and restore_command."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from functools import partial
from typing import Any, Final

from walkeeper.core.amounts import to_the_second
from walkeeper.doctor.commands import Command, parse
from walkeeper.doctor.facts import Facts, MemberFacts, PatroniFacts, Unknown, Unseen, known
from walkeeper.doctor.rule import Good, NotKnown, Rule, Severity, Verdict, Wrong
from walkeeper.doctor.rules import each, paste

error = partial(Rule, area="Patroni", severity="error")
warning = partial(Rule, area="Patroni", severity="warning")
EVENTS: Final = ("on_start", "on_stop", "on_role_change")
EVENTS_TO_WIRE: Final = (*EVENTS, "on_restart")
"""Patroni calls on_restart in place of on_stop and on_start where it restarts a server itself."""
_EVERYWHERE: Final = "# for all nodes at once; where the paths differ, in patroni.yml of each:"
START_GRACE: Final = 10.0
"""Seconds after the agent's start within which a server's start may have come before it."""


@error(
    what="Patroni's callbacks on_start, on_stop and on_role_change are walkeeper's, and can run.",
    why="They start the agent where no service manager does (then this is an error), and let it look at once after a "
    "promotion and not at its next turn (otherwise a warning).",
    fix="The callbacks section for patroni.yml, and patronictl reload.",
)
def callbacks(facts: Facts) -> Iterator[Verdict]:
    patroni = known(facts.patroni)
    severity: Severity = "error" if facts.config.agent.start_from_callback else "warning"
    found = patroni.callbacks
    missing = [event for event in EVENTS if event not in found or found[event].job != "callback"]
    fix = _callbacks_fix(facts, patroni)
    if missing:
        foreign = next((found[event].text for event in missing if event in found), None)
        told = f" ({foreign!r} is not walkeeper's, by its name)" if foreign else ""
        yield Wrong(f"not wired: {', '.join(missing)}{told}", fix, severity=severity)
    wired = {event: found[event] for event in EVENTS if event not in missing}
    broken = {event: text for event, command in wired.items() if (text := _cannot_run(facts, command))}
    for text in sorted(set(broken.values())):
        events = ", ".join(event for event, each in broken.items() if each == text)
        yield Wrong(f"{events}: {text}", fix, severity=severity)
    if not missing and not broken:
        yield Good(f"{', '.join(EVENTS)} are walkeeper's")


def _cannot_run(facts: Facts, command: Command) -> str:
    """Why this command of walkeeper's cannot do its work on this node; empty if nothing was found."""
    if command.runs is False:
        return f"{command.program} cannot be run"
    if command.config is not None and command.same_config is False:
        return f"it names the configuration {command.config}, and this is {facts.config.source}"
    return ""


def _callbacks_fix(facts: Facts, patroni: PatroniFacts) -> tuple[str, ...]:
    command = paste.walkeeper(facts, "callback")
    local = patroni.local.get("postgresql")
    if isinstance(local, dict) and local.get("callbacks"):
        return (
            f"# in {facts.config.patroni_config}:",
            *paste.yaml_lines("postgresql.callbacks", dict.fromkeys(EVENTS_TO_WIRE, paste.scalar(command))),
            paste.reload(facts),
        )
    sets = [
        word for event in EVENTS_TO_WIRE for word in ("--set", f"postgresql.callbacks.{event}={paste.scalar(command)}")
    ]
    return (_EVERYWHERE, paste.patronictl(facts, "edit-config", "--force", *sets))


@warning(
    what="Patroni has called a callback since the agent was started.",
    why="Wired is not called: Patroni may run with an older configuration, or as somebody who may not run the command.",
    fix="patronictl reload, and look into Patroni's log for the callback.",
)
def callbacks_called(facts: Facts) -> Iterator[Verdict]:
    report = known(facts.agent).report
    last = report.get("last_callback")
    if last:
        yield Good(f"the last callback came at {last['at']}: {last['action']}")
        return
    this = facts.this
    if this is None or isinstance(this.server, Unknown):
        yield NotKnown("it cannot be told whether one was due: this node's PostgreSQL was not seen")
        return
    if _seconds(this.server.started_at) <= _seconds(report["agent"]["started_at"]) + START_GRACE:
        yield NotKnown("none was due: PostgreSQL has not been started or promoted since the agent was")
    elif not isinstance(facts.patroni, Unknown) and "on_restart" not in facts.patroni.callbacks:
        yield NotKnown("PostgreSQL was restarted, and of that Patroni would tell on_restart alone, which is not wired")
    else:
        yield Wrong(
            f"PostgreSQL was started at {to_the_second(this.server.started_at)}, after the agent, and no callback came",
            (paste.reload(facts), "# then look for callback in Patroni's log"),
        )


def _seconds(stamp: str) -> float:
    try:
        return datetime.strptime(stamp, "%Y-%m-%dT%H:%M:%S%z").timestamp()
    except ValueError:
        return 0.0


@warning(
    what="Every member's restore_command is walkeeper's.",
    why="A standby then finds what its primary no longer has, and PostgreSQL looks into the archive before it chooses a "
    "timeline number, so that no two promotions choose the same. Other tools' commands take an unreachable store for the "
    "end of the WAL. With `durability: store` it is an error: what was acknowledged may lie in the store alone.",
    fix="patronictl edit-config --set postgresql.recovery_conf.restore_command='walkeeper-restore-wal … %f %p'",
)
@each.member
def restore_command(facts: Facts, member: MemberFacts) -> Iterator[Verdict]:
    text = _restore_text(facts, member)
    severity: Severity | None = "error" if facts.waits_for_store else None
    if not text:
        yield Wrong("it has no restore_command", _restore_fix(facts), severity=severity)
    elif parse(text).job != "restore-wal":
        yield Wrong(f"its restore_command is not walkeeper's: {text!r}", _restore_fix(facts), severity=severity)
    elif "%f" not in text or "%p" not in text:
        yield Wrong(f"its restore_command lacks %f or %p: {text!r}", _restore_fix(facts), severity="error")
    else:
        yield Good("its restore_command is walkeeper's")


def _restore_text(facts: Facts, member: MemberFacts) -> str:
    """What is in force on a standby; on a primary Patroni has it only in its configuration. Raises Unseen."""
    if not isinstance(member.server, Unknown) and member.server.state.in_recovery:
        return member.server.settings.get("restore_command", "")
    if not member.here:
        known(member.server)
        raise Unseen("its server is the primary: only Patroni's configuration on that node says")
    command = known(facts.patroni).restore_command
    return command.text if command else ""


@error(
    what="This node's restore_command can be run, and names this configuration.",
    why="A standby whose restore_command cannot be run goes down, and a recovery ends where it should not.",
    fix="patronictl edit-config --set postgresql.recovery_conf.restore_command='walkeeper-restore-wal … %f %p'",
)
def restore_command_runs(facts: Facts) -> Iterator[Verdict]:
    command = known(facts.patroni).restore_command
    if command is None or command.job != "restore-wal":
        yield Good("it is not walkeeper's, so that there is nothing to be tried")
    elif problem := _cannot_run(facts, command):
        yield Wrong(f"restore_command: {problem}", _restore_fix(facts))
    else:
        yield Good("restore_command can be run")


def _restore_fix(facts: Facts) -> tuple[str, ...]:
    command = paste.restore_command(facts)
    if not isinstance(facts.patroni, Unknown) and _locally(facts.patroni.local, "recovery_conf"):
        return (
            f"# in {facts.config.patroni_config}:",
            *paste.yaml_lines("postgresql.recovery_conf", {"restore_command": paste.scalar(command)}),
            paste.reload(facts),
        )
    setting = f"postgresql.recovery_conf.restore_command={paste.scalar(command)}"
    return (_EVERYWHERE, paste.patronictl(facts, "edit-config", "--force", "--set", setting))


@error(
    what="With `durability: store`, Patroni's pre_promote is walkeeper's, and can run.",
    why="What a commit was acknowledged for may lie in the store alone. Without pre_promote a standby is promoted that lacks it, "
    "and an old primary that its Patroni no longer stops goes on to acknowledge.",
    fix="patronictl edit-config --set postgresql.pre_promote='walkeeper pre-promote …'",
)
@each.where_commits_wait
def pre_promote(facts: Facts) -> Iterator[Verdict]:
    patroni = known(facts.patroni)
    if problem := _not_ours(facts, patroni.pre_promote):
        yield Wrong(problem, _pre_promote_fix(facts, patroni))
    else:
        yield Good("pre_promote is walkeeper's")


def _not_ours(facts: Facts, command: Command | None) -> str:
    if command is None:
        return "postgresql.pre_promote is not set"
    if command.job != "pre-promote":
        return f"postgresql.pre_promote is not walkeeper's: {command.text!r}"
    if "--lose" in command.text:
        return "postgresql.pre_promote has --lose, which accepts every loss beforehand and looks at nothing"
    problem = _cannot_run(facts, command)
    return f"postgresql.pre_promote: {problem}" if problem else ""


def _pre_promote_fix(facts: Facts, patroni: PatroniFacts) -> tuple[str, ...]:
    command = paste.scalar(paste.walkeeper(facts, "pre-promote"))
    if _locally(patroni.local, "pre_promote"):
        return (
            f"# in {facts.config.patroni_config}:",
            *paste.yaml_lines("postgresql", {"pre_promote": command}),
            paste.reload(facts),
        )
    return (
        _EVERYWHERE,
        paste.patronictl(facts, "edit-config", "--force", "--set", f"postgresql.pre_promote={command}"),
    )


def _locally(local: Any, key: str) -> bool:
    section = local.get("postgresql")
    return isinstance(section, dict) and bool(section.get(key))
