"""Attacks of somebody who may create objects and has no key: nothing of his is restored, built upon, or in the way (P16)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pyrage
import pytest

from tests.core.test_floor import RETAINED, a_floor
from tests.core.values import a_backup, history_text, paged_segment
from tests.fixtures.worlds import config_of
from tests.parts.postgres import Postgres
from tests.twins.memory_record import MemoryDcs, MemoryRecord
from tests.twins.memory_store import MemoryStore
from walkeeper.agent.agent import Agent
from walkeeper.archive import tail
from walkeeper.archive.authentic import AuthenticStore, Trust, believing
from walkeeper.archive.backups import Backups
from walkeeper.archive.codec import Codec
from walkeeper.archive.contents import Contents, starts, take
from walkeeper.archive.examine import problem_with
from walkeeper.archive.expiry import Expiry, note_floor, read_expiry, read_pins, write_floor, write_retained
from walkeeper.archive.histories import stored_history, timelines
from walkeeper.archive.layout import Layout
from walkeeper.archive.read import Reader
from walkeeper.archive.restorable import read_documents
from walkeeper.archive.tail_read import assemble
from walkeeper.archive.write import Archive
from walkeeper.core.authentication import CODE, Demand
from walkeeper.core.backup import BackupId
from walkeeper.core.floor import Floor
from walkeeper.core.history import History, Switch
from walkeeper.core.lsn import MIB, Lsn, SegmentSize
from walkeeper.core.names import HistoryFile, Segment
from walkeeper.core.tail import Piece
from walkeeper.doctor import here
from walkeeper.errors import BadFloor, CannotTell, NotAuthentic, ObjectDamaged, StoreDenied, StoreUnfit
from walkeeper.lib.clock import SystemClock
from walkeeper.postgres.server import ServerState
from walkeeper.store.base import MAX_OBJECT, SMALL, AlreadyThere, Body

SYSTEM = 7300000000000000001
SIZE = SegmentSize(MIB)
LAYOUT = Layout("demo", None, SYSTEM)
KEY = b"k" * 64
ONE = History(1)
TWO = History(2, (Switch(1, Lsn(5 * MIB + 100)),))
THREE = Segment(1, 3, SIZE)


def plain(segment: Segment, letter: bytes = b"w", history: History = ONE) -> bytes:
    return paged_segment(segment, SYSTEM, history).replace(b"w" * 100, letter * 100)


class World:
    """A store as it is, and as hosts with and without the key see it. All is encrypted; ``mallory`` has the public key alone."""

    def __init__(self, directory: Path) -> None:
        self.raw = MemoryStore()
        identity = pyrage.x25519.Identity.generate()
        file = directory / "identity"
        file.write_text(f"{identity}\n")
        self.codec = Codec(1, (str(identity.to_public()),), file)
        self.store = AuthenticStore(self.raw, Trust((KEY,), encrypted=True))
        self.archive = Archive(self.store, LAYOUT, SIZE, self.codec)
        self.mallory = Archive(self.raw, LAYOUT, SIZE, Codec(1, self.codec.recipients))
        self.in_clear = Archive(self.raw, LAYOUT, SIZE, Codec())

    def reader(self, *, far: bool = False, trust: Trust | None = None) -> Reader:
        store = self.store if trust is None else AuthenticStore(self.raw, trust)
        return Reader(store, self.codec, far=far)

    def begin(self) -> None:
        self.archive.archive_segment(THREE, plain(THREE), ONE)
        self.archive.state_start(THREE)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.mark.parametrize("far", [False, True])
def test_p16_a_forged_plain_object_beside_the_true_one_is_not_what_a_restore_delivers(world: World, far: bool) -> None:
    world.begin()
    forged = plain(THREE, b"f")
    key = LAYOUT.file(THREE, ".zst")
    sha256 = hashlib.sha256(forged).hexdigest()
    world.raw.create(key, Codec().encode(forged), {"format": "1", "sha256": sha256, "size": str(MIB)})
    assert world.reader(far=far).deliver(LAYOUT, THREE.name) == plain(THREE)
    pieces = world.reader(far=far).complete(LAYOUT, THREE)
    assert pieces is not None
    assert b"".join(pieces) == plain(THREE)
    assert world.archive.find(THREE) is not None
    assert world.archive.archive_segment(THREE, plain(THREE), ONE).was_present


def test_p16_what_the_public_key_alone_can_make_is_not_restored(world: World) -> None:
    world.begin()
    four = Segment(1, 4, SIZE)
    world.mallory.archive_segment(four, plain(four, b"f"), ONE)
    with pytest.raises(NotAuthentic, match="no authentication code"):
        world.reader().deliver(LAYOUT, four.name)
    assert world.reader().complete(LAYOUT, four) is None
    assert world.archive.find(four) is None
    assert not world.archive.contents.has(four)


@pytest.mark.parametrize("who", ["mallory", "in_clear"])
def test_p16_a_planted_object_keeps_nobody_from_archiving(world: World, who: str) -> None:
    world.begin()
    four = Segment(1, 4, SIZE)
    getattr(world, who).archive_segment(four, plain(four, b"f"), ONE)
    receipt = world.archive.archive_segment(four, plain(four), ONE)
    assert not receipt.was_present
    assert world.archive.archive_segment(four, plain(four), ONE).was_present
    assert world.reader().deliver(LAYOUT, four.name) == plain(four)


def test_p16_planted_starts_gaps_and_histories_say_nothing(world: World) -> None:
    world.begin()
    world.mallory.state_start(Segment(1, 9, SIZE))
    world.mallory.record_gap(Segment(1, 4, SIZE), Lsn(9 * MIB))
    world.mallory.accept_gap(Segment(1, 4, SIZE), Lsn(9 * MIB))
    world.mallory.archive_history(2, history_text(TWO))
    contents = Contents(world.store, LAYOUT, SIZE)
    assert contents.start() == THREE
    assert starts(world.store, LAYOUT) == [THREE.name]
    assert (contents.gaps(), contents.accepted_gaps(), timelines(world.store, LAYOUT)) == ([], [], [])
    assert contents.frontier(ONE) == Lsn(4 * MIB)
    everything = take(world.store, "demo", None).archives[SYSTEM]
    assert (everything.starts, everything.gaps, everything.accepted, everything.histories) == ([THREE.name], [], [], [])
    with pytest.raises(NotAuthentic):
        stored_history(world.store, LAYOUT, 2)
    true = History(2, (Switch(1, Lsn(7 * MIB)),))
    world.archive.archive_history(2, history_text(true))
    assert stored_history(world.store, LAYOUT, 2) == true
    assert timelines(world.store, LAYOUT) == [2]


def test_p16_planted_floors_and_pins_are_in_nobodys_way(world: World) -> None:
    world.begin()
    for name in ("expire/00000001.json", "expire/00000002.revoked.json", "expire/x", "pin/0011223344556677-0001.json"):
        world.raw.create(LAYOUT.root + name, b"{}", {"format": "1"})
    with pytest.raises(BadFloor):
        read_expiry(world.raw, LAYOUT)
    assert read_expiry(world.store, LAYOUT) == Expiry()
    assert read_pins(world.store, LAYOUT) == []


@pytest.mark.parametrize(
    "name", ["a b", "new folder (1)", "\x1b[2J", "x\nINFO all is well", "ä", "y" * 201, ".hidden", ""]
)
def test_p16_a_planted_name_that_is_no_key_is_in_nobodys_way(world: World, name: str) -> None:
    """Buckets and file systems take nearly all names."""
    world.begin()
    for folder in ("start", "gap", "history", "expire", "pin", "wal", "life", "tail", "backup", "proof"):
        world.raw.objects[f"{LAYOUT.root}{folder}/{name}"] = (b"x", {})
    assert starts(world.store, LAYOUT) == [THREE.name]
    assert take(world.store, "demo", None).archives[SYSTEM].starts == [THREE.name]
    assert timelines(world.store, LAYOUT) == []
    assert read_expiry(world.store, LAYOUT) == Expiry()
    assert read_pins(world.store, LAYOUT) == []


@pytest.mark.parametrize("far", [False, True])
@pytest.mark.parametrize("keyed", [False, True])
def test_p16_a_planted_object_that_is_too_large_is_in_nobodys_way(world: World, far: bool, keyed: bool) -> None:
    world.begin()
    reader = Reader(world.store if keyed else world.raw, world.codec, far=far)
    for suffix in (".zst", ".again.zst", ".again.zst.age"):
        world.raw.create(LAYOUT.file(THREE, suffix), b"x" * (2 * MIB), {})
    assert reader.deliver(LAYOUT, THREE.name, SIZE) == plain(THREE)
    world.raw.create(LAYOUT.file(HistoryFile(2), ""), b"x" * (SMALL + 1), {})
    if keyed:
        world.archive.archive_history(2, history_text(TWO))
        assert stored_history(world.store, LAYOUT, 2) == TWO
        assert reader.deliver(LAYOUT, HistoryFile(2).name) == history_text(TWO)


def test_p16_a_planted_object_whose_bytes_nobody_gets_is_in_nobodys_way(world: World) -> None:
    """One that was moved to a glacier, for instance: S3 describes it, and denies its bytes."""
    world.begin()
    planted = LAYOUT.file(THREE, ".zst")
    world.raw.create(planted, b"x", {})

    def deny(call: str, key: str) -> None:
        if (call, key) == ("get", planted):
            raise StoreDenied(f"{key}: InvalidObjectState")

    world.raw.before = deny
    assert world.reader().deliver(LAYOUT, THREE.name) == plain(THREE)

    def deny_all(call: str, key: str) -> None:
        raise StoreDenied(f"{call} {key}")

    world.raw.before = deny_all
    with pytest.raises(StoreDenied, match=r"^get "):
        world.store.get(planted)


def test_p16_what_is_larger_than_its_kind_is_not_read_into_memory(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With or without a key: a thousand pieces of a gigabyte each are as quickly made as named."""
    four, large = Segment(1, 4, SIZE), b"x" * (4 * MIB)
    world.begin()
    for key in (
        LAYOUT.piece(four.name, Piece(0, 16384, "forged"), ".zst.age"),
        LAYOUT.file(four, ".zst"),
        LAYOUT.file(four, ".zst.age"),
    ):
        world.raw.create(key, large, {})
    tail.put(world.archive, four, Piece(0, 8192, "true"), plain(four)[:8192])
    given, get = [0], world.raw.get

    def measured(key: str, limit: int = MAX_OBJECT) -> Body | None:
        body = get(key, limit)
        given.append(len(body or b""))
        return body

    monkeypatch.setattr(world.raw, "get", measured)
    for store in (world.store, world.raw):
        found = assemble(store, LAYOUT, world.codec, four.name)
        assert found is not None
        assert found.plain == plain(four)[:8192]
        forged = next(each for each in tail.stored_pieces(store, LAYOUT, four.name) if each.piece.owner == "forged")
        archive = Archive(store, LAYOUT, SIZE, world.codec)
        assert tail.content(archive, forged) is None
        assert Reader(store, world.codec).complete(LAYOUT, four) is None
        assert isinstance(problem_with(archive, four), ObjectDamaged)
        assert archive.find(four) is None
    assert max(given) < MIB


def test_p16_a_number_that_a_planted_floor_has_is_passed(world: World) -> None:
    """So is that of a floor from before there was a key."""

    def floor(number: int) -> Floor:
        return a_floor(number=number, system_identifier=str(SYSTEM))

    for number in (1, 2):
        write_floor(world.raw, LAYOUT, floor(number))
    write_retained(world.raw, LAYOUT, RETAINED)
    for _ in range(2):  # the second time there is one that counts
        assert write_floor(world.store, LAYOUT, floor(1)) == floor(3)
    word = msgspec.structs.replace(RETAINED, number=RETAINED.number + 1)
    assert write_retained(world.store, LAYOUT, RETAINED) == word
    found = read_expiry(world.store, LAYOUT)
    assert (found.floors, found.retained) == ((floor(3),), (word,))
    note_floor(world.raw, LAYOUT, 3, "revoked", RETAINED.at)
    with pytest.raises(NotAuthentic, match="no authentication code"):
        note_floor(world.store, LAYOUT, 3, "revoked", RETAINED.at)


def test_p16_over_a_planted_start_or_gap_nothing_counts_as_said(world: World) -> None:
    four, end = Segment(1, 4, SIZE), Lsn(9 * MIB)
    world.begin()
    world.archive.state_start(THREE)  # again: that is success
    says: list[Callable[[Archive], None]] = [
        lambda archive: archive.state_start(four),
        lambda archive: archive.record_gap(four, end),
        lambda archive: archive.accept_gap(four, end),
    ]
    for say in says:
        say(world.mallory)
        with pytest.raises(NotAuthentic, match="no authentication code"):
            say(world.archive)


def test_p16_a_planted_backup_json_is_not_a_backup_and_hides_none(world: World) -> None:
    mine, planted = (BackupId.parse(f"20261128T020000Z-00000001-0a1b2c3{digit}") for digit in "de")
    Backups(world.store, LAYOUT, world.codec).commit(a_backup(mine))
    Backups(world.raw, LAYOUT, world.codec).commit(a_backup(planted))
    found = read_documents(Backups(world.store, LAYOUT, world.codec))
    assert [each.id for each in found.backups] == [str(mine)]
    assert list(found.unreadable) == [str(planted)]


def test_p16_a_planted_tail_is_not_believed(world: World) -> None:
    world.begin()
    four = Segment(1, 4, SIZE)
    tail.put(world.archive, four, Piece(0, 8192, "true"), plain(four)[:8192])
    tail.put(world.mallory, four, Piece(0, 16384, "forged"), plain(four, b"f")[:16384])
    found = assemble(world.store, LAYOUT, world.codec, four.name)
    assert found is not None
    assert found.plain == plain(four)[:8192]
    stored = list(tail.stored_pieces(world.store, LAYOUT, four.name))
    assert [tail.confirm(world.archive, each, four, plain(four)[:8192]) is None for each in stored] == [False, True]
    texts = {(0, 8192): plain(four)[:8192], (0, 16384): plain(four, b"f")[:16384]}
    here = {each: hashlib.sha256(text).hexdigest() for each, text in texts.items()}
    assert not tail.covers(world.archive, here, stored)


def test_p16_a_true_object_under_another_name_or_in_another_cluster_is_a_forgery(world: World) -> None:
    world.begin()
    body, metadata = world.raw.objects[LAYOUT.file(THREE, ".zst.age")]
    four, other = Segment(1, 4, SIZE), Layout("demo", None, SYSTEM + 1)
    world.raw.create(LAYOUT.file(four, ".zst.age"), body, metadata)
    world.raw.create(other.file(THREE, ".zst.age"), body, metadata)
    for layout, segment in ((LAYOUT, four), (other, THREE)):
        with pytest.raises(NotAuthentic, match="not one of the keys"):
            world.reader().deliver(layout, segment.name)
    moved = Layout("renamed", 2, SYSTEM)
    world.raw.create(moved.file(THREE, ".zst.age"), body, metadata)
    assert world.reader().deliver(moved, THREE.name) == plain(THREE)  # an archive may move, as a whole


def test_p16_changed_bytes_under_true_metadata_are_noticed(world: World) -> None:
    world.begin()
    world.archive.archive_history(2, history_text(TWO))
    for key, (body, metadata) in list(world.raw.objects.items()):
        for changed in (body[:-1] + bytes([body[-1] ^ 1]), body[:-1], body + b"x"):
            world.raw.objects[key] = (changed, metadata)
            with pytest.raises(NotAuthentic):
                world.store.get(key)
        world.raw.objects[key] = (body, metadata)
    world.raw.objects[key] = (b"", metadata)
    with pytest.raises(NotAuthentic, match="otherwise"):
        world.store.head(key)


def test_keys_can_be_changed(world: World) -> None:
    world.begin()
    changed = Trust((b"n" * 64, KEY), encrypted=True)
    store = AuthenticStore(world.raw, changed)
    four = Segment(1, 4, SIZE)
    Archive(store, LAYOUT, SIZE, world.codec).archive_segment(four, plain(four), ONE)
    for segment in (THREE, four):
        assert Reader(store, world.codec).deliver(LAYOUT, segment.name) == plain(segment)
    with pytest.raises(NotAuthentic):
        world.reader().deliver(LAYOUT, four.name)


def test_an_archive_from_before_there_was_a_key_or_encryption_goes_on(world: World) -> None:
    world.in_clear.archive_segment(THREE, plain(THREE), ONE)
    world.in_clear.state_start(THREE)
    world.in_clear.archive_history(1 + 1, history_text(TWO))
    later = "00000002000000000000000A"
    trust = Trust((KEY,), encrypted=True, demand=Demand(since=later, plain_before=later))
    store = AuthenticStore(world.raw, trust)
    assert Reader(store, world.codec).deliver(LAYOUT, THREE.name) == plain(THREE)
    assert Contents(store, LAYOUT, SIZE).start() == THREE
    assert timelines(store, LAYOUT) == [2]
    assert Archive(store, LAYOUT, SIZE, world.codec).archive_segment(THREE, plain(THREE), ONE).was_present
    with pytest.raises(CannotTell, match="it is plain"):
        world.reader().deliver(LAYOUT, THREE.name)
    body, metadata = world.raw.objects[LAYOUT.file(THREE, ".zst")]
    world.raw.objects[LAYOUT.file(THREE, ".zst")] = (body, {**metadata, CODE: "0" * 64})
    with pytest.raises(NotAuthentic, match="not one of the keys"):  # where there is a code it must be right
        Reader(store, world.codec).deliver(LAYOUT, THREE.name)


@pytest.mark.parametrize(
    ("encryption", "believed"),
    [
        ({"identity_file": Path("/identity")}, True),  # it was encrypted once
        ({"encryption_recipients": ("age1…",)}, False),
        ({"plain_before": "000000010000000000000003"}, False),
        ({"plain_before": "000000010000000000000004"}, True),
    ],
)
def test_a_plain_object_is_believed_where_new_ones_are_plain(
    world: World, tmp_path: Path, encryption: dict[str, Any], believed: bool
) -> None:
    world.in_clear.archive_segment(THREE, plain(THREE), ONE)
    server = cast(Postgres, SimpleNamespace(data=tmp_path, port=1, bin_dir=None))
    store = believing(world.raw, config_of(server, "a", tmp_path, **encryption))
    assert Contents(store, LAYOUT, SIZE).has(THREE) is believed


def test_a_code_costs_no_request_and_covers_documents_too(world: World) -> None:
    def calls(archive: Archive) -> Iterator[tuple[str, str]]:
        before = len(world.raw.calls)
        archive.archive_segment(THREE, plain(THREE), ONE)
        archive.state_start(THREE)
        archive.archive_history(2, history_text(TWO))
        archive.accept_gap(THREE, Lsn(4 * MIB))
        yield from world.raw.calls[before:]

    with_codes = list(calls(world.archive))
    assert all(CODE in metadata for _, metadata in world.raw.objects.values())
    assert all(json.dumps(metadata).isascii() for _, metadata in world.raw.objects.values())
    world.raw.objects.clear()
    assert list(calls(world.mallory)) == with_codes


def test_names_that_are_known_are_looked_at_once(world: World) -> None:
    world.begin()
    world.archive.archive_history(2, history_text(TWO))
    for _ in range(3):
        assert starts(world.store, LAYOUT) == [THREE.name]
        assert timelines(world.store, LAYOUT) == [2]
    assert len([key for call, key in world.raw.calls if call == "head" and "/wal/" not in key]) == 2


def test_the_probe_finds_a_store_that_loses_codes(world: World) -> None:
    world.store.probe()
    assert world.raw.objects == {}
    create = world.raw.create

    def without(key: str, body: bytes, metadata: dict[str, str]) -> None:
        if key in world.raw.objects:
            raise AlreadyThere(key)
        create(key, body, {name: value for name, value in metadata.items() if name != CODE})

    world.raw.create = without  # type: ignore[assignment,method-assign]
    with pytest.raises(StoreUnfit, match="loses the metadata"):
        world.store.probe()
    assert world.raw.objects == {}


def test_agent_and_doctor_probe_the_store_as_they_use_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Losing(MemoryStore):
        def create(self, key: str, body: bytes, metadata: Mapping[str, str]) -> None:
            super().create(key, body, {name: value for name, value in metadata.items() if name != CODE})

    server = cast(Postgres, SimpleNamespace(data=tmp_path, port=1, bin_dir=None))
    (tmp_path / "pg_wal").mkdir()
    config = config_of(server, "a", tmp_path, authentication_keys=("k" * 64,))
    agent = Agent(config, Losing(), MemoryRecord(MemoryDcs()), SystemClock())
    with pytest.raises(StoreUnfit, match="loses the metadata"):
        agent._take_over(ServerState(SYSTEM, False, 1, Lsn(0), SIZE, 15, "replica"), frozenset())
    monkeypatch.setattr(here, "open_store", lambda _: Losing())
    assert isinstance(here.look_at_store(config, None).problem, StoreUnfit)
