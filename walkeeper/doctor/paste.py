"""Lines to paste: what they have in common."""

from __future__ import annotations

import shlex
from typing import Final

from walkeeper.doctor.facts import Facts, Unknown

_LONGEST_LOOP: Final = 3600
"""Seconds of a ``loop_wait`` that are believed."""


def patronictl(facts: Facts, *words: str) -> str:
    """A patronictl command for this cluster."""
    return shlex.join(["patronictl", "-c", str(facts.config.patroni_config), *words])


def edit_config(facts: Facts, **changes: str) -> str:
    """Change Patroni's dynamic configuration; a dot in a key is written as two underscores."""
    words = [word for key, value in changes.items() for word in ("--set", f"{key.replace('__', '.')}={value}")]
    return patronictl(facts, "edit-config", "--force", *words)


def reload(facts: Facts, *members: str) -> str:
    """Let Patroni read its configuration again, on all members where none is named."""
    return patronictl(facts, "reload", facts.config.scope, *members, "--force")


def set_parameter(facts: Facts, name: str, value: str, *, restart: bool = False) -> tuple[str, ...]:
    """Set a PostgreSQL parameter cluster-wide; ``null`` takes it out."""
    change = patronictl(facts, "edit-config", "--force", "--pg", f"{name}={value}")
    if not restart:
        return (change,)
    return change, let_patroni_look(facts), patronictl(facts, "restart", facts.config.scope, "--pending")


def let_patroni_look(facts: Facts) -> str:
    """Wait until every Patroni has acted on the dynamic configuration: each looks once per loop_wait."""
    return f"sleep {look_seconds(facts)}"


def look_seconds(facts: Facts) -> int:
    """After which every Patroni has looked at everything."""
    found = facts.topology.dynamic.get("loop_wait") if not isinstance(facts.topology, Unknown) else None
    # Anybody can write anything there: .inf, for one.
    return 2 * int(found if isinstance(found, int | float) and 1 <= found <= _LONGEST_LOOP else 10)


def walkeeper(facts: Facts, *words: str) -> str:
    """A walkeeper command with this configuration."""
    return f"{shlex.quote(facts.program)} {shlex.join([*words[:1], '-c', str(facts.config.source), *words[1:]])}"


def restore_command(facts: Facts) -> str:
    call = (
        shlex.join([facts.restore_program, "-c", str(facts.config.source)])
        if facts.restore_program
        else walkeeper(facts, "restore-wal")
    )
    return f"{call} %f %p"


def yaml_lines(path: str, lines: dict[str, str]) -> tuple[str, ...]:
    """Lines for a configuration file, below the section ``path`` (``a.b``)."""
    found = []
    for depth, name in enumerate(path.split(".")):
        found.append(f"{'  ' * depth}{name}:")
    depth = len(found)
    return (*found, *(f"{'  ' * depth}{key}: {value}" for key, value in lines.items()))
