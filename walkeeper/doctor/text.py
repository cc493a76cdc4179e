"""Doctor's findings, as people read them in 80 columns and as programs do."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, TypeAlias

from walkeeper.doctor.facts import Facts, Unknown
from walkeeper.doctor.rule import Finding, State, exit_code
from walkeeper.lib.terminal import printable

WIDTH: Final = 80
Paint: TypeAlias = Callable[[str, State], str]

_VERDICTS: Final = {0: "All well.", 1: "Something breaks a promise.", 2: "Whether the promises hold cannot be told."}
_ORDER: Final = ("error", "warning", "info")
_COLOURS: Final[dict[State, str]] = {"error": "31", "warning": "33", "unknown": "35", "ok": "32", "info": "36"}


def as_json(facts: Facts, findings: Sequence[Finding]) -> dict[str, Any]:
    """Stable: keys are added, never changed."""
    return {
        "scope": facts.config.scope,
        "node": facts.config.node.name,
        "version": facts.version,
        "exit_code": exit_code(list(findings)),
        "findings": [
            {
                "rule": finding.rule.name,
                "area": finding.rule.area,
                "state": finding.state,
                "severity": finding.rule.severity,
                "member": finding.about or None,
                "text": finding.text,
                "why": finding.rule.why,
                "fix": list(finding.fix),
                "fixable": finding.change is not None,
            }
            for finding in findings
        ],
    }


def render(facts: Facts, findings: Sequence[Finding], *, colour: bool, verbose: bool) -> str:
    """What is wrong first, what is not known next; lines to paste are never wrapped."""
    paint = _painter(colour=colour)
    lines = [_title(facts), ""]
    lines += _areas(findings, paint)
    for state in _ORDER:
        for group in _by_rule(finding for finding in findings if finding.state == state):
            lines += ["", *_detail(group, paint)]
    lines += _not_known(findings, paint)
    if verbose:
        lines += ["", *(_one_line(each, paint) for each in findings if each.state == "ok")]
    lines += ["", _elsewhere(facts), _verdict(findings)]
    return "\n".join(line.rstrip() for line in lines if line is not None)


def _painter(*, colour: bool) -> Paint:
    def paint(word: str, state: State) -> str:
        return f"\033[1;{_COLOURS[state]}m{word}\033[0m" if colour else word

    return paint


def _title(facts: Facts) -> str:
    this = facts.this
    role = ", the leader" if this is not None and this.leads else ""
    node = facts.config.node.name or "this node"
    return printable(f"walkeeper {facts.version}, cluster {facts.config.scope}, seen from {node}{role}")


def _areas(findings: Sequence[Finding], paint: Paint) -> list[str]:
    lines = []
    for area in dict.fromkeys(finding.rule.area for finding in findings):
        here = [finding for finding in findings if finding.rule.area == area]
        counts = Counter(finding.state for finding in here)
        parts = [_count(counts[state], noun) for state, noun in _NOUNS.items() if counts[state]]
        word, state = _worst(here)
        lines.append(f"{area:<11}{paint(f'{word:<9}', state)}{', '.join(parts)}")
    return lines


def _worst(findings: Sequence[Finding]) -> tuple[str, State]:
    code = exit_code(list(findings))
    if code:
        return ("ERROR", "error") if code == 1 else ("unknown", "unknown")
    return ("warning", "warning") if any(finding.state == "warning" for finding in findings) else ("ok", "ok")


_NOUNS: Final[dict[State, tuple[str, str]]] = {
    "error": ("error", "errors"),
    "warning": ("warning", "warnings"),
    "unknown": ("not known", "not known"),
    "info": ("remark", "remarks"),
    "ok": ("good", "good"),
}


def _count(number: int, noun: tuple[str, str]) -> str:
    return f"{number} {noun[0] if number == 1 else noun[1]}"


def _by_rule(findings: Iterable[Finding]) -> list[list[Finding]]:
    groups: dict[str, list[Finding]] = {}
    for finding in findings:
        groups.setdefault(finding.rule.name, []).append(finding)
    return list(groups.values())


def _detail(group: Sequence[Finding], paint: Paint) -> list[str]:
    """What one rule found; members with the same words share a line, and everything shares the reason."""
    rule, state = group[0].rule, group[0].state
    word = {"error": "ERROR", "warning": "warning", "info": "remark"}[state]
    members: dict[str, list[str]] = {}
    for finding in group:
        members.setdefault(finding.text, []).append(finding.about)
    lines = []
    for text, about in members.items():
        told = ": ".join(filter(None, (rule.name, ", ".join(filter(None, about)), text)))
        head = _wrapped(told, first=f"{word:<9}")
        head[0] = head[0].replace(word, paint(word, state), 1)
        lines += head
    lines += _wrapped(f"Why: {rule.why}")
    pasted = [line for fix in dict.fromkeys(finding.fix for finding in group) for line in fix]
    if pasted:
        lines += [" " * 9 + "Fix:", *(" " * 9 + printable(line) for line in pasted)]
    return lines


def _not_known(findings: Sequence[Finding], paint: Paint) -> list[str]:
    """Together where the reason is the same: a server that is down hides everything that it would have told."""
    reasons: dict[str, dict[str, list[str]]] = {}
    for finding in findings:
        if finding.state == "unknown":
            reasons.setdefault(finding.text, {}).setdefault(finding.rule.name, []).append(finding.about)
    lines: list[str] = []
    for text, rules in reasons.items():
        names = [f"{name} ({', '.join(about)})" if any(about) else name for name, about in rules.items()]
        head = _wrapped(f"{names[0]}: {text}" if len(names) == 1 else text, first=f"{'unknown':<9}")
        head[0] = head[0].replace("unknown", paint("unknown", "unknown"), 1)
        lines += ["", *head, *(_wrapped(f"That is: {', '.join(names)}.") if len(names) > 1 else ())]
    return lines


def _one_line(finding: Finding, paint: Paint) -> str:
    about = f"{finding.about}: " if finding.about else ""
    return f"{paint('ok', 'ok')}       {finding.rule.name}: {printable(about + finding.text)}"


def _elsewhere(facts: Facts) -> str:
    others = [member.name for member in facts.members if not member.here]
    if isinstance(facts.topology, Unknown):
        return "Only this node was looked at."
    if not others:
        return "It has no other members."
    names = ", ".join(printable(name) for name in others)
    text = f"The files, the store and the DCS as {names} see them: run walkeeper doctor there too."
    return textwrap.fill(text, WIDTH)


def _verdict(findings: Sequence[Finding]) -> str:
    code = exit_code(list(findings))
    counts = Counter(finding.state for finding in findings)
    beside = [_count(counts[state], _NOUNS[state]) for state in ("warning", "unknown") if counts[state]]
    if code == 0 and beside:
        return f"No promise is broken; {', '.join(beside)}."
    return _VERDICTS[code]


def _wrapped(text: str, first: str = " " * 9) -> list[str]:
    return textwrap.wrap(
        printable(text), WIDTH, initial_indent=first, subsequent_indent=" " * 9, break_on_hyphens=False,
        break_long_words=False,
    )  # fmt: skip
