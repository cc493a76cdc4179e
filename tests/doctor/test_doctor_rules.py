"""Doctor's rules, as pure functions of what was seen; and their document."""

from __future__ import annotations

import ast
import json
import shlex
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, cast

import msgspec
import pytest

from walkeeper.config import Config, load
from walkeeper.core.hold_slot import SlotState
from walkeeper.core.lsn import MIB, Lsn, SegmentSize
from walkeeper.core.record import Gap, Record
from walkeeper.core.room import Disk
from walkeeper.core.stores_told import brief
from walkeeper.dcs.base import Leader, Member, Room, Topology, Versioned
from walkeeper.doctor import fix, gather, reference, run, text
from walkeeper.doctor.commands import Command, parse
from walkeeper.doctor.facts import (
    AgentFacts,
    Facts,
    MemberFacts,
    PatroniFacts,
    ServerFacts,
    SpoolFacts,
    StoreFacts,
    Unknown,
)
from walkeeper.doctor.rule import RULES, Finding, exit_code, judge
from walkeeper.doctor.rules import wiring
from walkeeper.errors import ConfigError, DcsUnavailable, Refused, StoreDenied, StoreUnavailable, StoreUnfit
from walkeeper.lib.schedule import Schedule
from walkeeper.postgres.server import ServerState
from walkeeper.store.directory.keys import DirectorySettings
from walkeeper.store.s3.keys import S3Settings

ROOT: Final = Path(__file__).parents[2]
UID: Final = 111
Changed = Callable[[Facts], Facts]


def server(**changes: Any) -> ServerFacts:
    """As good as it can be."""
    in_recovery = bool(changes.pop("in_recovery", False))
    facts = ServerFacts(
        state=ServerState(7, in_recovery, 1, Lsn(9 * MIB + 100), SegmentSize(MIB), 15, "replica"),
        slot=SlotState(physical=True, restart_lsn=Lsn(9 * MIB), active_pid=None, lost=False),
        settings={
            "archive_mode": "off",
            "archive_command": "(disabled)",
            "max_replication_slots": "10",
            "max_slot_wal_keep_size": "-1",
            "max_wal_senders": "10",
            "restore_command": "/opt/walkeeper/bin/walkeeper restore-wal -c /etc/patroni.yml %f %p",
            "synchronous_standby_names": "",
        },
        role="replicator",
        may_replicate=True,
        agents=("1.0",),
        disk=Disk(112 << 30, 500 << 30, 1e3),
        stores=brief(["main"]),
        started_at="2026-11-23T08:00:00Z",
    )
    settings = {**facts.settings, **changes.pop("settings", {})}
    state = replace(facts.state, **changes.pop("state", {}))
    return replace(facts, settings=settings, state=state, **changes)


def member(name: str, **changes: Any) -> MemberFacts:
    facts = MemberFacts(
        name=name, leads=name == "n1", here=name == "n1", host="10.0.0.1", port=5432, patroni_version="4.1.5",
        server=server(in_recovery=name != "n1"),
    )  # fmt: skip
    return replace(facts, **changes)


def config_of(directory: Path, **more: Any) -> Config:
    whole = {
        "scope": "demo",
        "name": "n1",
        "etcd3": {"host": "127.0.0.1:9"},
        "postgresql": {
            "listen": "127.0.0.1:5432",
            "data_dir": str(directory / "data"),
            "authentication": {"replication": {"username": "replicator", "password": "p"}},
        },
        "walkeeper": {"store": {"s3": {"bucket": "our-wal", "region": "r"}}, **more},
    }
    path = directory / "patroni.yml"
    path.touch(mode=0o600)
    path.write_text(json.dumps(whole))
    return load(path, {})


def good_facts(directory: Path) -> Facts:
    """A cluster without a fault, as a node sees it whose configuration lies in that directory."""
    config = config_of(directory)
    callback = f"/opt/walkeeper/bin/walkeeper callback -c {config.source}"
    restore = f"/opt/walkeeper/bin/walkeeper restore-wal -c {config.source} %f %p"
    return Facts(
        config=config,
        program="/opt/walkeeper/bin/walkeeper",
        version="1.0",
        uid=UID,
        servers_uid=UID,
        topology=Topology(
            Leader("n1"), (), standby_cluster=False, paused=False, slots=("walkeeper",),
            dynamic={"slots": {"walkeeper": {"type": "physical"}}, "failsafe_mode": True},
        ),
        record=Record(
            system_identifier="7", segment_size=MIB, timeline=1, lsn="0/900000", start="000000010000000000000003",
            owner="n1", session="s", updated_at="2026-11-23T08:00:00Z",
        ),
        record_age=5.0,
        patroni=PatroniFacts(
            local={},
            callbacks={event: found(callback) for event in wiring.EVENTS_TO_WIRE},
            restore_command=found(restore),
        ),
        members=(member("n1"), member("n2"), member("n3")),
        store=StoreFacts(url="s3://our-wal", clock_ahead=0.5, kept_versions="versions are kept", before_frontier="000000010000000000000008"),
        spool=SpoolFacts(path="/var/spool/walkeeper", exists=True, uid=UID, free=2 << 30),
        agent=AgentFacts(
            report={
                "agent": {
                    "version": "1.0", "pid": 5, "store": "s3://our-wal", "spool_limit": config.spool_limit,
                    "started_at": "2026-11-23T08:10:00Z",
                },
                "troubles": [],
                "last_callback": {"action": "on_start", "at": "2026-11-23T08:00:00Z"},
            }
        ),
        base_backup="the newest ended yesterday",
    )  # fmt: skip


@pytest.fixture
def good(tmp_path: Path) -> Facts:
    return good_facts(tmp_path)


BACKED: Final[dict[str, Any]] = {
    "complete": 3, "damaged": 0, "newest": {"id": "20261128T020000Z-00000003-1a2b3c4d", "stop_at": "2026-11-28T02:00:00+00:00", "age_seconds": 3 * 86400.0, "bytes": 5 << 30}, "window": {"seconds": 86400.0},
    "keep_seconds": 14 * 86400.0, "short": False, "overdue": False, "proof_overdue": False,
    "proved": {"backup": "20261128T020000Z-00000003-1a2b3c4d", "at": "2026-11-28T04:00:00Z", "age_seconds": 3600.0},
}  # fmt: skip


def found(text: str) -> Command:
    return replace(parse(text), runs=True, same_config=True)


def with_server(name: str = "n1", **changes: Any) -> Changed:
    """That member's server, otherwise."""

    def change(facts: Facts) -> Facts:
        def changed(each: MemberFacts) -> MemberFacts:
            return replace(each, server=server(in_recovery=name != "n1", **changes)) if each.name == name else each

        return replace(facts, members=tuple(map(changed, facts.members)))

    return change


def with_member(name: str, **changes: Any) -> Changed:
    return lambda facts: replace(
        facts, members=tuple(replace(each, **changes) if each.name == name else each for each in facts.members)
    )


def with_dynamic(**changes: Any) -> Changed:
    def change(facts: Facts) -> Facts:
        assert isinstance(facts.topology, Topology)
        return replace(facts, topology=replace(facts.topology, dynamic={**facts.topology.dynamic, **changes}))

    return change


def with_config(**changes: Any) -> Changed:
    return lambda facts: replace(facts, config=replace(facts.config, **changes))


def with_record(**changes: Any) -> Changed:
    def change(facts: Facts) -> Facts:
        assert isinstance(facts.record, Record)
        values = {name: getattr(facts.record, name) for name in facts.record.__struct_fields__}
        return replace(facts, record=Record(**{**values, **changes}))

    return change


def with_part(part: str, **changes: Any) -> Changed:
    return lambda facts: replace(facts, **{part: replace(getattr(facts, part), **changes)})


def with_facts(**changes: Any) -> Changed:
    return lambda facts: replace(facts, **changes)


def with_report(**changes: Any) -> Changed:
    def change(facts: Facts) -> Facts:
        assert isinstance(facts.agent, AgentFacts)
        return replace(facts, agent=AgentFacts(report={**facts.agent.report, **changes}))

    return change


def with_callbacks(**commands: Command | None) -> Changed:
    def change(facts: Facts) -> Facts:
        assert isinstance(facts.patroni, PatroniFacts)
        every = {**facts.patroni.callbacks, **commands}
        return replace(
            facts, patroni=replace(facts.patroni, callbacks={name: each for name, each in every.items() if each})
        )

    return change


def both(*changes: Changed) -> Changed:
    def change(facts: Facts) -> Facts:
        for each in changes:
            facts = each(facts)
        return facts

    return change


def service(facts: Facts) -> Facts:
    """systemd starts the agent, and not a callback."""
    return replace(facts, config=replace(facts.config, agent=replace(facts.config.agent, start_from_callback=False)))


def slot(**changes: Any) -> SlotState:
    return replace(SlotState(physical=True, restart_lsn=Lsn(9 * MIB), active_pid=None, lost=False), **changes)


def of(findings: list[Finding], name: str) -> list[Finding]:
    return [finding for finding in findings if finding.rule.name == name]


def test_a_good_cluster_is_good_in_every_rule(good: Facts) -> None:
    findings = judge(good)
    assert [finding for finding in findings if finding.state != "ok"] == []
    assert {finding.rule.name for finding in findings} == {rule.name for rule in RULES}
    assert exit_code(findings) == 0


HBA: Final = 'connection failed: FATAL: no pg_hba.conf entry for replication connection from host "10.0.0.1"'
SENDERS: Final = "FATAL: number of requested standby connections exceeds max_wal_senders (currently 3)"
FOREIGN: Final = parse("/usr/local/bin/tell-somebody")
OWN: Final = "/opt/walkeeper/bin/walkeeper restore-wal -c /etc/x.yml %f %p"

SCHEDULED: Final = with_config(
    backup_schedule=Schedule.parse("02:00"), backup_verify_schedule=Schedule.parse("0 4 * * 0")
)
FAILED: Final = {
    "state": "failed", "node": "n2", "why": "no room", "backup": "20261128T020000Z-00000003-1a2b3c4d", "at": "2026-11-28T04:10:00Z",
}  # fmt: skip
RUNS: Final = {
    "state": "running",
    "node": "n2",
    "why": "",
    "bytes": 1 << 30,
    "of": 5 << 30,
    "attempt": 1,
    "silent": False,
}
WATCHING: Final = {
    "what": "takeover", "reason": "watching", "since": "t", "text": "x: for 90 s more", "hint": "It comes automatically.",
}  # fmt: skip
ON_A_REPLICA: Final = both(
    SCHEDULED, with_part("store", backups=BACKED), with_member("n1", here=False), with_member("n2", here=True)
)

INCREMENTAL: Final = both(
    with_config(backup_full_every=7 * 86400.0),
    *(with_server(name, state={"major": 17}, settings={"summarize_wal": "off"}) for name in ("n1", "n2", "n3")),
)

STORE: Final = with_config(durability="store")
ACKNOWLEDGES: Final = "walkeeper_00000007"


def promoting(text: str, **changes: Any) -> Changed:
    return both(STORE, with_part("patroni", pre_promote=replace(found(text), **changes)))


def names(setting: str) -> Changed:
    """With ``durability: store``; as the dynamic configuration has it, too."""
    parameters = {"synchronous_standby_names": setting}
    return both(STORE, with_server(settings=parameters), with_dynamic(postgresql={"parameters": parameters}))


# Rule, what is changed, state, a piece of the text, a piece of the fix.
WRONG: Final[list[tuple[str, Changed, str, str, str]]] = [
    ("server_answers", with_member("n1", server=Unknown("connection refused")), "error", "does not answer: connection refused", "patronictl"),
    ("server_answers", with_member("n2", server=Unknown("connection refused")), "unknown", "because connection refused", ""),
    ("server_answers", with_member("n2", server=Unknown(HBA.replace("replication connection from ", ""))), "warning", "no pg_hba.conf entry", "- host postgres replicator 10.0.0.1/32 scram-sha-256"),
    ("server_answers", with_member("n1", server=Unknown("fe_sendauth: no password supplied")), "error", "no password supplied", ":PASSWORD"),
    ("server_answers", with_member("n1", server=Unknown('could not load private key file "/k"')), "error", "private key file", "replication.sslpassword"),
    ("replication_allowed", with_server(replication_refused=HBA), "error", "no pg_hba.conf entry", "- host replication replicator 10.0.0.1/32 scram-sha-256"),
    ("replication_allowed", with_server("n2", replication_refused=HBA), "warning", "no pg_hba.conf entry", "reload demo"),
    ("replication_allowed", with_server(replication_refused=SENDERS), "error", "exceeds max_wal_senders", "--pg max_wal_senders=20"),
    ("replication_allowed", with_server(replication_refused=Unknown("no room")), "unknown", "no room", ""),
    ("role_may_replicate", with_server(may_replicate=False), "error", "replicator lacks REPLICATION", 'ALTER ROLE "replicator" REPLICATION'),
    ("server_version", with_server(state={"major": 12}), "error", "12 is too old", "upgrade"),
    ("server_version", with_server(state={"major": 20}), "warning", "20 is newer", ""),
    ("wal_level", with_server(state={"wal_level": "minimal"}), "error", "wal_level is minimal", "--pg wal_level=replica"),
    ("wal_level", both(with_server(state={"wal_level": "minimal"}), with_dynamic(postgresql={"parameters": {"wal_level": "replica"}})), "error", "wal_level is minimal", "waits for a restart:\npatronictl"),
    ("archive_settings", both(with_config(archiver="command"), with_dynamic(postgresql={"parameters": {"archive_mode": True}}), with_member("n1", pending_restart=True)), "error",
     "walkeeper.archiver is command", "waits for a restart:\npatronictl"),
    ("max_wal_senders", with_server(settings={"max_wal_senders": "2"}), "error", "is 2, and 3 are needed", "--pg max_wal_senders=10"),
    ("max_wal_senders", with_server(settings={"max_wal_senders": "4"}), "warning", "base backup takes two", "restart demo --pending"),
    ("max_replication_slots", with_server(settings={"max_replication_slots": "2"}), "error", "is 2, and 3", "--pg max_replication_slots=10"),
    ("max_slot_wal_keep_size", with_server(settings={"max_slot_wal_keep_size": "1GB"}), "warning", "is 1GB", "max_slot_wal_keep_size=-1"),
    ("idle_replication_slot_timeout", with_server(settings={"idle_replication_slot_timeout": "1d"}), "error", "is 1d", "idle_replication_slot_timeout=0"),
    ("synchronous_standby_names", both(with_server(settings={"synchronous_standby_names": 'ANY 1 (n2, "walkeeper")'}), with_dynamic(postgresql={"parameters": {"synchronous_standby_names": 'ANY 1 (n2, "walkeeper")'}})), "error",
     "never confirms", "synchronous_standby_names=null"),
    ("synchronous_standby_names", both(names(ACKNOWLEDGES), with_config(durability="local")), "error", "never confirms", "synchronous_standby_names=null"),
    ("synchronous_standby_names", names("walkeeper"), "error", "never confirms", f"synchronous_standby_names={ACKNOWLEDGES}"),
    ("synchronous_standby_names", STORE, "warning", f"do not wait for {ACKNOWLEDGES}", f"edit-config --force --pg synchronous_standby_names={ACKNOWLEDGES}"),
    ("synchronous_standby_names", names(f"ANY 1 (n2, {ACKNOWLEDGES})"), "warning", "do not wait", f"={ACKNOWLEDGES}"),
    ("synchronous_commit", both(STORE, with_server(settings={"synchronous_commit": "local"})), "warning", "synchronous_commit is local", "--pg synchronous_commit=on"),
    ("one_acknowledges", with_server(acknowledging=(ACKNOWLEDGES, ACKNOWLEDGES)), "error", f"2 walsenders are called {ACKNOWLEDGES}", "pg_stat_replication"),
    ("pre_promote", STORE, "error", "pre_promote is not set", "'postgresql.pre_promote=/opt/walkeeper/bin/walkeeper pre-promote -c"),
    ("pre_promote", both(STORE, with_part("patroni", local={"postgresql": {"pre_promote": "/bin/true"}}, pre_promote=found("/bin/true"))), "error", "is not walkeeper's: '/bin/true'", "  pre_promote: "),
    ("pre_promote", promoting("walkeeper pre-promote --lose -c /etc/x.yml"), "error", "has --lose", "edit-config"),
    ("pre_promote", promoting("walkeeper pre-promote -c /etc/x.yml", runs=False), "error", "cannot be run", "edit-config"),
    ("synchronous_mode", both(STORE, with_dynamic(synchronous_mode=True)), "error", "synchronous_mode is true", "--set synchronous_mode=false"),
    ("synchronous_mode", both(with_record(durability="store"), with_dynamic(synchronous_mode="quorum")), "error", "synchronous_mode is quorum", "--set synchronous_mode=false"),
    ("check_timeline", STORE, "error", "check_timeline is off", "--set check_timeline=true"),
    ("maximum_lag_on_failover", STORE, "warning", "is 1 MiB", "maximum_lag_on_failover=1073741824"),
    ("restore_command", both(STORE, with_server("n2", settings={"restore_command": ""})), "error", "has no restore_command", "recovery_conf.restore_command="),
    ("restore_command", both(STORE, with_server("n2", settings={"restore_command": "cp /a/%f %p"})), "error", "is not walkeeper's", "recovery_conf.restore_command="),
    ("archive_settings", with_server(settings={"archive_mode": "always", "archive_command": "cp %p /a/%f"}), "warning", "archives again", "archive_mode=on"),
    ("max_slot_wal_keep_size", both(with_server(settings={"max_slot_wal_keep_size": "1GB"}), with_part("patroni", local={"postgresql": {"parameters": {"max_slot_wal_keep_size": "1GB"}}})),
     "warning", "is 1GB", "    max_slot_wal_keep_size: -1"),
    ("max_slot_wal_keep_size", both(with_server(settings={"max_slot_wal_keep_size": "1GB"}), with_dynamic(postgresql={"parameters": {"max_slot_wal_keep_size": -1}})),
     "warning", "is 1GB", "ALTER SYSTEM RESET max_slot_wal_keep_size"),
    ("synchronous_standby_names", both(with_server(settings={"synchronous_standby_names": "walkeeper"}), with_part("patroni", local={"postgresql": {"parameters": {"synchronous_standby_names": "walkeeper"}}})),
     "error", "never confirms", "# take synchronous_standby_names out of postgresql.parameters in"),
    ("archive_settings", with_config(archiver="command"), "error", "walkeeper.archiver is command, and archive_mode is off", "--pg archive_mode=on"),
    ("archive_settings", both(with_server(settings={"archive_mode": "on", "archive_command": "cp %p /srv/wal/%f"}), with_config(store=DirectorySettings(Path("/srv/wal")))),
     "error", "writes into walkeeper's own store", "archive_command=/bin/true"),
    ("archive_settings", with_server(settings={"archive_mode": "on"}), "error", "there is no archive_command", "archive_command=/bin/true"),
    ("archive_command_works", with_server(settings={"archive_mode": "on", "archive_command": "x"}, archiving_failed="00000001000000000000000A"), "warning",
     "fails for 00000001000000000000000A", "archive_command=/bin/true"),
    ("same_cluster", with_record(system_identifier="8"), "error", "system identifier is 7, the record's 8", "takeover -c"),
    ("same_cluster", with_server("n2", state={"system_identifier": 8}), "error", "system identifier is 8, the record's 7", "reinit demo n2"),
    ("same_cluster", both(with_record(system_identifier="8"), with_server("n1", state={"system_identifier": 8})), "error",
     "system identifier is 7, the record's 8", "reinit demo n2"),
    ("same_cluster", both(with_record(system_identifier="8"), with_member("n1", leads=False)), "error", "system identifier is 7", "patronictl"),
    ("same_cluster", with_record(segment_size=MIB << 1, lsn="0/800000"), "error", "1048576 bytes, the record's 2097152", "another prefix"),
    ("gap_safe", with_server("n2", slot=None), "error", "it has no hold slot", "patronictl"),
    ("gap_safe", with_server("n2", slot=slot(restart_lsn=Lsn(12 * MIB))), "warning", "after the frontier", "status"),
    ("gap_safe", with_server("n2", slot=slot(active_pid=42)), "error", "process 42 streams", "pg_terminate_backend(42)"),
    ("gap_safe", with_server("n2", slot=slot(lost=True)), "error", "invalidated its hold slot", "psql -h 10.0.0.1 -p 5432 -U replicator -d postgres -c \"SELECT pg_drop_replication_slot('walkeeper')\""),
    ("gap_safe", with_server("n2", slot=slot(unreserved=True), settings={"max_slot_wal_keep_size": "1GB"}), "error", "about to invalidate its hold slot", "--pg max_slot_wal_keep_size=-1"),
    ("gap_safe", with_server("n2", slot=slot(restart_lsn=None)), "error", "reserves no WAL", "pg_drop_replication_slot('walkeeper')"),
    ("gap_safe", with_facts(record=None), "unknown", "no record yet", ""),
    ("clocks", with_server("n2", clock_ahead=-90.0), "warning", "90 s behind", "timedatectl set-ntp true"),
    ("base_backup", with_facts(base_backup=Unknown("nobody knows")), "unknown", "nobody knows", ""),
    ("base_backup", with_part("store", backups=Unknown("it is away")), "unknown", "it is away", ""),
    ("base_backup", with_part("store", backups={**BACKED, "damaged": 1}), "warning", "1 of walkeeper's base backups are damaged", "walkeeper backups -c"),
    ("base_backup", with_part("store", backups={**BACKED, "newest": None}), "warning", "none of walkeeper's base backups is complete", "walkeeper backup -c"),
    ("base_backup", with_part("store", backups={**BACKED, "short": True}), "warning", "backup.keep says 14 days", "walkeeper backups -c"),
    ("schedules", SCHEDULED, "warning", "backups at no time and not 02:00, proofs at no time and not 0 4 * * 0", "agent -c"),
    ("schedules", both(SCHEDULED, with_facts(agent=Unknown("nobody answers"))), "unknown", "nobody answers", ""),
    ("backup_member", both(SCHEDULED, *(with_server(name, agents=()) for name in ("n1", "n2", "n3"))), "warning",
     "no member can run a backup: no agent runs on n1, no agent runs on n2", "source: leader"),
    ("backup_member", both(SCHEDULED, with_config(backup_source="leader"), with_server(state={"major": 14})), "warning", "n1 has PostgreSQL 14", ""),
    ("backup_member", both(SCHEDULED, with_server(settings={"full_page_writes": "off"})), "warning", "refuses the backup of a replica", "full_page_writes=on"),
    ("incrementals", INCREMENTAL, "warning", "summarize_wal is off: each backup is full", "summarize_wal=on"),
    ("incrementals", with_config(backup_full_every=7 * 86400.0), "warning", "PostgreSQL 15 has no incremental backups", "full_every"),
    ("incrementals", both(with_config(backup_full_every=7 * 86400.0), *(with_member(name, server=Unknown("it is away")) for name in ("n1", "n2", "n3"))), "unknown", "it is away", ""),
    ("incrementals", both(INCREMENTAL, with_config(encryption_recipients=("age1x",))), "warning", "no key here opens", "identity_file"),
    ("proof_member", both(SCHEDULED, with_server("n2", agents=()), with_server("n3", agents=())), "warning", "no member can run a proof", "verify --restore"),
    ("proof_member", both(SCHEDULED, with_member("n2", server=Unknown("x")), with_server("n3", agents=())), "unknown", "may run a proof", ""),
    ("backup_in_time", SCHEDULED, "warning", "none is complete yet", "walkeeper backup -c"),
    ("backup_in_time", both(SCHEDULED, with_report(backup_job=RUNS)), "info", "none is complete yet: one runs on n2, 1 GiB of about 5 GiB", "status"),
    ("backup_in_time", both(SCHEDULED, with_report(backup_job={**RUNS, "silent": True})), "warning", "none is complete yet", "walkeeper backup -c"),
    ("backup_in_time", both(SCHEDULED, with_part("store", backups=Unknown("it is away"))), "unknown", "it is away", ""),
    ("backup_in_time", both(SCHEDULED, with_part("store", backups={**BACKED, "overdue": True})), "warning", "the newest is 3 days old, and the schedule is 02:00", "status"),
    ("backup_in_time", both(SCHEDULED, with_part("store", backups=BACKED), with_report(backup_job=FAILED)), "warning", "failed on n2: no room", "status"),
    ("restore_proved", with_part("store", backups={**BACKED, "proved": None}), "info", "was ever proved", "verify -c"),
    ("restore_proved", with_part("store", backups={**BACKED, "proved": None, "proof_overdue": True}), "warning", "was ever proved", "verify"),
    ("restore_proved", with_part("store", backups=Unknown("it is away")), "unknown", "it is away", ""),
    ("restore_proved", both(SCHEDULED, with_part("store", backups={**BACKED, "proof_overdue": True})), "warning", "and the schedule is 0 4 * * 0", "--restore /var/tmp"),
    ("restore_proved", both(SCHEDULED, with_part("store", backups=BACKED), with_report(proof_job=FAILED)), "warning", "scheduled proof failed on n2: no room", "status"),
    ("restore_proved", both(ON_A_REPLICA, with_facts(verify_room=1 << 30)), "info", "/var/tmp has 1 GiB free, and a proof needs 5 GiB", "another disk"),
    ("restore_proved", both(ON_A_REPLICA, with_facts(verify_room=Unknown("there is no such directory"))), "warning", "no such directory", "install -d -m 0700"),
    ("restore_proved", both(SCHEDULED, with_config(encryption_recipients=("age1x",))), "warning", "no key here opens", "identity_file"),
    ("retention", with_config(backup_expire=Path("/etc/x.yml")), "warning", "/etc/x.yml has no backup.keep", "keep: 14d"),
    ("retention", both(with_config(backup_expire=Path("/etc/x.yml")), with_facts(expire_keep=Unknown("may not be read"))), "unknown", "may not be read", ""),
    ("retention", both(with_config(backup_keep=86400.0), with_facts(backup_every=7 * 86400.0)), "warning", "a backup is due each 7 days only", "keep: 21d"),
    ("retention", both(with_config(backup_keep=86400.0, backup_full_every=7 * 86400.0), with_facts(backup_every=86400.0)), "warning", "a full backup is due each 7 days", "keep: 21d"),
    ("retention", both(with_config(backup_keep=86400.0, backup_full_every=30 * 86400.0), with_facts(backup_every=86400.0)), "warning", "a full backup is due each 7 days", "keep: 21d"),
    ("retention", both(with_config(backup_expire=Path("/x")), with_facts(expire_keep=86400.0, backup_every=2 * 86400.0)), "warning", "each 2 days only", "keep"),
    ("patroni_version", with_member("n2", patroni_version="3.1.2"), "error", "3.1.2 is older than 3.2", "pip install"),
    ("patroni_version", with_member("n2", patroni_version=None), "unknown", "does not say", ""),
    ("slot_declared", with_dynamic(slots={}), "error", "does not declare the slot walkeeper", "--set slots.walkeeper.type=physical"),
    ("slot_declared", with_dynamic(slots=None, permanent_slots={"a": None}), "error", "does not declare", "permanent_slots.walkeeper.type=physical"),
    ("slot_declared", with_dynamic(slots={"walkeeper": {"type": "logical", "database": "x"}}), "error", "as a logical one", "slots.walkeeper=null"),
    ("slot_declared", with_dynamic(slots={"walkeeper": {"type": "physical", "cluster_type": "primary"}}), "warning", "cluster_type primary", "cluster_type=null"),
    ("use_slots", with_dynamic(postgresql={"use_slots": False}), "error", "use_slots is off", "postgresql.use_slots=true"),
    ("use_slots", with_dynamic(postgresql={"use_slots": "off"}), "error", "use_slots is off", "postgresql.use_slots=true"),
    ("nofailover", with_member("n2", nofailover=True), "info", "so no hold slot", "nofailover: false"),
    ("nofailover", both(with_member("n2", nofailover=True), with_member("n3", nofailover=True)), "warning", "no other replica", ""),
    ("failsafe_mode", with_dynamic(failsafe_mode=False), "info", "is off", "failsafe_mode=true"),
    ("pending_restart", with_member("n2", pending_restart=True), "warning", "waits for a restart", "restart demo n2 --pending"),
    ("not_paused", with_part("topology", paused=True), "info", "is paused", "resume demo"),
    ("callbacks", with_callbacks(on_stop=None), "error", "not wired: on_stop", "--set 'postgresql.callbacks.on_start=/opt/walkeeper/bin/walkeeper callback -c"),
    ("callbacks", both(service, with_callbacks(on_stop=None)), "warning", "not wired: on_stop", "callbacks"),
    ("callbacks", with_callbacks(on_start=FOREIGN), "error", "tell-somebody' is not walkeeper's", "callbacks"),
    ("callbacks", with_callbacks(on_start=replace(found("/nowhere/walkeeper callback -c /x"), runs=False)), "error", "on_start: /nowhere/walkeeper cannot be run", "callbacks"),
    ("callbacks", with_callbacks(on_start=replace(found("walkeeper callback -c /etc/y.yml"), same_config=False)), "error", "/etc/y.yml", "callbacks"),
    ("callbacks", both(with_part("patroni", local={"postgresql": {"callbacks": {"on_start": "x"}}}), with_callbacks(on_start=None)),
     "error", "not wired: on_start", "    on_start: /opt/walkeeper/bin/walkeeper callback"),
    ("callbacks_called", both(with_report(last_callback=None), with_server(started_at="2026-11-23T09:00:00Z")), "warning", "no callback came", "reload demo"),
    ("callbacks_called", both(with_callbacks(on_restart=None), with_report(last_callback=None), with_server(started_at="2026-11-23T09:00:00Z")),
     "unknown", "on_restart alone", ""),
    ("callbacks_called", with_report(last_callback=None), "unknown", "none was due", ""),
    ("restore_command", with_server("n2", settings={"restore_command": ""}), "warning", "has no restore_command", "recovery_conf.restore_command=/opt/walkeeper/bin/walkeeper restore-wal"),
    ("restore_command", with_server("n2", settings={"restore_command": "pgbackrest --stanza=x archive-get %f %p"}), "warning", "is not walkeeper's", "recovery_conf"),
    ("restore_command", with_server("n2", settings={"restore_command": "walkeeper restore-wal %f"}), "error", "lacks %f or %p", "%f %p"),
    ("restore_command", with_part("patroni", restore_command=None), "warning", "has no restore_command", "recovery_conf"),
    ("restore_command", with_part("patroni", restore_command=None, local={"postgresql": {"recovery_conf": {"a": 1}}}), "warning",
     "has no restore_command", "    restore_command: /opt/walkeeper"),
    ("restore_command_runs", with_part("patroni", restore_command=replace(found(OWN), runs=False)), "error", "cannot be run", "recovery_conf"),
    ("restore_command_runs", with_part("patroni", restore_command=replace(found(OWN), same_config=False)), "error", "/etc/x.yml", "recovery_conf"),
    ("dcs_answers", with_facts(dcs_problem=DcsUnavailable("etcd3: no answer within 5 s", hint="Look.")), "error", "no answer within 5 s", "# Look."),
    ("compare_and_set", with_facts(compare_and_set="etcd3: not allowed: permission denied"), "error", "permission denied", "/service/demo/walkeeper"),
    ("compare_and_set", with_facts(compare_and_set=Unknown("no record")), "unknown", "no record", ""),
    ("etcd_has_room", with_facts(dcs_room=Room(700 * MIB, 2048 * MIB, 400_000, compacted=False)), "warning", "kept all 400,000 versions", "etcdctl --command-timeout=600s compact --physical 400000\netcdctl --command-timeout=600s defrag --cluster"),
    ("etcd_has_room", with_facts(dcs_room=Room(1100 * MIB, 2048 * MIB, 400_000, compacted=True)), "warning", "it has 1.07 GiB, and takes no more at 2 GiB", "etcdctl --command-timeout=600s defrag --cluster"),
    ("etcd_has_room", with_facts(dcs_room=Unknown("etcd3: not allowed")), "unknown", "not allowed", ""),
    ("record_owned", both(with_facts(record=None), with_server(agents=())), "error", "there is no record, and nothing is archived", "--detach"),
    ("record_owned", with_facts(record=None), "error", "the agent on n1 runs, and has not taken over; for two and a half minutes", "# on n1, whose agent"),
    ("record_owned", both(with_facts(record=None), with_report(troubles=[WATCHING])), "warning", "nothing is archived yet: x: for 90 s more", "automatically"),
    ("record_owned", with_facts(record=None, record_problem="record in the DCS: schema 9"), "error", "schema 9", "agent"),
    ("record_owned", with_record(owner="n2"), "error", "leader is n1, and n2 still owns", "# on n1:"),
    ("record_owned", with_record(trouble="store: denied"), "error", "n1, which archives, reports: store: denied", "status"),
    ("record_owned", with_part("topology", leader=None), "error", "no leader", "list"),
    ("frontier_moves", both(with_facts(record_age=90.0), with_server(state={"lsn": Lsn(20 * MIB)})), "error", "stood for 90 s, and 11 MiB", "status"),
    ("frontier_moves", both(with_facts(record_age=90.0), with_server(state={"lsn": Lsn(20 * MIB)}), with_record(trouble="store: denied")), "info", "because of what n1 reports", "status"),
    ("store_answers", with_part("store", problem=StoreUnavailable("s3://our-wal: refused", hint="Look.")), "error", "s3://our-wal: refused", "aws s3 ls s3://our-wal/"),
    ("store_answers", with_part("store", problem=ConfigError("profile x: not found")), "error", "profile x", "store section"),
    ("store_allows", with_part("store", problem=StoreDenied("s3://our-wal: AccessDenied", hint="Look.")), "error", "AccessDenied", "# Look."),
    ("store_allows", with_part("store", problem=StoreUnavailable("s3://our-wal: refused")), "unknown", "s3://our-wal: refused", ""),
    ("store_allows", with_part("store", problem=Refused("/wal: this is root")), "unknown", "this is root", ""),
    ("store_creates_only", with_part("store", problem=Refused("/wal: this is root")), "unknown", "this is root", ""),
    ("store_creates_only", with_part("store", problem=StoreUnfit("s3://our-wal: it overwrites", hint="Set head.")), "error", "it overwrites", "# Set head."),
    ("store_creates_only", with_part("store", problem=StoreDenied("s3://our-wal: denied")), "unknown", "denied", ""),
    ("store_creates_only", with_config(store=S3Settings(bucket="our-wal", region="r", overwrite_guard="head")), "warning",
     "overwrite_guard is head", "      overwrite_guard: conditional"),
    ("store_clock", with_part("store", clock_ahead=-1200.0), "error", "1200 s behind", "timedatectl"),
    ("store_clock", with_part("store", clock_ahead=100.0), "warning", "100 s ahead", "timedatectl"),
    ("store_clock", with_part("store", clock_ahead=Unknown("no Date")), "unknown", "no Date", ""),
    ("store_keeps_versions", with_part("store", kept_versions=""), "warning", "is gone", "put-bucket-versioning --bucket our-wal"),
    ("store_keeps_versions", with_part("store", kept_versions=Unknown("403 AccessDenied")), "unknown", "AccessDenied", ""),
    ("store_is_the_same", with_part("store", before_frontier=""), "error", "lacks the segment just below", "aws s3 ls"),
    ("leaders_timeline", with_server("n2", state={"timeline": 2}), "error", "on timeline 2, and the leader, n1, on 1", "reinit demo n2"),
    ("gap_safe", with_server("n2", slot=None, state={"system_identifier": 8}), "unknown", "the record is another cluster's", ""),
    ("standby_follows", with_server("n2", receives=False, state={"lsn": Lsn(6 * MIB)}), "warning", "3 MiB behind n1", "reinit demo n2"),
    ("standby_follows", with_server("n2", receives=False, state={"lsn": Lsn(3 * MIB - 1)}), "warning", "from before the archive, which begins with 000000010000000000000003", "reinit demo n2"),
    ("standby_follows", with_server("n2", receives=False, state={"lsn": Lsn(3 * MIB)}), "warning", "6 MiB behind n1", "reinit demo n2"),
    ("standby_follows", both(with_server("n2", receives=False, state={"lsn": Lsn(9 * MIB)}), with_record(start="00000001000000000000000A")), "warning", "from before the archive", "nothing brings"),
    ("standby_follows", with_server("n2", receives=False, state={"in_recovery": False}), "warning", "it takes writes, and n1 leads", "reinit demo n2"),
    ("standby_follows", with_member("n1", server=Unknown("no answer")), "unknown", "no answer", ""),
    ("leaders_timeline", with_member("n1", server=Unknown("no answer")), "unknown", "no answer", ""),
    ("one_branch", with_part("store", other_branch="timeline 2"), "error", "its timeline 2 is another one", "switchover demo"),
    ("one_branch", both(with_part("store", other_branch="timeline 2"), with_member("n1", leads=False)), "error", "its timeline 2", "reinit demo n1"),
    ("one_branch", with_part("store", other_branch=Unknown("denied")), "unknown", "denied", ""),
    ("newest_timeline", with_part("store", newer_branch="2"), "warning", "has timeline 2, which the cluster has abandoned: it goes on with 1", "switchover demo"),
    ("newest_timeline", with_part("store", newer_branch=Unknown("denied")), "unknown", "denied", ""),
    ("no_gaps", with_part("store", gaps=(Gap(1, "0/1", "0/2"),)), "error", "gap on timeline 1: 0/1 to 0/2", "accept 0/1"),
    ("no_gaps", with_part("store", suspected=(Gap(1, "0/1", "0/2"),)), "error", "suspected lost on timeline 1: 0/1 to 0/2", "accept 0/1"),
    ("right_user", with_facts(uid=0), "unknown", "this is uid 0", ""),
    ("spool_private", with_part("spool", uid=0), "error", "belongs to uid 0, not to 111", "chown -R 111 /var/spool/walkeeper"),
    ("spool_private", with_part("spool", mode=0o755), "error", "0755", "chmod 0700 /var/spool/walkeeper"),
    ("spool_private", with_part("spool", plain=False), "error", "a link", "install -d"),
    ("spool_private", with_part("spool", exists=False, creatable=False), "error", "cannot make it", "install -d -o 111"),
    ("spool_room", with_part("spool", free=1 << 20), "error", "not even two segments", "df "),
    ("spool_room", with_part("spool", free=100 << 20), "warning", "its limit is 1 GiB", "limit: 50MiB"),
    ("disk_room", with_server("n2", disk=Disk(100 << 30, 500 << 30, 10e6)), "warning", "full in 2 h 58 min", "# on n2: df -h"),
    ("disk_room", with_server("n2", disk=Disk(20 << 30, 500 << 30)), "warning", "20 GiB of 500 GiB are free", "df -h"),
    ("disk_room", with_server("n2", disk=Disk(16 << 30, 200 << 30, 0.0)), "warning", "16 GiB of 200 GiB are free: WAL that is suspected lost is not waited for, and one store", "df -h"),
    ("disk_room", with_server("n2", disk=Disk(9 * MIB, 500 << 30)), "error", "9 MiB of 500 GiB", "df -h"),
    ("spool_room", with_config(spool_limit=MIB), "warning", "less than two segments", "limit:"),
    ("receiver", with_facts(receiver_problem=ConfigError("pg_receivewal: not found", hint="Install it.")), "error", "not found", "# Install it."),
    ("encryption", with_config(encryption_recipients=("age1x",)), "warning", "no identity_file", "identity_file: "),
    ("encryption", both(STORE, with_config(encryption_recipients=("age1x",))), "error", "no identity_file", "identity_file: "),
    ("authentication", with_config(encryption_recipients=("age1x",)), "warning", "nothing shows who made them", "openssl rand -hex 32"),
    ("encryption", with_facts(codec_problem=ConfigError("encryption: pyrage is missing", hint="pip install")), "error", "pyrage", "# pip install"),
    ("agent_runs", with_facts(agent=Unknown("no agent is running"), agent_absent=True), "error", "no agent runs", "agent -c"),
    ("agent_runs", with_facts(agent=Unknown("it is stuck")), "unknown", "it is stuck", ""),
    ("agent_runs", both(service, with_server("n2", agents=())), "error", "none runs, or it is not let in", "systemctl enable --now walkeeper"),
    ("same_stores", with_server("n2", stores=""), "unknown", "no agent there says", ""),
    ("same_stores", with_server("n2", stores=brief(["far", "main"])), "warning", "its agent's stores are others, or more, and this node's configuration names main", "--reload"),
    ("same_stores", both(with_server("n2", stores=brief(["far"])), with_config(durability="store")), "error", "others, or more", "of n2 and of this node"),
    ("agent_version", with_server("n2", agents=("0.9",)), "warning", "walkeeper 0.9, and this is 1.0", "# on n2:"),
    ("agent_version", with_server("n2", agents=("1.10",)), "warning", "walkeeper 1.10, and this is 1.0", "# on this node, which is behind: install walkeeper 1.10"),
    ("agent_troubles", with_report(troubles=[{"since": "t", "text": "dcs: away", "hint": "Look."}]), "error", "since t: dcs: away", "# Look."),
    ("agent_troubles", with_report(troubles=[WATCHING]), "warning", "since t: x: for 90 s more", "automatically"),
    ("agent_troubles", with_report(troubles=[{"what": "metrics_not_served", "since": "t", "text": "in use", "hint": "Set it."}]), "warning", "since t: in use", "# Set it."),
    ("agent_configuration", with_part("store", url="s3://c"), "warning", "archives into s3://our-wal, and the file says s3://c", "# is that meant?"),
    ("agent_configuration", with_config(spool_limit=3 * MIB), "warning", "spool.limit 1 GiB, the file says 3 MiB", "--reload"),
    ("agent_configuration", with_report(older_configuration=True), "warning", "goes by an older configuration than", "--reload"),
]  # fmt: skip


@pytest.mark.parametrize("record", ["8", "9"])
@pytest.mark.parametrize("leader", ["n1", "n2", None])
def test_doctor_never_lets_a_leader_be_built_again(good: Facts, record: str, leader: str | None) -> None:
    """Deployed anew under the same scope, upgraded, or half of it: what only the leader has would be gone."""
    members = tuple(
        replace(each, leads=each.name == leader, server=server(state={"system_identifier": 8 + number % 2}))
        for number, each in enumerate(good.members)
    )
    assert isinstance(good.record, Record)
    facts = replace(good, members=members, record=msgspec.structs.replace(good.record, system_identifier=record))
    told = [finding for finding in judge(facts) if finding.rule.name == "same_cluster" and finding.state == "error"]
    assert told
    assert not [line for finding in told for line in finding.fix if f"reinit demo {leader}" in line]


@pytest.mark.parametrize(("name", "change", "state", "says", "fix"), WRONG)
def test_each_rule_names_what_is_wrong_and_how_to_mend_it(
    good: Facts, name: str, change: Changed, state: str, says: str, fix: str
) -> None:
    findings = [finding for finding in of(judge(change(good)), name) if finding.state != "ok"]
    assert {finding.state for finding in findings} == {state}
    assert len({finding.about for finding in findings}) == len(findings)
    if all(finding.about for finding in of(judge(good), name)):
        assert all(finding.about for finding in findings), "whose it is"
    assert says in findings[0].text
    assert fix in "\n".join(findings[0].fix)
    assert bool(findings[0].fix) == (state != "unknown")


def test_a_job_that_failed_is_no_warning_once_the_same_was_done_by_hand(good: Facts) -> None:
    after = "2026-11-28T04:10:01Z"
    newest = {**BACKED["newest"], "stop_at": after}
    by_hand = {**BACKED, "newest": newest, "proved": {**BACKED["proved"], "at": after}}
    jobs = with_report(backup_job=FAILED, proof_job=FAILED)
    findings = judge(both(SCHEDULED, with_part("store", backups=by_hand), jobs)(good))
    for rule in ("backup_in_time", "restore_proved"):
        assert {finding.state for finding in of(findings, rule)} <= {"ok", "info"}


@pytest.mark.parametrize("ahead", [0.0, 5 * 3600.0, -5 * 3600.0])
@pytest.mark.parametrize(("moved_ago", "state"), [(2.0, "ok"), (3600.0, "error")])
def test_a_standstill_is_measured_by_the_owners_clock(
    good: Facts, monkeypatch: pytest.MonkeyPatch, ahead: float, moved_ago: float, state: str
) -> None:
    moved = datetime(2026, 11, 23, 8, tzinfo=UTC)
    monkeypatch.setattr("walkeeper.lib.clock.wall_seconds", lambda: moved.timestamp() - ahead + moved_ago)
    record = with_record(moved_at=f"{moved:%Y-%m-%dT%H:%M:%SZ}")
    facts = both(record, with_server(state={"lsn": Lsn(20 * MIB)}, clock_ahead=ahead))(good)
    facts = replace(facts, record_age=gather._age(facts.record, facts.members))
    assert [finding.state for finding in of(judge(facts), "frontier_moves")] == [state]
    away = with_member("n1", server=Unknown("no answer"))(facts)
    assert gather._age(away.record, away.members) == max(0.0, moved_ago - ahead)


def test_every_rule_can_find_something_wrong() -> None:
    assert {rule.name for rule in RULES} == {case[0] for case in WRONG}


def test_what_was_not_seen_is_never_good(good: Facts) -> None:
    """Everything away: no rule that looks at it may be content."""
    away = Unknown("it was not seen")
    facts = replace(
        good, topology=away, record=away, patroni=away, store=away, spool=away, agent=away, compare_and_set=away, dcs_room=away,
        dcs_problem=DcsUnavailable("etcd3: away"), servers_uid=away, base_backup=away,
        members=(replace(good.members[0], server=away),), expire_keep=away,
    )  # fmt: skip
    facts = both(SCHEDULED, with_config(backup_expire=Path("/etc/expire.yml"), backup_full_every=86400.0), STORE)(facts)
    content = {finding.rule.name for finding in judge(facts) if finding.state == "ok"}
    assert content == {
        "receiver",
        "encryption",
        "authentication",
    }  # which were looked at: they are not among what is away


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda facts: facts, 0),
        (with_member("n2", nofailover=True), 0),
        (with_server("n2", clock_ahead=90.0), 0),
        (with_report(last_callback=None), 0),
        (with_member("n2", server=Unknown("refused")), 2),
        (with_facts(agent=Unknown("it is stuck")), 2),
        (with_dynamic(slots={}), 1),
        (both(with_dynamic(slots={}), with_member("n2", server=Unknown("refused"))), 1),
    ],
)
def test_the_exit_code_is_of_the_weightiest(good: Facts, change: Changed, code: int) -> None:
    assert exit_code(judge(change(good))) == code


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan"), 1e300, -5, True, "ten", None])
def test_p16_a_loop_wait_that_is_no_time_makes_no_traceback(good: Facts, value: object) -> None:
    assert not isinstance(good.topology, Unknown)
    facts = replace(good, topology=replace(good.topology, dynamic={"loop_wait": value}, slots=()))
    fixes = [line for finding in judge(facts) for line in finding.fix if line.startswith("sleep")]
    assert set(fixes) <= {"sleep 20", "sleep 2"}
    text.render(facts, judge(facts), colour=False, verbose=True)


def test_p16_what_others_name_does_nothing_where_a_fix_is_pasted(good: Facts) -> None:
    """Names of members, addresses and roles come from the DCS and from other servers."""
    evil = "x'\"; $(touch /tmp/owned) `id`\nrm -rf /\n"
    lost = SlotState(physical=True, restart_lsn=None, active_pid=None, lost=True)
    members = tuple(
        member(
            name,
            host=evil,
            leads=False,
            here=False,
            nofailover=tag,
            server=server(role=evil, may_replicate=False, slot=lost),
        )
        for name, tag in ((evil, True), (f"{evil}2", False))
    )
    pasted = [line for finding in judge(replace(good, members=members)) for line in finding.fix]
    assert len([line for line in pasted if "touch" in line]) > 3
    for line in pasted:
        assert line.isprintable()
        words = [] if line.startswith("#") else shlex.split(line.partition("   #")[0])
        for word in words:
            assert "touch" not in word or "rm -rf" in word  # the name is one word, and nothing that a shell would do


def test_p16_fix_says_who_would_get_patronis_rest_password_before_it_asks(
    good: Facts, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not isinstance(good.topology, Unknown)
    urls = {"n1": "http://10.0.0.1:8008/patroni", "n2": "https://evil.example\n:8008/patroni"}
    members = tuple(
        Member(name, "", "", None, None, None, None, api_url=url) for name, url in sorted(urls.items(), reverse=True)
    )
    facts = replace(good, topology=replace(good.topology, members=members, dynamic={}, slots=()))
    told: list[str] = []
    sent: list[str] = []
    monkeypatch.setattr(fix, "change_dynamic", lambda _, url, __: sent.append(url))

    def agreed(question: str) -> bool:
        told.append(question)
        return question not in told[:-1]

    fix.apply_fixes(facts, judge(facts), lambda: good, told.append, agreed)
    asked = next(index for index, line in enumerate(told) if line.startswith("Do it?"))
    shown = [line for line in told[:asked] if "patroni" in line]
    assert shown == [
        "  http://10.0.0.1:8008/patroni (in clear: this is not TLS)",
        "  https://evil.example?:8008/patroni",
    ]
    assert sent == [urls["n1"]]  # the leader's


def test_only_marked_rules_are_fixed_by_a_change_to_the_dynamic_configuration(good: Facts) -> None:
    changed = {case[0] for case in WRONG for finding in of(judge(case[1](good)), case[0]) if finding.change is not None}
    assert changed == {rule.name for rule in RULES if rule.fixable} == {"slot_declared", "use_slots"}


# ------------------------------------------------------------------------------------------------- commands by name


@pytest.mark.parametrize(
    ("text", "job", "program", "config"),
    [
        ("/opt/w/bin/walkeeper callback -c /etc/p.yml", "callback", "/opt/w/bin/walkeeper", "/etc/p.yml"),
        ("/opt/w/bin/walkeeper -c /etc/p.yml restore-wal %f %p", "restore-wal", "/opt/w/bin/walkeeper", "/etc/p.yml"),
        ("walkeeper restore-wal --config=/etc/p.yml %f %p", "restore-wal", "walkeeper", "/etc/p.yml"),
        ("WALKEEPER_CONFIG=/etc/p.yml walkeeper restore-wal %f %p", "restore-wal", "walkeeper", "/etc/p.yml"),
        ("env WALKEEPER_CONFIG=/a.yml walkeeper restore-wal %f %p", "restore-wal", "walkeeper", "/a.yml"),
        ("walkeeper restore-wal %f %p", "restore-wal", "walkeeper", None),
        ("/opt/w/bin/walkeeper-restore-wal -c /etc/p.yml %f %p", "restore-wal", "/opt/w/bin/walkeeper-restore-wal", "/etc/p.yml"),
        ("walkeeper archive-push -c /etc/p.yml %p", "archive-push", "walkeeper", "/etc/p.yml"),
        ("/x/walkeeper-archive-push -c /etc/p.yml %p", "archive-push", "/x/walkeeper-archive-push", "/etc/p.yml"),
        ("/usr/bin/python3 -m walkeeper callback -c /etc/p.yml", "callback", "/usr/bin/python3", "/etc/p.yml"),
        ("/src/patroni_callbacks/on_start /etc/p.yml", "callback", "/src/patroni_callbacks/on_start", "/etc/p.yml"),
        ("/src/patroni_callbacks/walkeeper-callback /etc/p.yml", "callback", "/src/patroni_callbacks/walkeeper-callback", "/etc/p.yml"),
        ("python3 -I -S /src/walkeeper/callback.py /etc/p.yml", "callback", "python3", "/etc/p.yml"),
        ("'/opt/with space/walkeeper' callback -c '/etc/p q.yml'", "callback", "/opt/with space/walkeeper", "/etc/p q.yml"),
        ("/usr/local/bin/on_start", None, "/usr/local/bin/on_start", None),
        ("pgbackrest --stanza=walkeeper archive-get %f %p", None, "pgbackrest", None),
        ("walkeeper status", None, "walkeeper", None),
        ("'unbalanced", None, "", None),
        ("", None, "", None),
    ],
)  # fmt: skip
def test_commands_are_recognised_by_name(text: str, job: str | None, program: str, config: str | None) -> None:
    command = parse(text)
    assert (command.job, command.program, command.config) == (job, program, config)


# ------------------------------------------------------------------------------------------------------ what is shown


def test_the_report_fits_80_columns_but_for_lines_to_paste(good: Facts) -> None:
    for _, change, *_ in WRONG:
        facts = change(good)
        findings = judge(facts)
        lines = text.render(facts, findings, colour=False, verbose=False).splitlines()
        paste = {f"{'':9}{line}" for finding in findings for line in finding.fix}
        wide = [line for line in lines if len(line) > text.WIDTH and line not in paste and " " in line.strip()]
        assert wide == []
        assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize(("asked", "coloured"), [(None, True), ("", True), ("1", False)])
def test_a_terminal_has_colours_unless_its_user_wants_none(
    good: Facts, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], asked: str | None, coloured: bool
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    if asked is not None:
        monkeypatch.setenv("NO_COLOR", asked)
    monkeypatch.setattr(run, "gather", lambda _: good)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    run.main(cast(Config, None), verbose=True)
    assert ("\033" in capsys.readouterr().out) == coloured


def test_colour_is_all_that_a_terminal_gets_more(good: Facts) -> None:
    facts = with_dynamic(slots={})(good)
    coloured = text.render(facts, judge(facts), colour=True, verbose=True)
    plain = text.render(facts, judge(facts), colour=False, verbose=True)
    assert "\033[1;31mERROR\033[0m" in coloured
    assert "\033" not in plain
    assert "ok       use_slots: use_slots is on" in plain.splitlines()


def test_one_reason_is_said_once(good: Facts) -> None:
    facts = with_member("n3", server=Unknown("postgresql at 10.0.0.3:5432: connection refused"))(good)
    told = text.render(facts, judge(facts), colour=False, verbose=False)
    assert told.count("connection refused") == 1
    assert "That is: server_answers (n3), " in told
    assert told.endswith("Whether the promises hold cannot be told.")


def test_names_from_elsewhere_print_no_control_characters(good: Facts) -> None:
    evil = "n\x1b[31m2"
    facts = replace(good, members=(good.members[0], replace(good.members[1], name=evil, pending_restart=True)))
    told = text.render(facts, judge(facts), colour=False, verbose=True)
    assert all(line.isprintable() for line in told.splitlines())
    assert "n?[31m2" in told


def test_the_document_for_programs_is_stable(good: Facts) -> None:
    facts = with_dynamic(slots={})(good)
    document = text.as_json(facts, judge(facts))
    assert document.keys() == {"scope", "node", "version", "exit_code", "findings"}
    (finding,) = (each for each in document["findings"] if each["rule"] == "slot_declared")
    assert finding == {
        "rule": "slot_declared",
        "area": "Patroni",
        "state": "error",
        "severity": "error",
        "member": None,
        "text": "the dynamic configuration does not declare the slot walkeeper",
        "why": finding["why"],
        "fix": [f"patronictl -c {facts.config.patroni_config} edit-config --force --set slots.walkeeper.type=physical"],
        "fixable": True,
    }


def test_the_document_is_made_from_the_rules() -> None:
    assert (ROOT / "docs" / "doctor.md").read_text() == reference.reference()


def test_the_rules_do_no_io() -> None:
    paths = [*(ROOT / "walkeeper" / "doctor" / "rules").glob("*.py")]
    paths += [ROOT / "walkeeper" / "doctor" / name for name in ("rule.py", "facts.py", "commands.py")]
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in names} & {"os", "pathlib", "time", "socket", "subprocess"}, path


def test_a_compare_and_set_that_is_not_refused_is_a_finding() -> None:
    """The twin's opposite: a DCS that overwrites."""

    class Careless:
        def write(self, *_: object) -> None: ...

        def read(self) -> None: ...

    found = Versioned(b"{}", "1")
    assert "replaced" in str(gather._compare_and_set(Careless(), found))  # type: ignore[arg-type]


REFUSALS = [
    ('no pg_hba.conf entry for host "10.0.0.9", user "replicator", database "postgres", no encryption', "- host postgres replicator 10.0.0.9/32 scram-sha-256"),
    ('no pg_hba.conf entry for replication connection from host "fe80::1", user "replicator", no encryption', "- host replication replicator fe80::1/128 scram-sha-256"),
    ('pg_hba.conf rejects replication connection for host "[local]", user "replicator", no encryption', "- local replication replicator scram-sha-256"),
]  # fmt: skip


@pytest.mark.parametrize(("refused", "line"), REFUSALS)
def test_a_refusal_asks_for_the_one_line_that_is_lacking(good: Facts, refused: str, line: str) -> None:
    findings = of(judge(with_server("n2", replication_refused=refused)(good)), "replication_allowed")
    (finding,) = [each for each in findings if each.state != "ok"]
    assert [each for each in finding.fix if each.startswith("- ")] == [line]


def test_a_star_picks_no_receiver(good: Facts) -> None:
    """It reports no flush position, without which nothing is the synchronous standby."""
    facts = with_server(settings={"synchronous_standby_names": "*"})(good)
    assert {each.state for each in of(judge(facts), "synchronous_standby_names")} == {"ok"}


@pytest.mark.parametrize(
    ("setting", "waits"),
    [
        (ACKNOWLEDGES, True), (f'"{ACKNOWLEDGES}"', True), (f"{ACKNOWLEDGES}, n2", True), (f"n2, {ACKNOWLEDGES}", False),
        (f"FIRST 2 (n2, {ACKNOWLEDGES}, n3)", True), (f"2 (n2, n3, {ACKNOWLEDGES})", False),
        (f"any 2 ({ACKNOWLEDGES}, n2)", True), (f"ANY 1 ({ACKNOWLEDGES}, n2)", False), ("walkeeper_00000008", False), ("*", False),
    ],
)  # fmt: skip
def test_commits_wait_for_the_store_where_none_goes_without_it(good: Facts, setting: str, waits: bool) -> None:
    """https://www.postgresql.org/docs/current/runtime-config-replication.html: synchronous_standby_names."""
    [verdict] = [each for each in of(judge(names(setting)(good)), "synchronous_standby_names") if each.about == "n1"]
    assert verdict.state == ("ok" if waits else "warning")


def test_with_durability_store_a_cluster_can_be_good(good: Facts) -> None:
    ours = promoting(f"/opt/walkeeper/bin/walkeeper pre-promote --config {good.config.source}")
    facts = both(names(ACKNOWLEDGES), ours, with_part("patroni"))(good)
    assert isinstance(facts.topology, Topology)
    dynamic = {**facts.topology.dynamic, "maximum_lag_on_failover": 1 << 30, "check_timeline": True}
    facts = replace(facts, topology=replace(facts.topology, dynamic=dynamic))
    assert [each for each in judge(facts) if each.state != "ok"] == []


def test_one_fault_of_this_nodes_agent_is_one_error(good: Facts) -> None:
    problem = {"what": "archiver_store", "since": "t", "text": "store: denied for 4 segments", "hint": "Look."}
    unsafe = {"what": "not_gap_safe", "since": "t", "text": "n1: it has no hold slot", "hint": ""}
    facts = both(with_record(trouble="store: denied"), with_report(troubles=[problem, unsafe]))(good)
    facts = with_server(slot=None)(facts)
    assert [each.rule.name for each in judge(facts) if each.state == "error"] == ["gap_safe", "agent_troubles"]


def test_a_store_that_keeps_several_from_their_work_is_one_problem_of_the_agent(good: Facts) -> None:
    troubles = [{"reason": "store_denied", "since": "t", "text": f"{what}: 403", "hint": "Look."} for what in "ab"]
    found = [each for each in judge(with_report(troubles=troubles)(good)) if each.rule.name == "agent_troubles"]
    assert [each.text for each in found] == ["since t: a: 403"]
