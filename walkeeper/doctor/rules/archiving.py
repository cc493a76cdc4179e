"""PostgreSQL: what archives beside walkeeper, and whether every node could go on archiving without a gap."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, Final

from walkeeper.core.amounts import duration, size, to_the_second
from walkeeper.core.hold_slot import SlotState, why_not_gap_safe
from walkeeper.core.names import Segment
from walkeeper.core.record import Record
from walkeeper.doctor.commands import parse
from walkeeper.doctor.facts import Facts, MemberFacts, ServerFacts, Unknown, Unseen, known
from walkeeper.doctor.rule import Good, NotKnown, Rule, Verdict, Wrong
from walkeeper.doctor.rules import each, paste

error = partial(Rule, area="Archiving", severity="error")
warning = partial(Rule, area="Archiving", severity="warning")
info = partial(Rule, area="Archiving", severity="info")
CLOCK_SECONDS: Final = 5.0


@error(
    what="archive_mode and archive_command do not contradict walkeeper.",
    why="A second archiver beside walkeeper is fine. Without a command, archive_mode keeps all WAL in pg_wal. A command that "
    "writes into walkeeper's own store is not fine, nor is walkeeper's archive-push without archive_mode. With "
    "archive_mode=always a standby archives again what it restored.",
    fix="patronictl edit-config --pg archive_command=… or --pg archive_mode=on|off, and a restart",
)
@each.server
def archive_settings(facts: Facts, _member: MemberFacts, server: ServerFacts) -> Iterator[Verdict]:
    mode = server.settings.get("archive_mode", "off")
    text = server.settings.get("archive_command", "")
    text = "" if text == "(disabled)" else text
    ours = parse(text).job == "archive-push"
    by_command = facts.config.archiver == "command"
    directory = facts.config.store.local_directory
    if by_command and not (mode in ("on", "always") and ours):
        push = f"{paste.walkeeper(facts, 'archive-push')} %p"
        command = () if ours else paste.set_parameter(facts, "archive_command", push)
        started = mode in ("on", "always")
        fix = (*command, *(() if started else paste.set_parameter(facts, "archive_mode", "on", restart=True)))
        yield Wrong(f"walkeeper.archiver is command, and archive_mode is {mode}, archive_command {text!r}", fix)
    elif mode == "always" and text and not ours:
        fix = paste.set_parameter(facts, "archive_mode", "on", restart=True)
        yield Wrong(
            f"archive_mode is always: it archives again, by {text!r}, what was restored", fix, severity="warning"
        )
    elif mode != "off" and not ours and directory and str(directory) in text:
        yield Wrong(f"archive_command writes into walkeeper's own store: {text!r}", _without_command(facts))
    elif mode != "off" and not text and not server.settings.get("archive_library"):
        text = f"archive_mode is {mode} and there is no archive_command: pg_wal grows until the disk is full"
        yield Wrong(text, _without_command(facts))
    else:
        beside = "archive-push makes sure of each segment that was streamed" if ours and not by_command else ""
        other = "" if mode == "off" or ours else f"{text!r} archives beside walkeeper"
        yield Good(beside or other or f"archive_mode is {mode}")


def _without_command(facts: Facts) -> tuple[str, ...]:
    """An empty archive_command would not do: PostgreSQL then keeps every segment. This comes into force without a restart."""
    return paste.set_parameter(facts, "archive_command", "/bin/true")


@warning(
    what="No archive_command is failing.",
    why="PostgreSQL keeps every segment in pg_wal that archive_command has not taken, until the disk is full.",
    fix="Fix the command, or let PostgreSQL's archiver do nothing: patronictl edit-config --pg archive_command=/bin/true",
)
@each.server
def archive_command_works(facts: Facts, _member: MemberFacts, server: ServerFacts) -> Iterator[Verdict]:
    if not server.archiving_failed or server.settings.get("archive_mode", "off") == "off":
        yield Good("no archive_command is failing")
        return
    fix = (
        f"# {server.settings.get('archive_command', '')}",
        "# PostgreSQL's log says why it fails. Without it:",
        *_without_command(facts),
    )
    yield Wrong(f"archive_command fails for {server.archiving_failed}", fix)


@error(
    what="Every member is of the record's cluster: system identifier and segment size.",
    why="An archive is one cluster's. A member of another one would neither be archived nor restored from it.",
    fix="Where the leader is of another one (a new initdb, pg_upgrade): walkeeper takeover --accept there begins an archive "
    "beside the old one. Where only a replica is: patronictl reinit.",
)
@each.server
def same_cluster(facts: Facts, member: MemberFacts, server: ServerFacts) -> Iterator[Verdict]:
    record = known(facts.record)
    if record is None:
        yield Good("there is no record yet that could disagree")
    elif str(server.state.system_identifier) != record.system_identifier:
        text = f"its system identifier is {server.state.system_identifier}, the record's {record.system_identifier}"
        yield Wrong(text, _another_cluster(facts, member, server))
    elif int(server.state.segment_size) != record.segment_size:
        text = f"its segments have {int(server.state.segment_size)} bytes, the record's {record.segment_size}"
        fix = (f"# a new segment size needs a new archive: another prefix in {facts.config.source}, on every node",)
        yield Wrong(text, fix)
    else:
        yield Good("it is of the record's cluster")


def _another_cluster(facts: Facts, member: MemberFacts, server: ServerFacts) -> tuple[str, ...]:
    """Only a replica of the record's cluster's leader is built again: the leader has what nobody else has."""
    leader = facts.leader
    if leader is None or isinstance(leader.server, Unknown):
        return (
            "# which member has the database that is wanted? A leader must be there first:",
            paste.patronictl(facts, "list"),
        )
    if leader.server.state.system_identifier == server.state.system_identifier:
        return (
            f"# if that is meant (a new initdb, pg_upgrade), on {leader.name}, which leads: an archive beside the old one",
            paste.walkeeper(facts, "takeover", "--accept"),
            "# then take a base backup; if not, this scope or data directory is another cluster's",
        )
    return (paste.patronictl(facts, "reinit", facts.config.scope, member.name),)


@error(
    what="No standby is on a timeline that the leader has never been on.",
    why="It was promoted beside the leader, by hand for instance, and is no longer a replica. Patroni rewinds it, "
    "unless the leader did not answer when it looked.",
    fix="Build the member again from the leader: patronictl reinit",
)
@each.server
def leaders_timeline(facts: Facts, member: MemberFacts, server: ServerFacts) -> Iterator[Verdict]:
    leader, its = _leader(facts)
    if not server.state.in_recovery or server.state.timeline <= its.state.timeline:
        yield Good("its timeline is the leader's, or was")
    else:
        text = f"it is on timeline {server.state.timeline}, and the leader, {leader.name}, on {its.state.timeline}"
        yield Wrong(text, (paste.patronictl(facts, "reinit", facts.config.scope, member.name),))


@warning(
    what="Every standby streams, or lacks less than a segment of the leader's WAL.",
    why="It is what a failover needs. It catches up from the archive; where that lacks what it needs, it waits for ever.",
    fix="walkeeper status says whether the archive brings it on; otherwise patronictl reinit",
)
@each.server
def standby_follows(facts: Facts, member: MemberFacts, server: ServerFacts) -> Iterator[Verdict]:
    leader, its = _leader(facts)
    behind = its.state.lsn - server.state.lsn
    again = paste.patronictl(facts, "reinit", facts.config.scope, member.name)
    if member is not leader and not server.state.in_recovery:
        text = (
            f"it takes writes, and {leader.name} leads: it was promoted by hand, or Patroni's leader is cut off from it"
        )
        yield Wrong(text, ("# what was written there is nowhere else: save what is needed of it before", again))
    elif member is leader or server.receives:
        yield Good("it leads, or streams")
    elif (first := _begins(facts)) is not None and server.state.lsn < first.start:
        text = f"it does not stream, and the WAL that it needs is from before the archive, which begins with {first}"
        yield Wrong(text, ("# if it stays so, nothing brings that WAL:", again))
    elif behind < server.state.segment_size:
        yield Good("it has nearly all")
    else:
        look = f"{paste.walkeeper(facts, 'status')}   # if it says that {member.name} waits for WAL that is not there:"
        yield Wrong(f"it does not stream, and is {size(behind)} behind {leader.name}, which leads", (look, again))


def _leader(facts: Facts) -> tuple[MemberFacts, ServerFacts]:
    """Raises Unseen."""
    leader = facts.leader
    if leader is None or isinstance(leader.server, Unknown):
        raise Unseen("the leader was not seen")
    return leader, leader.server


def _begins(facts: Facts) -> Segment | None:
    """The first segment of the archive that begins first, where each says where it does."""
    records = [each.record for each in (facts, *facts.other_stores)]
    known = [each for each in records if isinstance(each, Record)]
    if len(known) < len(records):
        return None
    return min((Segment.parse(each.start, each.size) for each in known), key=lambda segment: segment.start)


@error(
    what="This member's timelines are the archive's.",
    why="Two servers promoted independently choose the same number if neither can ask the archive: a promotion by hand while "
    "the store was away, for instance. Patroni and PostgreSQL go by the number: a member of the other branch waits for WAL "
    "that never comes, or replays what is not its own.",
    fix="Build the member again from the leader: patronictl reinit",
)
def one_branch(facts: Facts) -> Iterator[Verdict]:
    name = facts.config.name
    found = facts.store if isinstance(facts.store, Unknown) else facts.store.other_branch
    if isinstance(found, Unknown):
        yield NotKnown(found.because, name)
    elif not found:
        yield Good("its timelines are the archive's", name)
    else:
        leads = facts.leader is not None and facts.leader.name == name
        away = (paste.patronictl(facts, "switchover", facts.config.scope),) if leads else ()
        fix = (*away, paste.patronictl(facts, "reinit", facts.config.scope, name))
        yield Wrong(f"its {found} is another one than the archive's of that number", fix, name)


@warning(
    what="The cluster's timeline is the archive's newest, or will be.",
    why="PostgreSQL recovers along the timeline of the highest number, unless it is told otherwise. That of a server which was "
    "promoted beside the leader leads away from what the cluster goes on with. Members are not told of it while they follow.",
    fix="Promote once more, which takes a number above it: patronictl switchover. Until then, restore with "
    "recovery_target_timeline set to the cluster's.",
)
def newest_timeline(facts: Facts) -> Iterator[Verdict]:
    found = known(known(facts.store).newer_branch)
    if not found:
        yield Good("no timeline in the archive is newer")
    else:
        timeline = facts.record.timeline if isinstance(facts.record, Record) else "another"
        text = f"the archive has timeline {found}, which the cluster has abandoned: it goes on with {timeline}"
        yield Wrong(text, (paste.patronictl(facts, "switchover", facts.config.scope),))


@error(
    what="Every node is gap-safe: its hold slot keeps all WAL that is not archived.",
    why="Whichever node is promoted must have what the dead primary had not archived. A node that was just built begins "
    "later and becomes safe automatically when the frontier has passed that position.",
    fix="Depends on why: declare the slot, wait for the frontier, or end what streams from the slot.",
)
@each.server
def gap_safe(facts: Facts, member: MemberFacts, server: ServerFacts) -> Iterator[Verdict]:
    if member.nofailover:
        yield Good("it has the tag nofailover: it is never promoted and needs no hold slot")
    elif (record := known(facts.record)) is None:
        yield NotKnown("there is no record yet")
    elif str(server.state.system_identifier) != record.system_identifier:
        yield NotKnown("the record is another cluster's")
    elif why := why_not_gap_safe(server.slot, facts.held or record.position, record.size):
        yield _unsafe(facts, member, server.slot, f"it is not gap-safe: {why}")
    else:
        yield Good("it is gap-safe")


def _unsafe(facts: Facts, member: MemberFacts, slot: SlotState | None, text: str) -> Wrong:
    if slot is None:
        fix = paste.patronictl(facts, "list") + "   # Patroni makes the slot within seconds, once it is declared"
        return Wrong(text, (fix,))
    if slot.active_pid is not None:
        end = shlex.join(["psql", *_where(member), "-c", f"SELECT pg_terminate_backend({slot.active_pid})"])
        return Wrong(text, (f"{end}   # as a superuser; and let it not come back",))
    if slot.lost or not slot.physical or slot.restart_lsn is None:
        again = f"# Patroni makes it again within {paste.look_seconds(facts)} s"
        return Wrong(text, (_drop_slot(facts, member), again))
    if slot.unreserved:
        return Wrong(text, paste.set_parameter(facts, "max_slot_wal_keep_size", "-1"))
    fix = f"{paste.walkeeper(facts, 'status')}   # it becomes safe when the frontier has passed that position"
    return Wrong(text, (fix,), severity="warning")


def _drop_slot(facts: Facts, member: MemberFacts) -> str:
    """On that very member: each has a slot of its own. Whoever may replicate may do that."""
    own = facts.config.node.postgresql
    user = own.user if own else "replicator"
    psql = shlex.join(["psql", *_where(member), "-U", user, "-d", "postgres", "-c"])
    return f"{psql} \"SELECT pg_drop_replication_slot('{facts.config.hold_slot}')\""


def _where(member: MemberFacts) -> list[str]:
    return ["-h", member.host, "-p", str(member.port)] if member.host else []


@warning(
    what="The members' clocks agree to some seconds.",
    why="A recovery to a point in time goes by the clock of the server that committed, and S3 refuses requests of a clock "
    "that is a quarter of an hour off.",
    fix="Run chrony or another NTP client on every node.",
)
@each.server
def clocks(_: Facts, _member: MemberFacts, server: ServerFacts) -> Iterator[Verdict]:
    if abs(server.clock_ahead) <= CLOCK_SECONDS:
        yield Good("its clock agrees with this node's")
        return
    word = "ahead of" if server.clock_ahead > 0 else "behind"
    fix = ("timedatectl set-ntp true   # on both; chronyc tracking says more",)
    yield Wrong(f"its clock is {abs(server.clock_ahead):.0f} s {word} this node's", fix)


@info(
    what="A base backup is known, and walkeeper's own restore as far back as backup.keep says.",
    why="An archive of WAL restores nothing without a base backup from before. Of other tools PostgreSQL notes none where its "
    "own archive_mode is off: then only whoever takes them knows.",
    fix="walkeeper backup takes one; then try a restore.",
)
def base_backup(facts: Facts) -> Iterator[Verdict]:
    own = None if isinstance(facts.store, Unknown) else known(facts.store.backups)
    if own is not None:
        yield from _own_backups(facts, own)
    else:
        yield Good(known(facts.base_backup))


def _own_backups(facts: Facts, found: Mapping[str, Any]) -> Iterator[Verdict]:
    list_them, take = (paste.walkeeper(facts, word) for word in ("backups", "backup"))
    if found["damaged"]:
        yield Wrong(f"{found['damaged']} of walkeeper's base backups are damaged", (list_them,), severity="warning")
    if found["newest"] is None:
        yield Wrong("none of walkeeper's base backups is complete", (list_them, take), severity="warning")
    elif found["short"]:
        back = duration(found["window"]["seconds"] or 0.0)
        text = f"everything can be restored {back} back, and backup.keep says {duration(found['keep_seconds'])}"
        yield Wrong(text, (list_them,), severity="warning")
    elif not found["damaged"]:
        newest = to_the_second(found["newest"]["stop_at"])
        yield Good(f"{found['complete']} of walkeeper's are complete, the newest of {newest}")
