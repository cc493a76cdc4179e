"""``walkeeper member forget``: a person's word that a member is gone for good, with its disk.

Like the word on a gap it is an object in the store, which the owner of the record sees: nobody waits any longer for the WAL that
this member may have. The word says up to where: of what is written later it says nothing, as a new member may get that name.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final, TypeVar

from walkeeper.archive.open import open_archives
from walkeeper.config import Config
from walkeeper.core.lsn import Lsn
from walkeeper.core.record import Record
from walkeeper.core.remembered import decode
from walkeeper.core.suspicion import Forgotten
from walkeeper.dcs.base import RECORD, REMEMBERED, RecordStore, Topology
from walkeeper.dcs.claim import decoded
from walkeeper.dcs.patroni import connect
from walkeeper.errors import BadRecord, CannotTell, DcsError, DcsUnavailable, NotForgotten, WalkeeperError
from walkeeper.lib.terminal import answered, complain, tell

Answer = TypeVar("Answer")

FORGOTTEN: Final = 0
UNKNOWN: Final = 2


def main(config: Config, name: str) -> int:
    """Exit 0: every store has that word; 2: cannot tell, or one of them has it not. Raises NotForgotten, which is 1."""
    codes = [FORGOTTEN]
    try:
        topology = _asked(config, RECORD, lambda records: records.topology())
        known = _remembered(config)
    except WalkeeperError as problem:
        complain(str(problem), problem.hint)
        return answered(UNKNOWN)
    for each in config.of_each_store:
        try:
            record = _record(each)
            _check(name, topology)
            word = Forgotten(name, record.timeline, _end(topology, record))
            open_archives(each).archive(int(record.system_identifier), record.size).forget_member(word)
        except NotForgotten:
            raise
        except WalkeeperError as problem:
            complain(f"store {each.store_name}: {problem}" if config.others else str(problem), problem.hint)
            codes.append(UNKNOWN)
        else:
            tell(f"{f'Store {each.store_name}: ' if config.others else ''}{_told(word, record)}")
            if known and name not in {*known, record.owner}:
                _warn(name, topology, known)
    return answered(max(codes))


def _asked(config: Config, key: str, question: Callable[[RecordStore], Answer]) -> Answer:
    records = connect(config.patroni_config, config.node.name, config.agent.dcs_timeout, key)
    try:
        return question(records)
    finally:
        records.close()


def _record(config: Config) -> Record:
    claim = decoded(_asked(config, config.key(RECORD), lambda records: records.read()))
    if claim.record is not None:
        return claim.record
    raise claim.problem or CannotTell(
        "record in the DCS: there is none, so it is not known where the archive is",
        hint="An agent writes it when the leader is archived; walkeeper verify --rebuild makes it from the store.",
    )


def _remembered(config: Config) -> frozenset[str]:
    """Names of members that the agents have noted; none where that is not known, as where this role may not read it."""
    try:
        found = _asked(config, REMEMBERED, lambda records: records.read())
        return frozenset() if found is None else frozenset(each.name for each in decode(found.document).members)
    except DcsUnavailable:
        raise
    except (BadRecord, DcsError):
        return frozenset()


def _there(topology: Topology) -> set[str]:
    return {member.name for member in topology.members} | ({topology.leader.name} if topology.leader else set())


def _check(name: str, topology: Topology) -> None:
    """Raises NotForgotten."""
    if name in _there(topology):
        raise NotForgotten(
            f"member {name}: Patroni's key of it is in the DCS, so it answers for itself",
            hint="A member is forgotten that is gone for good. Stop Patroni there first: the key goes within its ttl.",
        )


def _warn(name: str, topology: Topology, known: Collection[str]) -> None:
    """No more: the owner waits for whom it has seen, and what it notes in the DCS is old where it may not write there."""
    gone = ", ".join(sorted(set(known) - _there(topology))) or "none"
    complain(
        f"member {name}: no agent has noted in the DCS that it was there within a day, so it may be a slip",
        f"Members that are gone, and may be waited for: {gone}.",
    )


def _end(topology: Topology, record: Record) -> Lsn:
    """The end of the segment that is written now, as far as the keys of the members say."""
    ends = [record.position, *(Lsn.parse(gap.end) for gap in record.suspected)]
    ends += [Lsn(member.lsn) for member in topology.members if member.lsn is not None]
    return Lsn(max(ends).floor(record.size) + record.size)


def _told(word: Forgotten, record: Record) -> str:
    lost = ", ".join(f"{gap.start} to {gap.end} on timeline {gap.timeline}" for gap in record.suspected)
    return f"forgotten: {word.member}; nobody waits for what it may have of the WAL up to {word.upto}.\n" + (
        f"Suspected lost: {lost}. It becomes a gap when the other members have said no."
        if lost
        else "Nothing is suspected lost at this moment."
    )
