"""Lines to paste: what they have in common."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from typing import Any, Final

from walkeeper.doctor.facts import Facts, Unknown

_LONGEST_LOOP: Final = 3600
"""Seconds of a ``loop_wait`` that are believed."""
_NEVER_LOCAL: Final = frozenset({"wal_level", "max_wal_senders", "max_replication_slots"})
"""Parameters that Patroni takes from the dynamic configuration alone; for others patroni.yml goes before it."""
_PLAIN: Final = re.compile(r"(-\d|\w|/|\.)[\w/.%@+,~= -]*")
"""Text that YAML reads as it is, without quotes."""


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
    """Set a PostgreSQL parameter, cluster-wide if nothing goes before that; ``null`` takes it out."""
    change, start = _change(facts, name, value), patronictl(facts, "restart", facts.config.scope, "--pending")
    if not restart:
        return change
    waits = name in _NEVER_LOCAL or any(member.pending_restart for member in facts.members)
    if waits and _said_already(facts, name, value):
        return "# the dynamic configuration says so already, and waits for a restart:", start
    return *change, let_patroni_look(facts), start


def _change(facts: Facts, name: str, value: str) -> tuple[str, ...]:
    path = facts.config.patroni_config
    local = {} if isinstance(facts.patroni, Unknown) else _parameters(facts.patroni.local)
    if name in local and name not in _NEVER_LOCAL:
        if value == "null":
            return f"# take {name} out of postgresql.parameters in {path}, and then:", reload(facts)
        lines = yaml_lines("postgresql.parameters", {name: scalar(value)})
        return f"# in {path}, and of each node that has it there:", *lines, reload(facts)
    if _said_already(facts, name, value):
        return (
            f"# the dynamic configuration says so already. If it stays: take {name} out of postgresql.parameters",
            "# in that node's patroni.yml, and reload Patroni; or, where ALTER SYSTEM has set it, there, as a superuser:",
            shlex.join(["psql", "-c", f"ALTER SYSTEM RESET {name}", "-c", "SELECT pg_reload_conf()"]),
        )
    return (patronictl(facts, "edit-config", "--force", "--pg", f"{name}={scalar(value)}"),)


def _said_already(facts: Facts, name: str, value: str) -> bool:
    """In the dynamic configuration. YAML reads a bare ``on`` as true; what is not mentioned is ``null``."""
    if isinstance(facts.topology, Unknown):
        return False
    found = _parameters(facts.topology.dynamic).get(name)
    if found is None:
        return value == "null"
    return str(found).lower() in (value, {"on": "true", "off": "false"}.get(value))


def _parameters(tree: Mapping[str, Any]) -> Mapping[str, Any]:
    section = tree.get("postgresql")
    found = section.get("parameters") if isinstance(section, dict) else None
    return found if isinstance(found, dict) else {}


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
    return f"{facts.program} {shlex.join([*words[:1], '-c', str(facts.config.source), *words[1:]])}"


def reload_agent(facts: Facts) -> str:
    return f"{walkeeper(facts, 'agent', '--reload')}   # or systemctl reload walkeeper"


def restore_command(facts: Facts) -> str:
    call = (
        shlex.join([facts.restore_program, "-c", str(facts.config.source)])
        if facts.restore_program
        else walkeeper(facts, "restore-wal")
    )
    return f"{call} %f %p"


def scalar(text: str) -> str:
    """As YAML reads it, in a file and in patronictl's ``--set``."""
    return text if _PLAIN.fullmatch(text) else json.dumps(text)


def key(facts: Facts, path: str) -> str:
    """A key of walkeeper's where its configuration has it: below ``walkeeper`` in patroni.yml, else at the top."""
    return f"walkeeper.{path}" if facts.config.source == facts.config.patroni_config else path


def yaml_lines(path: str, lines: dict[str, str]) -> tuple[str, ...]:
    """Lines for a configuration file, below the section ``path`` (``a.b``)."""
    found = []
    for depth, name in enumerate(path.split(".")):
        found.append(f"{'  ' * depth}{name}:")
    depth = len(found)
    return (*found, *(f"{'  ' * depth}{key}: {value}" for key, value in lines.items()))
