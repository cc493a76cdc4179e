"""``walkeeper verify --deep``: each kind of damage inside an object, by its key, and the rest looked at nevertheless."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path

import pyrage
import pytest

from tests.core.values import PAGE, commit_record, history_text, long_header, paged_segment, wal_of
from tests.fixtures.archives import ONE, SYSTEM, TWO, Built, Verifier, replaced
from walkeeper.archive.codec import Codec
from walkeeper.core.coverage import Range
from walkeeper.core.history import History, Switch, parse_history
from walkeeper.core.lsn import MIB, Lsn, SegmentSize
from walkeeper.core.names import HistoryFile, Segment
from walkeeper.core.wal_records import Ends
from walkeeper.errors import StoreUnavailable
from walkeeper.lib import retry
from walkeeper.lib.parallel import in_parallel
from walkeeper.store.base import MAX_OBJECT, Body
from walkeeper.store.directory import DirectoryStore
from walkeeper.verify.deep import _Seams


@pytest.fixture(autouse=True)
def _no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "_WAIT", 0.0)


def whole(built: Built) -> None:
    built.put(ONE, 3, 4)
    built.put_history(TWO)
    built.put(TWO, 5, 6)
    built.put(TWO, 7, written=3 * PAGE + 700)  # the rest is zeros, as after pg_switch_wal()
    built.record(2, 8)


def test_a_whole_archive_is_sound_also_inside(built: Built, verify: Verifier) -> None:
    whole(built)
    said = verify(deep=True)
    assert (said.code, said.kinds, said.notes) == (0, [], set())
    assert said.document["deep"]["segments"] == 5
    assert said.document["deep"]["bytes"] > 0
    assert verify(deep=True, json=False).out.endswith("Sound: each object is what it says.\n")


def life(length: int) -> dict[Segment, bytes]:
    """Segments 3, 4 and 5 as one server wrote them, in records that are so long."""
    blank = [bytes(len(commit_record(0, more=length)))] * (4 * MIB // length)
    _, places = wal_of(ONE, SegmentSize(MIB), SYSTEM, 3, blank)
    follow = [Lsn(0x2FFF28), *(begin for begin, _ in places)]
    linked = [commit_record(each, more=length, previous=follow[each]) for each in range(len(blank))]
    segments, _ = wal_of(ONE, SegmentSize(MIB), SYSTEM, 3, linked)
    return {segment: plain for segment, plain in segments.items() if segment.number < 6}


def test_where_neighbours_are_missing_nobody_waits_for_them() -> None:
    ends, stored = Ends(Lsn(MIB), Lsn(MIB)), [Range(number, number + 1) for number in range(0, 200, 2)]
    alone, beside = _Seams(stored), _Seams([*stored, Range(200, 202)])
    for number in range(0, 201, 2):
        assert [*alone.torn(number, ends), *beside.torn(number, ends)] == []
    assert (alone._last, alone._before) == ({}, {})
    assert (beside._last, beside._before) == ({201: Lsn(MIB)}, {})
    assert list(beside.torn(201, ends)) == []
    assert beside._last == {}


def test_p13_a_splice_of_two_lives_is_not_called_sound(built: Built, verify: Verifier) -> None:
    """Names, sums, headers and pages are all right: only the records say that the second one's do not follow the first one's."""
    first, other = life(60_000), life(50_000)
    for segment, plain in first.items():
        built.archive.archive_segment(segment, plain, ONE)
    built.record(1, 6)
    assert verify(deep=True).code == 0
    built.store.delete(built.key(1, 5))
    last = built.segment(1, 5)
    built.archive.archive_segment(last, other[last], ONE)
    assert verify().code == 0
    said = verify(deep=True)
    assert said.code == 1
    assert said.kinds == ["splice"]
    assert said.finding("splice")["first"] == built.segment(1, 5).name
    assert [window["last"][-1] for window in said.document["windows"]] == ["4"]


def test_p13_a_history_that_its_descendant_contradicts_is_damage(built: Built, verify: Verifier) -> None:
    whole(built)
    built.put_history(History(3, (*TWO.switches, Switch(2, Lsn(8 * MIB)))))
    built.put(History(3, (*TWO.switches, Switch(2, Lsn(8 * MIB)))), 8)
    built.record(3, 9)
    assert verify().code == 0
    key = built.archive.layout.file(HistoryFile(2), "")
    built.store.delete(key)
    built.put_history(History(2, (Switch(1, Lsn(TWO.switches[0].lsn + 8)),)))
    said = verify()
    assert (said.code, said.kinds[0]) == (1, "history_differs")
    assert said.finding("history_differs")["key"] == key


def test_a_timeline_that_was_left_before_it_began_is_no_damage(built: Built, verify: Verifier) -> None:
    """A standby that has learnt of timeline 2 is promoted to 3 before it got there: PostgreSQL writes falling positions."""
    built.put(ONE, 3)
    built.put_history(TWO)
    built.archive.archive_history(
        3, history_text(TWO) + f"2\t{Lsn(4 * MIB + 80)}\tno recovery target specified\n".encode()
    )
    three = parse_history(3, history_text(History(3, (*TWO.switches, Switch(2, Lsn(4 * MIB + 80))))))
    built.put(three, 4, 5)
    built.record(3, 6)
    said = verify()
    assert (said.code, said.kinds) == (0, [])


def page_damage(body: bytes) -> bytes:
    plain = bytearray(Codec().decode(".zst", body, MIB))
    plain[20 * PAGE + 8] ^= 1
    return Codec().encode(bytes(plain))


DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "a bit flipped": (lambda body: body[:200] + bytes([body[200] ^ 4]) + body[201:], "zstd frame"),
    "cut short": (lambda body: body[: len(body) // 2], "cut short"),
    "a byte too many": (lambda body: body + b"x", "cut short, or longer"),
    "not zstd at all": (lambda _: b"<html>502</html>", "zstd frame"),
    "another segment": (
        lambda _: Codec().encode(paged_segment(Built.segment(2, 9), SYSTEM, TWO)),
        "its content is not what its checksum says",
    ),
    "half a segment": (lambda body: Codec().encode(Codec().decode(".zst", body, MIB)[: MIB // 2]), "checksum"),
}


def test_a_window_ends_at_a_damaged_object(built: Built, verify: Verifier) -> None:
    """What a restore can reach: it stops there."""
    whole(built)
    key = built.key(1, 4)
    built.replace(key, built.body(key)[:-1])
    windows = verify(deep=True).document["windows"]
    assert [(window["first"][-1], window["last"][-1], window["segments"]) for window in windows] == [
        ("3", "3", 1),
        ("5", "7", 3),
    ]
    text = verify(deep=True, json=False).out
    assert "WAL       0/300000 to 0/400000, 1 segment\n          0/500000 to 0/800000, 3 segments" in text


@pytest.mark.parametrize("kind", DAMAGES)
def test_what_a_store_can_do_to_an_object_is_found_and_named(built: Built, verify: Verifier, kind: str) -> None:
    damage, what = DAMAGES[kind]
    whole(built)
    key = built.key(2, 6)
    built.replace(key, damage(built.body(key)))
    assert verify().kinds == ["times_unread"]  # not to be seen in a listing
    said = verify(deep=True)
    assert said.code == 1
    found = said.finding("object_damaged")
    assert found["key"] == key
    assert what in found["text"]
    assert said.document["deep"]["segments"] == 5
    assert said.document["deep"]["damaged"] == 1


WRONG: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "another segment": (
        lambda _: Codec().encode(paged_segment(Built.segment(2, 9), SYSTEM, TWO)),
        "its first page is that of 0/900000",
    ),
    "another cluster": (
        lambda _: Codec().encode(paged_segment(Built.segment(2, 6), SYSTEM + 1, TWO)),
        "its system identifier is",
    ),
    "half a segment": (
        lambda body: Codec().encode(Codec().decode(".zst", body, MIB)[: MIB // 2]),
        "a whole segment has 1048576",
    ),
    "a page of another place": (page_damage, "it says that it is the page of"),
    "no pages": (
        lambda _: Codec().encode(long_header(Built.segment(2, 6), SYSTEM).ljust(1 << 20, b"w")),
        "its magic is",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_where_no_checksum_was_kept_the_content_itself_is_looked_at(built: Built, verify: Verifier, kind: str) -> None:
    damage, what = WRONG[kind]
    whole(built)
    key = built.key(2, 6)
    built.replace(key, damage(built.body(key)), metadata={})
    said = verify(deep=True)
    assert said.code == 1
    found = said.finding("object_damaged")
    assert found["key"] == key
    assert what in found["text"]


def test_an_object_without_metadata_is_good_by_what_it_holds(built: Built, verify: Verifier) -> None:
    whole(built)
    key = built.key(2, 6)
    built.replace(key, built.body(key), metadata={})
    said = verify(deep=True)
    assert said.code == 0
    assert said.finding("no_checksum")["count"] == 1


def test_every_damaged_object_is_named(built: Built, verify: Verifier) -> None:
    whole(built)
    damaged = [built.key(1, 3), built.key(2, 5), built.key(2, 7)]
    for key in damaged:
        built.replace(key, built.body(key)[:-3])
    built.replace(built.key(1, 4), None)
    said = verify(deep=True)
    assert said.kinds == ["gap", "object_damaged", "object_damaged", "object_damaged"]
    assert [each["key"] for each in said.document["findings"] if each["kind"] == "object_damaged"] == damaged


def test_an_object_that_goes_away_meanwhile_is_damage(
    built: Built, verify: Verifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole(built)
    key, got = built.key(2, 6), DirectoryStore.get
    monkeypatch.setattr(
        DirectoryStore, "get", lambda store, asked, *limit: None if asked == key else got(store, asked, *limit)
    )
    assert "listed, and not there" in verify(deep=True).finding("object_damaged")["text"]


# --- encryption -----------------------------------------------------------------------------------------------------


def keys(directory: Path, name: str) -> tuple[str, Path]:
    identity = pyrage.x25519.Identity.generate()
    file = directory / name
    file.write_text(f"{identity}\n")
    return str(identity.to_public()), file


def test_encrypted_objects_are_looked_into_with_the_identity_and_said_to_be_closed_without(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipient, identity = keys(tmp_path, "identity")
    built = Built(tmp_path, codec=Codec(recipients=(recipient,)))
    whole(built)
    verify = Verifier(built, capsys, monkeypatch)
    said = verify(deep=True)
    assert (said.code, said.kinds) == (2, ["locked"])
    assert said.document["deep"]["locked"] == 5
    assert "no identity" in said.finding("locked")["text"]
    verify.built.config = replaced(built, identity)
    assert verify(deep=True).code == 0
    key = built.key(2, 6, ".zst.age")
    built.replace(key, built.body(key)[:-1])
    said = verify(deep=True)
    assert said.code == 1
    assert said.finding("object_damaged")["key"] == key
    verify.built.config = replaced(built, keys(tmp_path, "another")[1])
    said = verify(deep=True)
    assert (said.code, said.kinds) == (2, ["locked"])  # a body that no key opens may be damaged or not


def test_two_objects_of_one_name_are_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipient, identity = keys(tmp_path, "identity")
    built = Built(tmp_path)
    whole(built)
    verify = Verifier(built, capsys, monkeypatch)
    built.config = dataclasses.replace(replaced(built, identity), plain_before="F" * 24)

    def put_beside(number: int) -> None:
        plain = paged_segment(built.segment(2, number), SYSTEM, TWO)
        built.store.create(built.key(2, number, ".zst.age"), Codec(recipients=(recipient,)).encode(plain), {})

    put_beside(6)
    said = verify(deep=True)
    assert (said.code, said.document["deep"]["segments"]) == (0, 5)
    put_beside(7)  # without the zeros that the other one has
    said = verify(deep=True)
    assert said.code == 1
    assert "other bytes than the object of the same name" in said.finding("object_damaged")["text"]


def test_a_damaged_object_beside_a_whole_one_is_a_note(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    built = Built(tmp_path)
    whole(built)
    built.replace(built.key(2, 6), built.body(built.key(2, 6))[:-10])
    built.put(TWO, 6)
    said = Verifier(built, capsys, monkeypatch)(deep=True)
    assert (said.code, said.document["deep"]["segments"]) == (0, 5)
    assert "another object of that segment is whole" in said.finding("damaged_beside_whole")["text"]


# --- a store that fails meanwhile -----------------------------------------------------------------------------------


def failing(monkeypatch: pytest.MonkeyPatch, fails: Callable[[str, int], bool]) -> None:
    got, asked = DirectoryStore.get, dict[str, int]()

    def get(store: DirectoryStore, key: str, limit: int = MAX_OBJECT) -> Body | None:
        asked[key] = asked.get(key, 0) + 1
        if "/wal/" in key and fails(key, asked[key]):
            raise StoreUnavailable(f"{key}: no answer")
        return got(store, key, limit)

    monkeypatch.setattr(DirectoryStore, "get", get)


def test_a_store_that_stumbles_is_asked_again(built: Built, verify: Verifier, monkeypatch: pytest.MonkeyPatch) -> None:
    whole(built)
    failing(monkeypatch, lambda _, times: times < retry.ATTEMPTS)
    assert verify(deep=True).code == 0


def test_an_object_that_cannot_be_read_is_named_and_the_rest_looked_at(
    built: Built, verify: Verifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole(built)
    failing(monkeypatch, lambda key, _: key == built.key(1, 4))
    said = verify(deep=True)
    assert (said.code, said.kinds) == (2, ["object_unread"])
    assert said.document["deep"]["segments"] == 5


def test_a_store_that_is_away_is_not_asked_for_every_object(
    built: Built, verify: Verifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    built.put(ONE, 3)
    for number in range(4, 200):
        built.store.create(built.key(1, number), b"x", {})
    built.record(1, 200)
    failing(monkeypatch, lambda *_: True)
    said = verify(deep=True)
    assert said.code == 2
    assert said.finding("not_looked_at")["count"] > 100


def test_work_in_parallel_is_bounded_and_an_error_ends_it() -> None:
    assert sorted(in_parallel(lambda number: number * 2, range(50), 4)) == list(range(0, 100, 2))

    def fails(number: int) -> int:
        if number == 5:
            raise StoreUnavailable("no")
        return number

    with pytest.raises(StoreUnavailable):
        list(in_parallel(fails, itertools.count(), 2))
    assert list(in_parallel(lambda thing: thing, [], 3)) == []
