"""A cluster on paper, where one types what doctor prints. Patroni's own code and walkeeper's own parser read it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any, Final

import click
import yaml
from patroni.ctl import apply_config_changes, ctl

from tests.parts.cluster import merged
from walkeeper.cli.main import parser
from walkeeper.config import load
from walkeeper.dcs.base import Topology
from walkeeper.dcs.patroni import settings
from walkeeper.doctor import here
from walkeeper.doctor.commands import Command, parse
from walkeeper.doctor.facts import AgentFacts, Facts, MemberFacts, PatroniFacts, Unknown

AT_A_START: Final = frozenset({"archive_mode", "max_replication_slots", "max_wal_senders", "wal_level"})
"""Parameters that come into force when a server starts."""
SHELL: Final = frozenset(
    [
        "aws",
        "az",
        "chmod",
        "chown",
        "df",
        "etcdctl",
        "gcloud",
        "install",
        "ls",
        "openssl",
        "pip",
        "psql",
        "rm",
        "sleep",
        "systemctl",
        "timedatectl",
    ]
)
_COMMENT: Final = re.compile(r"   # .*$")


class NotOnPaper(Exception):
    """A line whose effect only a real machine shows."""


def commands(fix: Sequence[str]) -> tuple[list[list[str]], str]:
    """The lines that a shell takes, as words, and those that a file takes, as text; comments are for people."""
    shell, file = [], []
    for line in fix:
        if line.startswith("#"):
            continue
        words = shlex.split(_COMMENT.sub("", line)) if not line.startswith((" ", "- ")) else []
        if words and (words[0] in {*SHELL, "patronictl"} or any(word.endswith("walkeeper") for word in words)):
            shell.append(words)
        else:
            file.append(line)
    return shell, "\n".join(file)


def understood(words: list[str]) -> None:
    """The program that is named takes these arguments. Raises what the parser raises."""
    if words[0] == "patronictl":
        assert words[1] == "-c"
        command = ctl.commands[words[3]]
        command.make_context(words[3], words[4:], parent=click.Context(ctl, obj={"__config": {}}))
    elif words[0] not in SHELL:
        at = next(number for number, word in enumerate(words) if word.endswith("walkeeper"))
        parser().parse_args(words[at + 1 :])


class Paper:
    """``facts`` are what doctor sees of it."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        parameters = settings(facts.config.patroni_config, self._topology.dynamic)[1]["postgresql"]["parameters"]
        self._waiting = {name: _shown(value) for name, value in parameters.items() if name in AT_A_START}

    def type(self, fix: Sequence[str]) -> None:
        """Raises NotOnPaper."""
        shell, file = commands(fix)
        if file:
            self._write(file)
            self.facts = replace(self.facts, config=load(self.facts.config.source, {}))
        for words in shell:
            understood(words)
            if words[0] == "patronictl":
                self._patronictl(words[3:])
            elif words[0] == "sleep":
                self._look()
            elif words[-1] != "--reload":
                raise NotOnPaper(words)
        self._look()

    def _write(self, text: str) -> None:
        """Into the file that it is for: patroni.yml, or walkeeper's own."""
        part = yaml.safe_load(text)
        if not isinstance(part, dict):
            raise NotOnPaper(text)
        config = self.facts.config
        for path in {config.patroni_config, config.source}:
            whole = yaml.safe_load(path.read_text())
            if path == config.patroni_config or not part.keys() & {"postgresql", "tags"}:
                path.write_text(yaml.safe_dump(merged(whole, part)))

    def _patronictl(self, words: list[str]) -> None:
        match words:
            case ["edit-config", "--force", *changes]:
                for option, pair in zip(changes[::2], changes[1::2], strict=True):
                    self._edit(pair if option == "--set" else f"postgresql.parameters.{pair}")
            case ["restart", _, *_]:
                self._in_force(self._waiting)
                self._members(lambda each: replace(each, pending_restart=False))
            case ["reload", _, *_]:
                pass
            case ["resume", _]:
                self.facts = replace(self.facts, topology=replace(self._topology, paused=False))
            case _:
                raise NotOnPaper(words)

    def _edit(self, pair: str) -> None:
        dynamic = apply_config_changes("", deepcopy(dict(self._topology.dynamic)), [pair])[1]
        self.facts = replace(self.facts, topology=replace(self._topology, dynamic=dynamic))

    @property
    def _topology(self) -> Topology:
        assert not isinstance(self.facts.topology, Unknown)
        return self.facts.topology

    def _look(self) -> None:
        """What doctor sees of the files and of Patroni's configuration, and what Patroni has made of it."""
        facts = self.facts
        config = facts.config
        local, effective = settings(config.patroni_config, self._topology.dynamic)
        found = here.look_at_patroni(config, self._topology)
        assert not isinstance(facts.patroni, Unknown)
        callbacks = {
            **facts.patroni.callbacks,
            **{name: _as_if(each, config.source) for name, each in found.callbacks.items()},
        }
        restore = (
            _as_if(found.restore_command, config.source) if found.restore_command else facts.patroni.restore_command
        )
        promote = _as_if(found.pre_promote, config.source) if found.pre_promote else facts.patroni.pre_promote
        patroni = PatroniFacts(local=local, callbacks=callbacks, restore_command=restore, pre_promote=promote)
        self.facts = replace(facts, patroni=patroni)
        parameters = {name: _shown(value) for name, value in effective["postgresql"]["parameters"].items()}
        if "synchronous_standby_names" not in parameters:
            parameters["synchronous_standby_names"] = ""
        now = {name: value for name, value in parameters.items() if name not in AT_A_START}
        self._waiting = {name: value for name, value in parameters.items() if name in AT_A_START}
        self._in_force(now)
        if found.restore_command:
            self._in_force({"restore_command": found.restore_command.text})
        tags = local.get("tags") or {}
        if "nofailover" in tags:
            self._members(lambda each: replace(each, nofailover=tags["nofailover"]))
        if isinstance(facts.agent, AgentFacts):
            own = {**facts.agent.report["agent"], "spool_limit": config.spool_limit}
            self.facts = replace(self.facts, agent=AgentFacts(report={**facts.agent.report, "agent": own}))

    def _in_force(self, parameters: dict[str, str]) -> None:
        def changed(each: MemberFacts) -> MemberFacts:
            if isinstance(each.server, Unknown):
                return each
            state = replace(each.server.state, wal_level=parameters.get("wal_level", each.server.state.wal_level))
            own = {**each.server.settings, **parameters}
            refused = "" if int(own["max_wal_senders"]) >= 10 else each.server.replication_refused
            slot = each.server.slot
            if slot is not None and own["max_slot_wal_keep_size"] == "-1":
                slot = replace(slot, unreserved=False)
            seen = replace(each.server, settings=own, state=state, slot=slot, replication_refused=refused)
            return replace(each, server=seen)

        self._members(changed)

    def _members(self, change: Any) -> None:
        self.facts = replace(self.facts, members=tuple(map(change, self.facts.members)))


def in_the_cluster(facts: Facts, good: Facts) -> Facts:
    """What differs between the two in the servers' settings is so because Patroni's dynamic configuration says it."""
    assert not isinstance(facts.topology, Unknown)
    dynamic = deepcopy(dict(facts.topology.dynamic))
    for each, other in zip(facts.members, good.members, strict=True):
        if isinstance(each.server, Unknown) or isinstance(other.server, Unknown):
            continue
        own, usual = each.server.settings, other.server.settings
        said = {name: value for name, value in own.items() if usual.get(name) != value and name != "restore_command"}
        dynamic = merged(dynamic, {"postgresql": {"parameters": said}}) if said else dynamic
    assert not isinstance(facts.patroni, Unknown)
    path = facts.config.patroni_config
    path.write_text(yaml.safe_dump(merged(yaml.safe_load(path.read_text()), facts.patroni.local)))
    return replace(facts, topology=replace(facts.topology, dynamic=dynamic))


def _as_if(command: Command, source: object) -> Command:
    """The programs are there."""
    return replace(parse(command.text), runs=True, same_config=command.config == str(source))


def _shown(value: object) -> str:
    return {True: "on", False: "off"}.get(value, str(value)) if isinstance(value, bool) else str(value)
