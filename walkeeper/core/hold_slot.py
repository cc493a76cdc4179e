"""Whether a node keeps everything that is not archived yet."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from walkeeper.core.history import History
from walkeeper.core.lsn import Lsn, SegmentSize
from walkeeper.core.record import Record
from walkeeper.core.takeover import LocalServer


@dataclass(frozen=True, slots=True)
class SlotState:
    """A replication slot. ``restart_lsn`` is None where it reserves nothing; ``lost`` when PostgreSQL gave it up, and
    ``unreserved`` when it is about to: the next checkpoint may remove what the slot stands at.
    """

    physical: bool
    restart_lsn: Lsn | None
    active_pid: int | None
    lost: bool
    unreserved: bool = False


def keeps(slot: SlotState | None, lsn: Lsn) -> bool:
    """Whether that slot keeps, in pg_wal of its server, all WAL from there on. Not one that somebody streams from."""
    return (
        slot is not None
        and slot.physical
        and not slot.lost
        and not slot.unreserved
        and slot.active_pid is None
        and slot.restart_lsn is not None
        and slot.restart_lsn <= lsn
    )


def slot_target(frontier: Lsn, size: SegmentSize) -> Lsn:
    """Where the hold slot of an archive with that frontier belongs: one whole segment below it.

    So the server keeps the last whole segment that is stored, with which the next takeover compares the store (promise P13).
    """
    return Lsn(max(0, frontier.floor(size) - size))


def followed(frontiers: Sequence[Lsn], durable_in: int) -> Lsn:
    """Of several stores' frontiers the one that so many have reached; the last, where there are fewer."""
    return sorted(frontiers, reverse=True)[min(durable_in, len(frontiers)) - 1]


def reached(own: Record, other: Record, history: History | None = None) -> Lsn | None:
    """How much of the chain of ``own`` the archive has that another store's record speaks of; None where that is another
    cluster's. Without ``history``, that chain, it is not known where the timelines before it ended: good for people.
    """
    if (other.system_identifier, other.segment_size) != (own.system_identifier, own.segment_size):
        return None
    if other.timeline == own.timeline:
        return other.position
    if history is None:
        return min(other.position, own.position)
    ended = next((switch.lsn for switch in history.switches if switch.timeline == other.timeline), Lsn(0))
    return min(other.position, ended)


def ends_lowest(others: Iterable[Record], local: LocalServer) -> Lsn | None:
    """Where the archive ends that has least of that server's chain, among those of other stores; None where there is none."""
    ends = {switch.timeline: switch.lsn for switch in local.history.switches}
    return min(
        (
            min(other.position, ends.get(other.timeline, other.position))
            for other in others
            if (int(other.system_identifier), other.size) == (local.system_identifier, local.segment_size)
            and local.history.includes(other.timeline)
        ),
        default=None,
    )


def why_not_gap_safe(slot: SlotState | None, frontier: Lsn, size: SegmentSize) -> str:
    """Why the node with this hold slot could lose WAL that is not archived if it became the primary; "" if it cannot.

    A slot keeps whole segments, so that one anywhere in the frontier's segment is as good as one at its start.
    """
    if slot is None:
        return "it has no hold slot"
    if not slot.physical:
        return "its hold slot is a logical one"
    if slot.lost:
        return "PostgreSQL has invalidated its hold slot (max_slot_wal_keep_size)"
    if slot.unreserved:
        return "PostgreSQL is about to invalidate its hold slot, at the next checkpoint (max_slot_wal_keep_size)"
    if slot.restart_lsn is None:
        return "its hold slot reserves no WAL"
    if slot.active_pid is not None:
        return (
            f"process {slot.active_pid} streams from its hold slot, which then follows that process and not the archive"
        )
    if slot.restart_lsn.floor(size) > frontier:
        return f"its hold slot begins at {slot.restart_lsn}, after the frontier {frontier}"
    return ""


def how_to_make_safe(slot: SlotState | None, name: str, *, declared: bool, slots_off: bool = False) -> str:
    """What to do about that reason; ``declared``: Patroni's dynamic configuration has a permanent slot ``name``; ``slots_off``:
    Patroni is to keep no slots at all.
    """
    if slots_off:
        return "Patroni drops every slot: patronictl edit-config --set postgresql.use_slots=true --force"
    if not declared:
        return f"Declare it: patronictl edit-config --set slots.{name}.type=physical --force"
    if slot is None:
        return (
            "Patroni makes it within seconds. If it does not, Patroni's log on that node says why: max_replication_slots may be "
            "used up."
        )
    if not slot.physical or slot.lost or slot.restart_lsn is None:
        return (
            f"Drop it on that node, SELECT pg_drop_replication_slot('{name}'): Patroni makes it again, and the node is gap-safe "
            "when the frontier has passed that position."
        )
    if slot.unreserved:
        return "Raise max_slot_wal_keep_size, and look why the frontier stands still."
    if slot.active_pid is not None:
        return "Nothing may stream from this slot: stop that process, or give walkeeper.hold_slot another name."
    return (
        "The node becomes gap-safe when the frontier has passed that position: normal for a while after it was built or "
        "rewound. If it stays so, the frontier stands still."
    )
