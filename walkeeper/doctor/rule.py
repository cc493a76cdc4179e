"""What a rule is: from facts to findings, purely. The rules themselves are in ``rules/``; docs/doctor.md is made from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, TypeAlias

from walkeeper.doctor.facts import Facts, Unseen
from walkeeper.lib.terminal import printable

Severity: TypeAlias = Literal["error", "warning", "info"]
State: TypeAlias = Literal["ok", "error", "warning", "info", "unknown"]


@dataclass(frozen=True, slots=True)
class Good:
    """It is as it should be. ``about`` names the member; empty is the cluster, or this node."""

    text: str
    about: str = ""


@dataclass(frozen=True, slots=True)
class Wrong:
    """It is not. ``fix`` are lines to paste; ``severity`` replaces the rule's own."""

    text: str
    fix: tuple[str, ...]
    about: str = ""
    severity: Severity | None = None
    change: Mapping[str, Any] | None = None
    """To Patroni's dynamic configuration: what --fix would send."""


@dataclass(frozen=True, slots=True)
class NotKnown:
    """It could not be looked at."""

    because: str
    about: str = ""


Verdict: TypeAlias = Good | Wrong | NotKnown
Look: TypeAlias = Callable[[Facts], Iterator[Verdict]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """``what`` says what is right, ``fix`` how it is fixed, in general. It decorates what looks, and then has that function's
    name, a stable word.
    """

    name: str = ""
    area: str
    severity: Severity
    what: str
    why: str
    fix: str
    look: Look = lambda _: iter(())
    fixable: bool = False
    """Whether --fix can fix it."""
    safe_in_pause: bool = False
    """Whether --fix may do so while Patroni is paused."""
    of_each_store: bool = False
    """Whether it is asked of every store of a cluster that has several."""

    def __call__(self, look: Look) -> Look:
        RULES.append(replace(self, name=look.__name__, look=look))
        return look


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One judgement. ``state`` ok, unknown, or what is wrong by its weight."""

    rule: Rule
    state: State
    about: str
    text: str
    fix: tuple[str, ...] = ()
    change: Mapping[str, Any] | None = field(default=None)


AREAS: Final = ("PostgreSQL", "Patroni", "Archiving", "Backups", "DCS", "Store", "Node", "Agents")
"""In the report's order."""
RULES: Final[list[Rule]] = []


def judge(facts: Facts) -> list[Finding]:
    """Every rule on these facts, area by area."""
    return [finding for each in ordered() for finding in _findings(each, facts)]


def _findings(rule: Rule, facts: Facts) -> Iterator[Finding]:
    yield from (_finding(rule, verdict) for verdict in _verdicts(rule, facts))
    for other in facts.other_stores if rule.of_each_store else ():
        for verdict in _verdicts(rule, other):
            found = _finding(rule, verdict)
            yield replace(found, text=f"store {other.config.store_name}: {found.text}")


def _verdicts(rule: Rule, facts: Facts) -> Iterator[Verdict]:
    try:
        yield from rule.look(facts)
    except Unseen as unseen:
        yield NotKnown(str(unseen))


def ordered() -> list[Rule]:
    """All rules, area by area."""
    return sorted(RULES, key=lambda each: AREAS.index(each.area))


def exit_code(findings: list[Finding]) -> int:
    """1: something breaks a promise. 2: whether something does cannot be told. 0: all well, warnings or not."""
    if any(finding.state == "error" for finding in findings):
        return 1
    return 2 if any(finding.state == "unknown" and finding.rule.severity == "error" for finding in findings) else 0


def _finding(rule: Rule, verdict: Verdict) -> Finding:
    match verdict:
        case Good():
            return Finding(rule=rule, state="ok", about=verdict.about, text=verdict.text)
        case NotKnown():
            return Finding(
                rule=rule, state="unknown", about=verdict.about, text=f"not known, because {verdict.because}"
            )
        case Wrong():
            return Finding(
                rule=rule, state=verdict.severity or rule.severity, about=verdict.about, text=verdict.text,
                fix=tuple(map(printable, verdict.fix)), change=verdict.change,
            )  # fmt: skip
