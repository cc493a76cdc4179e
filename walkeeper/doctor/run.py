"""The command ``walkeeper doctor``.

Exit codes: 0 all well (warnings or not), 1 something breaks a promise, 2 whether something does cannot be told.
"""

from __future__ import annotations

import json as json_module
import sys

from walkeeper.config import Config
from walkeeper.doctor import rules, text
from walkeeper.doctor.facts import Facts
from walkeeper.doctor.fix import apply_fixes
from walkeeper.doctor.gather import gather
from walkeeper.doctor.rule import exit_code, judge
from walkeeper.errors import ConfigError
from walkeeper.lib.terminal import answered, aside, takes_colour, tell

__all__ = ["main", "rules"]


def main(config: Config, *, json: bool = False, fix: bool = False, yes: bool = False, verbose: bool = False) -> int:
    """Look, judge, print; with ``fix`` fix what can be, and judge again. Raises ConfigError or DcsError."""
    if yes and not fix:
        raise ConfigError("doctor --yes: it answers what --fix asks", hint="Say --fix --yes.")
    facts = gather(config)
    if fix:
        facts = _fixed(config, facts, json=json, yes=yes)
    findings = judge(facts)
    if json:
        tell(json_module.dumps(text.as_json(facts, findings), indent=2))
    else:
        colour = takes_colour(sys.stdout)
        tell(text.render(facts, findings, colour=colour, verbose=verbose), painted=colour)
    return answered(exit_code(findings))


def _fixed(config: Config, facts: Facts, *, json: bool, yes: bool) -> Facts:
    """Where programs read standard output, people are told on standard error."""
    say = aside if json else tell

    def agreed(question: str) -> bool:
        if yes:
            return True
        if not sys.stdin.isatty():
            say("There is no terminal to ask on: say --fix --yes.")
            return False
        say(question, end="")
        return sys.stdin.readline().strip().lower() in ("y", "yes")

    changed = apply_fixes(facts, judge(facts), lambda: gather(config), say, agreed)
    say("")
    return changed
