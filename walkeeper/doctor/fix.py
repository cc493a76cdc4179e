"""``--fix``: what can be fixed safely, which is Patroni's dynamic configuration, by its own REST API."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Final

from walkeeper.dcs.base import Topology
from walkeeper.dcs.patroni import change_dynamic
from walkeeper.doctor.facts import Facts, Unknown
from walkeeper.doctor.rule import Finding, judge
from walkeeper.errors import WalkeeperError
from walkeeper.lib.terminal import printable

PATRONI_SECONDS: Final = 30.0
"""Seconds for Patroni to do what it was told."""


def apply_fixes(
    facts: Facts,
    findings: Sequence[Finding],
    look_again: Callable[[], Facts],
    say: Callable[[str], None],
    agreed: Callable[[str], bool],
) -> Facts:
    """Fix what can be, after it was shown and agreed to; returns how things are then. Raises DcsError."""
    for finding in findings:
        if finding.change is None:
            continue
        if isinstance(facts.topology, Unknown):  # then there would be no finding with a change
            break
        if facts.topology.paused and not finding.rule.safe_in_pause:
            say(f"{finding.rule.name}: left alone, because Patroni is paused.")
            continue
        change = json.dumps(finding.change)
        say(f"{finding.rule.name}: {finding.text}. To be merged into Patroni's dynamic configuration:\n  {change}")
        say("By Patroni's REST API, which gets its user and password from here, at the first of these that answers:")
        for url in _api_urls(facts.topology):
            clear = "" if url.startswith("https://") else " (in clear: this is not TLS)"
            say(f"  {printable(url)}{clear}")
        if not agreed("Do it? [y/N] "):
            say("Left alone.")
            continue
        _send(facts, finding)
        facts = _wait(finding, look_again)
        say(f"Done: Patroni's dynamic configuration has {change} now.")
    return facts


def _api_urls(topology: Topology) -> list[str]:
    """Of the members' REST APIs as the DCS says them, the leader's first."""
    leader = topology.leader.name if topology.leader is not None else None
    members = sorted(topology.members, key=lambda member: member.name != leader)
    return [member.api_url for member in members if member.api_url]


def _send(facts: Facts, finding: Finding) -> None:
    """To the leader's Patroni, else to the first that takes it. Raises the last one's DcsError."""
    assert not isinstance(facts.topology, Unknown)  # noqa: S101 - the caller looked
    assert finding.change is not None  # noqa: S101 - the caller looked
    problem: WalkeeperError | None = None
    for url in _api_urls(facts.topology):
        try:
            change_dynamic(facts.config.patroni_config, url, finding.change)
        except WalkeeperError as refused:
            problem = refused
        else:
            return
    if problem is not None:
        raise problem


def _wait(finding: Finding, look_again: Callable[[], Facts]) -> Facts:
    """Until the rule is content, and the nodes are gap-safe where that hung on it: Patroni makes slots at its next turn."""
    until = time.monotonic() + PATRONI_SECONDS
    while True:
        facts = look_again()
        errors = [each for each in judge(facts) if each.state == "error"]
        still = [each for each in errors if each.rule is finding.rule or "hold slot" in each.text]
        if not still or time.monotonic() > until:
            return facts
        time.sleep(1)
