"""``walkeeper verify --rebuild``: a lost record, written again from what the store has (promises P4 and P11).

Agents do the same automatically at a takeover. This is for before there is one, and for people who want to see it.
"""

from __future__ import annotations

import uuid
from contextlib import closing

from walkeeper.archive.open import open_archives
from walkeeper.config import Config
from walkeeper.core.coverage import begins, reach
from walkeeper.core.lsn import Lsn
from walkeeper.core.record import MAX_GAPS, Gap, Record
from walkeeper.dcs.base import RecordStore
from walkeeper.dcs.claim import decoded
from walkeeper.errors import CannotTell, CasConflict, Refused
from walkeeper.lib.clock import timestamp
from walkeeper.verify.answer import SOUND
from walkeeper.verify.evidence import Evidence, gather, open_records

NOBODY = ""
"""Its owner: the next takeover accepts it, whoever makes that."""


def run(config: Config, system_identifier: int | None, timeline: int | None) -> tuple[str, int]:
    """Write it and say so. Raises DcsError, CannotTell, Refused or the store's errors, and has changed nothing then."""
    with closing(open_records(config)) as records:
        return rebuild(config, records, system_identifier, timeline)


def rebuild(
    config: Config, records: RecordStore, system_identifier: int | None, timeline: int | None
) -> tuple[str, int]:
    """By compare-and-set on what was read before the store was looked at: a takeover in between wins."""
    before = records.read()
    claim = decoded(before)
    if claim.record is not None:  # garbage is what this is for
        _refuse_readable(claim.record)
    evidence = gather(config, open_archives(config, to_read=True).store, claim, system_identifier)
    record = rebuilt(evidence, timeline, _leaders_timeline(records))
    try:
        records.write(record.encode(), before)
    except CasConflict:
        raise Refused(
            "record in the DCS: somebody wrote it meanwhile; nothing was changed",
            hint="An agent took over and wrote it automatically. walkeeper status shows it.",
        ) from None
    gaps = f", with {record.gaps_total} recorded gaps" if record.gaps_total else ""
    written = (
        f"Written: the record of system identifier {record.system_identifier}.\n"
        f"The archive begins with {record.start}; all of timeline {record.timeline}'s chain\n"
        f"below the frontier {record.lsn} is in the store{gaps}.\n"
        "Nobody owns it: the next takeover, by the agent of Patroni's leader, goes on\nfrom there."
    )
    return written, SOUND


def _leaders_timeline(records: RecordStore) -> int | None:
    """As Patroni's key for the leader says; None where there is none."""
    topology = records.topology()
    name = topology.leader.name if topology.leader is not None else None
    return next((member.timeline for member in topology.members if member.name == name), None)


def rebuilt(evidence: Evidence, timeline: int | None, leaders: int | None) -> Record:
    """The most that the store bears out, along the chain of the timeline that is named, or else of the newest up to the
    leader's: a newer one is an abandoned branch. Raises CannotTell.

    It is said of the oldest timeline of which it is true: that of the last segment. A history alone, of a promotion that
    archived nothing, must not keep a server of the timeline before it from taking over.
    """
    if evidence.start is None:
        raise CannotTell(
            "the archive does not state its start, so that nobody can say from where on it has everything",
            hint="Start the agent of Patroni's leader: it begins again where that server is.",
        )
    if evidence.inventory.empty.count:
        raise CannotTell(
            f"{evidence.inventory.empty.first[0]}: the object is empty, so that the listing does not say what is stored",
            hint="walkeeper verify names all of them. Move them away first.",
        )
    known = [each for each in (*evidence.histories, evidence.start.timeline) if leaders is None or each <= leaders]
    wanted = timeline or max(known, default=evidence.start.timeline)
    history = evidence.history(wanted)
    if history is None:
        raise CannotTell(
            f"timeline {wanted}: the store has no history of it", hint="walkeeper list says which are there."
        )
    number = begins((start.number for start in evidence.starts), evidence.archived, history, evidence.size)
    first = next(start for start in evidence.starts if start.number == number)
    end = reach(evidence.archived, history, evidence.size, first.number)
    gaps = [
        Gap(its_timeline, str(Lsn(begin * evidence.size)), str(Lsn(stop * evidence.size)))
        for its_timeline, found in evidence.archived.gaps.items()
        for begin, stop in found
    ]
    gaps.sort(key=lambda gap: Lsn.parse(gap.start))
    return Record(
        system_identifier=str(evidence.layout.system_identifier),
        segment_size=int(evidence.size),
        timeline=history.timeline_of(max(end - 1, first.number), evidence.size),
        lsn=str(Lsn(end * evidence.size)),
        start=first.name,
        owner=NOBODY,
        session=uuid.uuid4().hex,
        gaps=tuple(gaps[-MAX_GAPS:]),
        gaps_total=len(gaps),
        updated_at=timestamp(),
    )


def _refuse_readable(record: Record) -> None:
    owner = f"{record.owner} owns it" if record.owner else "nobody owns it yet"
    raise Refused(
        f"record in the DCS: it is there and can be read: system identifier {record.system_identifier}, "
        f"timeline {record.timeline}, frontier {record.lsn}, {owner}; nothing was changed",
        hint="A record is never replaced here. If its cluster no longer exists, patronictl remove takes it away.",
    )
