"""What the cluster does by itself: base backups, retention after them, and proofs that they restore."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, Final

from walkeeper.core import incremental, job_words
from walkeeper.core.amounts import duration, size
from walkeeper.doctor.facts import AgentFacts, Facts, MemberFacts, Unknown, known
from walkeeper.doctor.rule import Good, NotKnown, Rule, Verdict, Wrong
from walkeeper.doctor.rules import paste

warning = partial(Rule, area="Backups", severity="warning")
OLDEST: Final = 15
"""The major version of PostgreSQL from which on walkeeper takes base backups."""


@warning(
    what="This node's agent goes by the schedules that its configuration has.",
    why="Who archives makes each job by its own schedule, and a member without one takes none.",
    fix="walkeeper agent --reload, or systemctl reload walkeeper; and the same backup section on every node",
)
def schedules(facts: Facts) -> Iterator[Verdict]:
    config = facts.config
    wanted = {"backup": config.backup_schedule, "proof": config.backup_verify_schedule}
    if not any(wanted.values()):
        yield Good("nothing is scheduled")
        return
    report = known(facts.agent).report
    due = {word: report.get(f"{word}_schedule") or {} for word in wanted}
    other = [word for word, schedule in wanted.items() if due[word].get("schedule") != schedule]
    if other:
        told = (
            f"{word}s at {due[word].get('schedule', 'no time')} and not {wanted[word] or 'never'}" for word in other
        )
        text = f"it has not read the configuration again: {', '.join(told)}"
        yield Wrong(text, (paste.walkeeper(facts, "agent", "--reload"),), config.name)
    else:
        next_ = (f"{word} at {due[word]['next']}" for word, schedule in wanted.items() if schedule)
        yield Good(f"due next: {', '.join(next_)}", config.name)


@warning(
    what="Some member can take the backup that is scheduled.",
    why="It needs an agent there, and PostgreSQL 15. A replica's is refused at its end where the primary has full_page_writes "
    "off.",
    fix="Run the agent on every member; or backup.source: leader.",
)
def backup_member(facts: Facts) -> Iterator[Verdict]:
    from_leader = facts.config.backup_source == "leader"
    leader = facts.leader
    off = leader is not None and _setting(leader, "full_page_writes") == "off"
    if not facts.config.backup_schedule:
        yield Good("none is scheduled")
    elif off and not from_leader and len(facts.members) > 1:
        fix = paste.set_parameter(facts, "full_page_writes", "on")
        yield Wrong("full_page_writes is off: PostgreSQL refuses the backup of a replica, at its end", fix)
    else:
        may = [each for each in facts.members if each.leads or not from_leader]
        yield _someone("backup", may, "# walkeeper agent on every member, or walkeeper.backup.source: leader")


@warning(
    what="Where backup.full_every asks for incremental backups, they can be taken.",
    why="Without that each backup is full. It takes PostgreSQL 17 with summarize_wal, and the manifest of the backup before: in "
    "an encrypted archive that takes the key.",
    fix="summarize_wal = on, which needs no restart; or no backup.full_every",
)
def incrementals(facts: Facts) -> Iterator[Verdict]:
    config = facts.config
    if not config.backup_full_every:
        yield Good("none are asked for")
        return
    if config.encryption_recipients and config.identity_file is None:
        fix = "# walkeeper.encryption.identity_file, or no walkeeper.backup.full_every"
        yield Wrong(
            "the archive is encrypted, and no key here opens what an incremental builds on", (fix,), config.name
        )
        return
    for each in facts.members:
        if isinstance(each.server, Unknown):
            yield NotKnown(each.server.because, each.name)
        elif each.server.state.major < incremental.OLDEST:
            text = f"PostgreSQL {each.server.state.major} has no incremental backups: each is full"
            yield Wrong(text, ("# no walkeeper.backup.full_every",), each.name)
        elif _setting(each, "summarize_wal") == "off":
            yield Wrong(
                "summarize_wal is off: each backup is full",
                paste.set_parameter(facts, "summarize_wal", "on"),
                each.name,
            )
        else:
            yield Good("summarize_wal is on", each.name)


@warning(
    what="Some member can run the proof that is scheduled.",
    why="It runs on a replica with an agent, and on the leader only where there is no other member: it reads and writes as much "
    "as the cluster is large.",
    fix="Run the agent on a replica; or walkeeper verify --restore by a timer on another host.",
)
def proof_member(facts: Facts) -> Iterator[Verdict]:
    if not facts.config.backup_verify_schedule:
        yield Good("none is scheduled")
        return
    may = [each for each in facts.members if not each.leads or len(facts.members) == 1]
    yield _someone(
        "proof", may, "# walkeeper agent on a replica, or walkeeper verify --restore by a timer on another host"
    )


def _someone(word: str, members: list[MemberFacts], fix: str) -> Verdict:
    seen = [(each, each.server) for each in members if not isinstance(each.server, Unknown)]
    able = [each.name for each, server in seen if server.agents and server.state.major >= OLDEST]
    if able:
        return Good(f"a {word} can run on {', '.join(able)}")
    if len(seen) < len(members):
        return NotKnown(f"not every member that may run a {word} was seen")
    why = [f"{each.name} has PostgreSQL {server.state.major}" for each, server in seen if server.state.major < OLDEST]
    why += [f"no agent runs on {each.name}" for each, server in seen if not server.agents]
    return Wrong(f"no member can run a {word}: {', '.join(why) or 'there is none'}", (fix,))


def _setting(member: MemberFacts, name: str) -> str | None:
    return None if isinstance(member.server, Unknown) else member.server.settings.get(name)


@warning(
    what="The last scheduled backup was taken, and the newest complete one is not older than the schedule says.",
    why="A restore has to replay all WAL since the newest one; and what fails each time is found on the day that it is needed.",
    fix="walkeeper status on the node that archives says what it failed of; walkeeper backup takes one now.",
)
def backup_in_time(facts: Facts) -> Iterator[Verdict]:
    schedule, found, status = facts.config.backup_schedule, _backups(facts), paste.walkeeper(facts, "status")
    if not schedule:
        yield Good("none is scheduled")
        return
    yield from _job(facts, "backup", found)
    found = known(found)
    if found is None or found["newest"] is None:
        job = _seen(facts, "backup")
        if job is not None and job["state"] == "running" and not job.get("silent"):
            yield Wrong(f"none is complete yet: one {job_words.now(job, {})}", (status,), severity="info")
        else:
            yield Wrong("none is complete yet", (paste.walkeeper(facts, "backups"), paste.walkeeper(facts, "backup")))
    elif found["overdue"]:
        text = f"the newest is {duration(found['newest']['age_seconds'] or 0.0)} old, and the schedule is {schedule}"
        yield Wrong(text, (status, paste.walkeeper(facts, "backup")))
    else:
        yield Good("the newest is as young as the schedule says")


@warning(
    what="A restore of these backups was proved, and not longer ago than the schedule says.",
    why="A backup that was never restored is a hope. backup.verify_schedule lets a replica try it.",
    fix="walkeeper verify --restore, or backup.verify_schedule and room in backup.verify_directory",
)
def restore_proved(facts: Facts) -> Iterator[Verdict]:
    schedule, found = facts.config.backup_verify_schedule, _backups(facts)
    by_hand = (paste.walkeeper(facts, "verify", "--restore", str(facts.config.backup_verify_directory)),)
    if schedule:
        yield from _job(facts, "proof", found)
        yield from _room(facts, found)
    if schedule and facts.config.encryption_recipients and facts.config.identity_file is None:
        fix = "# walkeeper.encryption.identity_file on a replica, or verify --restore by a timer where the key is"
        yield Wrong(
            "the archive is encrypted, and no key here opens what a proof has to read", (fix,), facts.config.name
        )
        return
    found = known(found)
    if found is None or found["newest"] is None:
        yield Good("there is no complete backup that could be proved")
    elif found["proved"] is None:
        text = "no restore of these backups was ever proved"
        yield Wrong(text, by_hand, severity="warning" if found["proof_overdue"] else "info")
    elif found["proof_overdue"]:
        text = f"the last proof is {duration(found['proved']['age_seconds'])} old, and the schedule is {schedule}"
        yield Wrong(text, by_hand)
    else:
        yield Good(f"the last one {duration(found['proved']['age_seconds'])} ago")


def _room(facts: Facts, found: Mapping[str, Any] | Unknown | None) -> Iterator[Verdict]:
    """Of this node, where it may have to run one."""
    this, where, room = facts.this, facts.config.backup_verify_directory, facts.verify_room
    newest = None if found is None or isinstance(found, Unknown) else found["newest"]
    if this is None or (this.leads and len(facts.members) > 1) or newest is None:
        return
    if isinstance(room, Unknown):
        fix = f"install -d -m 0700 {shlex.quote(str(where))}   # as PostgreSQL's user"
        yield Wrong(f"{where}: {room.because}", (fix,), this.name)
    elif room < newest["bytes"]:
        text = f"{where} has {size(room)} free, and a proof needs {size(newest['bytes'])}"
        yield Wrong(text, ("# walkeeper.backup.verify_directory: another disk",), this.name, "info")


def _seen(facts: Facts, word: str) -> Mapping[str, Any] | None:
    """The cluster's job, as this node's agent has seen it."""
    return facts.agent.report.get(f"{word}_job") if isinstance(facts.agent, AgentFacts) else None


def _job(facts: Facts, word: str, found: Mapping[str, Any] | Unknown | None) -> Iterator[Verdict]:
    job = _seen(facts, word)
    if job is not None and job_words.failed(job, None if isinstance(found, Unknown) else found, word):
        text = f"the last scheduled {word} failed on {job['node']}: {job['why']}"
        yield Wrong(text, (paste.walkeeper(facts, "status"),))


@warning(
    what="walkeeper expire has something to go by, and does not keep less than the schedule makes.",
    why="Without backup.keep the expire after each backup fails. Where keep is shorter than the time between two backups, two "
    "full backups stay all the same: more than was said, and no second older than keep is promised.",
    fix="backup.keep of several times the schedule, in the configuration that backup.expire names",
)
def retention(facts: Facts) -> Iterator[Verdict]:
    config = facts.config
    keeps = config.backup_keep if config.backup_expire is None else known(facts.expire_keep)
    if config.backup_expire is not None and keeps is None:
        text = f"backup.expire is on, and {config.backup_expire} has no backup.keep"
        yield Wrong(text, _keep(facts, "14d"))
        return
    every = facts.backup_every
    if every is not None and config.backup_full_every:  # a chain that has its length ends earlier
        every = max(every, min(config.backup_full_every, incremental.MOST * every))
    if keeps is not None and every is not None and keeps < every:
        what = "full backup" if config.backup_full_every else "backup"
        text = f"backup.keep is {duration(keeps)}, and a {what} is due each {duration(every)} only"
        yield Wrong(text, _keep(facts, f"{max(1, round(3 * every / 86400))}d"))
    elif config.backup_expire is None:
        yield Good("nothing is given up by itself")
    else:
        yield Good(f"everything stays restorable for {duration(keeps or 0.0)}")


def _keep(facts: Facts, keep: str) -> tuple[str, ...]:
    """Where ``walkeeper expire`` reads it."""
    config = facts.config
    file = config.backup_expire or config.source
    section = "walkeeper.backup" if file == config.patroni_config else "backup"
    told = f"# in {file}, which walkeeper expire goes by; in patroni.yml it stands below walkeeper:"
    return told, *paste.yaml_lines(section, {"keep": keep})


def _backups(facts: Facts) -> Mapping[str, Any] | Unknown | None:
    return facts.store if isinstance(facts.store, Unknown) else facts.store.backups
