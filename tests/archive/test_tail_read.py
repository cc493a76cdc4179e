"""The tail on the way back: which pieces make a segment, and what a server in recovery gets of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pyrage
import pytest

from tests.core.values import history_text
from tests.parts.postgres import Postgres
from tests.parts.processes import new_directory
from tests.twins.memory_store import MemoryStore
from walkeeper.archive import tail
from walkeeper.archive.codec import Codec
from walkeeper.archive.layout import Layout
from walkeeper.archive.tail_read import assemble
from walkeeper.archive.write import Archive
from walkeeper.core.history import History, Switch
from walkeeper.core.lsn import MIB, Lsn, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.core.tail import Piece
from walkeeper.core.wal_page import PAGE_SIZE
from walkeeper.core.wal_records import records
from walkeeper.errors import CannotTell, StoreUnavailable

pytestmark = pytest.mark.postgres
SIZE = SegmentSize(MIB)


class Tails:
    """A store with an archive that has begun, and a real segment to take pieces of."""

    def __init__(self, segment: Segment, plain: bytes, system_identifier: int, pg_wal: Path) -> None:
        self.segment = segment
        self.plain = plain
        self.ends = [record.end for record in records(plain, segment)]
        self.pg_wal = pg_wal
        self.store = MemoryStore()
        self.layout = Layout("demo", None, system_identifier)
        self.codec = Codec()
        self.archive = Archive(self.store, self.layout, SIZE, self.codec)
        self.archive.state_start(segment)

    def put(self, *ends: int, owner: str = "a", begin: int = 0, plain: bytes | None = None) -> list[str]:
        """Pieces that continue each other, each up to one of ``ends``. Their keys."""
        keys = []
        for end in ends:
            data = (plain or self.plain)[begin:end]
            keys.append(tail.put(self.archive, self.segment, Piece(begin, end, owner), data).key)
            begin = end
        return keys

    def assembled(self, name: str | None = None) -> int | None:
        """How far the assembled segment goes; it is checked. None: absent."""
        made = assemble(self.store, self.layout, self.codec, name or self.segment.name)
        found = None if made is None else made.beyond(self.pg_wal)
        if found is None:
            return None
        assert len(found) == SIZE
        end = len(found.rstrip(b"\0"))
        assert found[:end] == self.plain[:end]
        ends: list[int] = [*self.ends, *range(0, SIZE, PAGE_SIZE)]
        return min(each for each in ends if each >= end)

    def local(self, plain: bytes) -> None:
        """What lies in pg_wal under that name."""
        (self.pg_wal / self.segment.name).write_bytes(plain)

    def branch(self, timeline: int, *switches: tuple[int, int]) -> None:
        """A history in the store: the timelines before, each with the offset in the segment where it ended."""
        history = History(timeline, tuple(Switch(old, Lsn(self.segment.start + end)) for old, end in switches))
        self.archive.archive_history(timeline, history_text(history))

    def damage(self, key: str, change: Callable[[bytes], bytes], **metadata: str) -> None:
        body, stated = self.store.objects[key]
        self.store.objects[key] = (change(body), {**stated, **metadata})


@pytest.fixture(scope="module")
def wal() -> Iterator[tuple[Segment, bytes, int]]:
    """A segment with some hundred records, the first of which begins in the segment before."""
    with Postgres(new_directory("w") / "pg") as server:
        server.execute("CREATE TABLE t (n int, b text)")
        for _ in range(3):
            server.execute("INSERT INTO t SELECT g, repeat('x', g % 500) FROM generate_series(1, 4000) g")
        number = Segment.at(1, Lsn.parse(server.lsn()), SIZE).number - 1
        segment = Segment(1, number, SIZE)
        yield segment, (server.pg_wal / segment.name).read_bytes(), server.system_identifier


@pytest.fixture
def tails(wal: tuple[Segment, bytes, int], tmp_path: Path) -> Tails:
    return Tails(*wal, tmp_path)


def test_pieces_that_continue_each_other_make_a_segment_with_zeros_behind(tails: Tails) -> None:
    assert tails.assembled() is None
    a, b, c = tails.ends[10], tails.ends[40], 10 * PAGE_SIZE
    tails.put(a, b, c)
    assert tails.assembled() == c
    tails.put(b)  # merged, and not removed yet
    assert tails.assembled() == c


def test_of_several_owners_the_longest_chain_counts_and_none_completes_another(tails: Tails) -> None:
    tails.put(tails.ends[10], tails.ends[20], owner="a")
    tails.put(tails.ends[15], tails.ends[40], owner="b")
    tails.put(tails.ends[90], owner="c", begin=tails.ends[40])
    assert tails.assembled() == tails.ends[40]


TORN: list[tuple[str, Callable[[Tails, str], None]]] = [
    ("empty", lambda tails, key: tails.damage(key, lambda _: b"")),
    ("cut", lambda tails, key: tails.damage(key, lambda body: body[:-3])),
    ("flipped", lambda tails, key: tails.damage(key, lambda body: body[:20] + bytes([body[20] ^ 1]) + body[21:])),
    ("other checksum", lambda tails, key: tails.damage(key, lambda body: body, sha256="0" * 64)),
    ("other length", lambda tails, key: tails.damage(key, lambda _: Codec().encode(b"x"), sha256=sha(b"x"))),
    ("zeros", lambda tails, key: lie(tails, key, bytes)),
    ("another place", lambda tails, key: lie(tails, key, lambda length: tails.plain[-length:])),
]


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def lie(tails: Tails, key: str, data: Callable[[int], bytes]) -> None:
    """Other bytes of the right length, with their own right checksum."""
    found = tail.parse_key(next(info for info in tails.store.list(key)))
    assert found is not None
    other = data(found.piece.end - found.piece.begin)
    tails.damage(key, lambda _: Codec().encode(other), sha256=sha(other))


@pytest.mark.parametrize("kind", [kind for kind, _ in TORN])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_p6_torn_and_lying_pieces_are_ignored(tails: Tails, kind: str, which: int) -> None:
    ends = [3 * PAGE_SIZE, 6 * PAGE_SIZE, 9 * PAGE_SIZE]
    keys = tails.put(*ends)
    dict(TORN)[kind](tails, keys[which])
    assert tails.assembled() == [None, *ends][which]
    tails.put(tails.ends[3], tails.ends[5], owner="b")
    assert tails.assembled() == max([tails.ends[5], ends[which - 1] if which else 0])


def test_where_two_owners_differ_what_both_say_is_believed(tails: Tails, caplog: pytest.LogCaptureFixture) -> None:
    at = tails.ends[30]
    tails.put(tails.ends[50], owner="a")
    tails.put(tails.ends[60], owner="b", plain=tails.plain[:at] + bytes([tails.plain[at] ^ 1]) + tails.plain[at + 1 :])
    assert tails.assembled() == at
    assert "tails_differ" in caplog.text


def test_p6_a_store_that_fails_in_between_is_not_absence(tails: Tails) -> None:
    keys = tails.put(tails.ends[10], tails.ends[40])
    for call, key in (("list", "/tail/"), ("get", keys[0]), ("get", keys[1])):

        def fail(called: str, asked: str, call: str = call, key: str = key) -> None:
            if called == call and key in asked:
                raise StoreUnavailable("down")

        tails.store.before = fail
        with pytest.raises(StoreUnavailable):
            tails.assembled()


def test_a_piece_that_is_merged_meanwhile_is_found_in_the_merged_one(tails: Tails) -> None:
    keys = tails.put(tails.ends[10], tails.ends[40])

    def merge(called: str, key: str) -> None:
        if called == "get" and key == keys[1]:
            tails.store.before = None
            tails.put(tails.ends[40])
            for gone in keys:
                del tails.store.objects[gone]

    tails.store.before = merge
    assert tails.assembled() == tails.ends[40]


def test_what_vanishes_again_and_again_is_not_absence(tails: Tails) -> None:
    (key,) = tails.put(tails.ends[10])
    body = tails.store.objects[key]

    def vanish(called: str, asked: str) -> None:
        if called == "list":
            tails.store.objects[key] = body
        if called == "get" and asked == key:
            tails.store.objects.pop(key, None)

    tails.store.before = vanish
    with pytest.raises(CannotTell):
        tails.assembled()


def test_an_encrypted_tail_needs_its_key_and_without_it_nothing_is_told(tails: Tails, tmp_path: Path) -> None:
    identity = pyrage.x25519.Identity.generate()
    (tmp_path / "identity").write_text(f"{identity}\n")
    tails.archive.codec = Codec(recipients=(str(identity.to_public()),))
    keys = tails.put(tails.ends[10], tails.ends[40])
    with pytest.raises(CannotTell, match="encrypted"):
        tails.assembled()
    tails.codec = Codec(identity_file=tmp_path / "identity")
    assert tails.assembled() == tails.ends[40]
    tails.damage(keys[1], lambda body: body[:-1])
    assert tails.assembled() == tails.ends[10]


def test_beyond_the_fork_of_the_newest_branch_nothing_is_delivered(tails: Tails) -> None:
    fork, end = tails.ends[30], tails.ends[60]
    tails.put(end)
    tails.branch(2, (1, tails.ends[40]))
    assert tails.assembled() == tails.ends[40]
    tails.branch(3, (1, fork))
    assert tails.assembled() == fork
    tails.branch(4, (2, tails.ends[45]))  # of another branch
    assert tails.assembled() == end


def test_a_tail_that_ends_before_the_fork_inside_its_segment_is_not_delivered(tails: Tails) -> None:
    """The older timeline's file of that number, which a standby may have, could hold more."""
    tails.segment = Segment(2, tails.segment.number, SIZE)
    tails.branch(2, (1, tails.ends[30]))
    tails.put(tails.ends[30])
    assert tails.assembled() is None
    tails.put(tails.ends[31], begin=tails.ends[30])
    assert tails.assembled() == tails.ends[31]


def test_the_local_copy_is_never_replaced_by_less(tails: Tails) -> None:
    end = tails.ends[40]
    tails.put(tails.ends[20], end)
    for have in (tails.plain, tails.plain[: tails.ends[41]].ljust(SIZE, b"\0"), tails.plain[:end].ljust(SIZE, b"\0")):
        tails.local(have)
        assert tails.assembled() is None
    stale = tails.plain[SIZE // 2 :] * 2
    for have in (
        b"",
        b"\0" * SIZE,
        stale,
        tails.plain[: tails.ends[39]] + stale[tails.ends[39] :],
        tails.plain[:PAGE_SIZE],
    ):
        tails.local(have)
        assert tails.assembled() == end
    tails.local(tails.plain)
    (tails.pg_wal / tails.segment.name).chmod(0)
    with pytest.raises(CannotTell, match="Permission denied"):
        tails.assembled()
