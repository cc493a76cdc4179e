"""``walkeeper verify`` with base backups: which are complete, what of them is missing or damaged, and what can be restored."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from tests.fixtures.archives import FOUR, ONE, THREE, TWO, Built, Verifier
from tests.fixtures.backed_up import put_backup
from walkeeper.archive import proofs
from walkeeper.archive.backups import Backups
from walkeeper.archive.codec import Codec
from walkeeper.archive.open import open_archives
from walkeeper.archive.proofs import damaged, write_proof
from walkeeper.core.backup import Backup, BackupId, Tombstone
from walkeeper.core.backup_index import Part, Piece
from walkeeper.core.lsn import MIB, Lsn
from walkeeper.core.proof import Proof
from walkeeper.errors import StoreDenied, StoreUnavailable
from walkeeper.lib import retry
from walkeeper.lib.clock import now_utc
from walkeeper.store.base import Body, Store

OLD = BackupId("20261127T020000Z", 1, "1a2b3c4d")
NEW = BackupId("20261128T020000Z", 4, "1a2b3c4d")


@pytest.fixture
def built(tmp_path: Path) -> Built:
    """Timelines 1, 2 and 4, the frontier before segment 11, and a backup in the first and the last."""
    built = Built(tmp_path)
    built.put(ONE, 3, 4)
    built.put_history(TWO, THREE, FOUR)
    built.put(TWO, *range(5, 8))
    built.put(FOUR, *range(8, 11))
    built.record(4, 11)
    put_backup(backups(built), OLD, Lsn(3 * MIB + 40), Lsn(4 * MIB + 256))
    put_backup(backups(built), NEW, Lsn(9 * MIB + 40), Lsn(9 * MIB + 256))
    return built


def backups(built: Built, codec: Codec | None = None) -> Backups:
    return Backups(built.store, built.archive.layout, codec or built.codec)


def keys(built: Built, id_: BackupId, kind: str) -> list[str]:
    return [info.key for info in built.store.list(f"{built.archive.layout.backup(id_)}{kind}")]


def states(found: dict) -> list[str]:  # type: ignore[type-arg]
    return [each["state"] for each in found["backups"]["backups"]]


def test_complete_backups_and_their_windows_are_told(built: Built, verify: Verifier) -> None:
    for deep in (False, True):
        said = verify(deep=deep)
        assert (said.code, said.kinds) == (0, [])
        found = said.document["backups"]
        assert (found["complete"], found["newest"]["id"], states(said.document)) == (2, str(NEW), ["complete"] * 2)
        assert [(each["start_lsn"], each["end_lsn"], each["timeline"]) for each in found["windows"]] == [
            ("0/400100", "0/B00000", 4)
        ]
        assert found["pieces_downloaded"] == (4 if deep else 0)
    text = verify(json=False).out
    assert "Backups   2 of 2 are complete, the newest of 2026-11-28 02:00:00 UTC" in text
    assert "Restore   0/400100 to 0/B00000 on timeline 4" in text
    assert "Proved    never: walkeeper verify --restore does a real restore" in text
    proof = Proof(backup=str(NEW), at="2026-11-28T10:15:00Z", timeline=4, lsn="0/A00028")
    write_proof(built.store, built.archive.layout, proof)
    said = verify()
    assert (said.notes, said.document["backups"]["proved"]["at"]) == (set(), proof.at)
    text = verify(json=False).out
    assert f"Proved    2026-11-28 10:15:00 UTC: {NEW}\n          restored up to 0/A00028 on timeline 4" in text


def test_p9_of_an_index_no_more_than_its_pieces_is_kept(
    built: Built, verify: Verifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cluster of a million files has some thousand pieces."""
    kept = most = 0

    class Files(tuple[Part, ...]):
        __slots__ = ()

        def __del__(self) -> None:
            nonlocal kept
            kept -= 1

    def index(self: Backups, backup: Backup) -> Iterator[Piece]:
        nonlocal kept, most
        for piece in original(self, backup):
            kept += 1
            most = max(most, kept)
            yield msgspec.structs.replace(piece, parts=Files(piece.parts))

    original = Backups.index
    monkeypatch.setattr(Backups, "index", index)
    put_backup(
        backups(built), BackupId("20261128T030000Z", 4, "1a2b3c4d"), Lsn(9 * MIB + 40), Lsn(9 * MIB + 256), pieces=9
    )
    assert verify(deep=True).code == 0
    assert most <= 2


def test_without_any_backup_nothing_is_said_of_them(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                                    monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    (tmp_path / "other").mkdir()
    built = Built(tmp_path / "other")
    built.put(ONE, 3, 4)
    verify = Verifier(built, capsys, monkeypatch)
    assert verify().document["backups"] is None
    assert "WAL       0/300000 to 0/500000, 2 segments" in verify(json=False).out


@pytest.mark.parametrize("kind", ["data/", "index-", "order-", "manifest-"])
def test_p14_what_is_missing_makes_a_backup_damaged_and_the_other_still_counts(
    built: Built, verify: Verifier, kind: str
) -> None:
    built.store.delete(keys(built, NEW, kind)[0])
    said = verify()
    assert (said.code, said.kinds) == (1, ["backup_damaged"])
    assert states(said.document) == ["complete", "damaged"]
    assert kind in said.finding("backup_damaged")["text"]
    assert "it is not there" in said.finding("backup_damaged")["text"]


def test_p15_a_listing_that_lacks_objects_is_asked_by_name_before_anything_is_called_damaged(
    built: Built, verify: Verifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden = {key for kind in ("data/", "order-", "manifest-") for key in keys(built, NEW, kind)}
    original = type(built.store).list
    monkeypatch.setattr(
        type(built.store), "list", lambda *asked: (each for each in original(*asked) if each.key not in hidden)
    )
    assert (verify().code, states(verify().document)) == (0, ["complete"] * 2)
    gone = sorted(key for key in hidden if "data/" in key)[1]
    built.store.delete(gone)
    said = verify()
    assert (said.code, said.kinds, states(said.document)) == (1, ["backup_damaged"], ["complete", "damaged"])
    assert f"{gone}: it is not there" in said.finding("backup_damaged")["text"]


def test_a_piece_that_was_shortened_is_found_by_the_listing(built: Built, verify: Verifier) -> None:
    key = keys(built, OLD, "data/")[1]
    built.replace(key, built.body(key)[:-1])
    said = verify()
    assert states(said.document) == ["damaged", "complete"]
    assert said.finding("backup_damaged")["text"] == f"backup {OLD}: {key}: it has another size than it was stored with"
    assert [each["start_lsn"] for each in said.document["backups"]["windows"]] == ["0/900100"]
    assert trials(built) == []
    verify(deep=True)
    assert [*damaged(built.store, built.archive.layout)] == [str(OLD)], "its length proves it as its bytes do"


def test_a_piece_with_other_bytes_is_found_by_deep(built: Built, verify: Verifier) -> None:
    key = keys(built, NEW, "data/")[0]
    body = built.body(key)
    built.replace(key, body[:-1] + bytes([body[-1] ^ 1]))
    assert verify().code == 0
    said = verify(deep=True)
    assert (said.code, said.kinds) == (1, ["backup_damaged"])
    assert key in said.finding("backup_damaged")["text"]


def trials(built: Built) -> list[str]:
    return [info.key for info in built.store.list(built.archive.layout.proofs)]


def test_p15_what_deep_finds_by_its_bytes_is_remembered_for_expire_until_it_is_proved(
    built: Built, verify: Verifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = keys(built, NEW, "data/")[0]
    body = built.body(key)
    built.replace(key, body[:-1] + bytes([body[-1] ^ 1]))
    assert verify().code == 0
    assert trials(built) == []
    monkeypatch.setattr(type(built.store), "create", _denied)
    said = verify(deep=True)
    assert (said.code, trials(built)) == (1, [])
    assert "expire does not know of it" in said.finding("backup_damaged")["hint"]
    monkeypatch.undo()
    verify = Verifier(built, verify.capsys, monkeypatch)
    for _ in range(2):
        said = verify(deep=True)
        assert said.code == 1
        assert (
            "counts this one again when it is proved: walkeeper verify --restore --to 0/900100"
            in (said.finding("backup_damaged")["hint"])
        )
    (note,) = trials(built)
    assert f"verify --deep: {key}: " in built.body(note).decode()
    assert [*damaged(built.store, built.archive.layout)] == [str(NEW)]
    built.replace(key, body)
    for deep in (False, True):
        said = verify(deep=deep)
        assert (said.code, said.kinds, states(said.document)) == (1, ["backup_damaged"], ["complete", "damaged"])
        assert f"backup {NEW}: it was found damaged at " in said.finding("backup_damaged")["text"]
        assert f"verify --deep: {key}: " in said.finding("backup_damaged")["text"]
    monkeypatch.setattr(proofs, "_AHEAD", timedelta(days=1))
    at = (now_utc() + timedelta(hours=2)).strftime("%Y-%m-%dT%H:%M:%SZ")
    write_proof(built.store, built.archive.layout, Proof(backup=str(NEW), at=at, timeline=4, lsn="0/A00028"))
    assert (verify().code, states(verify().document)) == (0, ["complete"] * 2)


@pytest.mark.parametrize("planted", [False, True])
def test_p15_with_authentication_codes_damage_is_remembered_and_what_helps_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *, planted: bool
) -> None:
    """A right code says which bytes there were. A planted object may be moved away, and the real one put back."""
    built = Built(tmp_path)
    built.put(ONE, 3, 4)
    built.record(1, 5)
    built.config = replace(built.config, authentication_keys=("k" * 64,), authentic_since="000000010000000000000005")
    keyed = open_archives(built.config).store
    put_backup(Backups(keyed, built.archive.layout, built.codec), OLD, Lsn(3 * MIB + 40), Lsn(4 * MIB + 256))
    key = keys(built, OLD, "data/")[0]
    body, other = built.store.get(key), built.store.get(keys(built, OLD, "index-")[0])
    assert body
    assert other
    built.store.delete(key)
    built.store.create(key, body[:-1] + bytes([body[-1] ^ 1]), other.metadata if planted else body.metadata)
    said = Verifier(built, capsys, monkeypatch)(deep=True)
    hint = said.finding("backup_damaged")["hint"]
    assert ("Somebody without the key stored it" if planted else "Restore from another one") in hint
    assert [*damaged(keyed, built.archive.layout)] == ([] if planted else [str(OLD)])


def test_for_each_damaged_backup_the_command_that_proves_it_is_shown(built: Built, verify: Verifier) -> None:
    for id_ in (OLD, NEW):
        note = Proof(backup=str(id_), at="2026-11-28T03:00:00Z", timeline=4, lsn="0/0", damage="pg_checksums: block 7")
        write_proof(built.store, built.archive.layout, note)
    out = " ".join(verify(json=False).out.split())
    for stop in ("0/400100", "0/900100"):
        assert f"when it is proved: walkeeper verify --restore --to {stop}" in out


def test_p15_what_deep_cannot_read_or_misses_leaves_no_note(
    built: Built, verify: Verifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """expire looks for what is there by itself, and it may be put back."""
    built.store.delete(keys(built, NEW, "manifest-")[0])
    gone, unread = keys(built, NEW, "data/")[0], keys(built, OLD, "data/")[0]
    built.store.delete(gone)
    monkeypatch.setattr(retry, "_WAIT", 0.0)
    original = type(built.store).get

    def get(store: Store, key: str, *limit: int) -> Body | None:
        if key == unread:
            raise StoreUnavailable("no answer")
        return original(store, key, *limit)

    monkeypatch.setattr(type(built.store), "get", get)
    said = verify(deep=True)
    assert (said.code, said.kinds) == (1, ["backup_damaged", "backup_unread"])
    assert trials(built) == []


def _denied(*_: object) -> None:
    raise StoreDenied("it may only be read")


def test_p14_a_segment_that_deep_finds_damaged_ends_the_window_before_it(built: Built, verify: Verifier) -> None:
    built.replace(built.key(2, 6), b"garbage")
    windows = verify(deep=True).document["backups"]["windows"]
    assert [(each["start_lsn"], each["end_lsn"]) for each in windows] == [
        ("0/900100", "0/B00000"),
        ("0/400100", "0/600000"),
    ] or [(each["start_lsn"], each["end_lsn"]) for each in windows] == [
        ("0/400100", "0/600000"),
        ("0/900100", "0/B00000"),
    ]


def test_p14_nothing_complete_is_damage_and_what_waits_for_its_wal_is_not(built: Built, verify: Verifier) -> None:
    for id_ in (OLD, NEW):
        built.store.delete(keys(built, id_, "backup.json")[0])
    put_backup(backups(built), BackupId("20261129T020000Z", 4, "1a2b3c4d"), Lsn(10 * MIB + 40), Lsn(11 * MIB + 8))
    said = verify()
    assert (said.code, said.kinds) == (0, [])
    assert said.notes >= {"backup_waits", "backup_attempt"}
    built.put_tail(FOUR, 11, 1000)
    assert verify().document["backups"]["complete"] == 1
    built.store.delete(keys(built, BackupId("20261129T020000Z", 4, "1a2b3c4d"), "backup.json")[0])
    put_backup(backups(built), BackupId("20261130T020000Z", 1, "1a2b3c4d"), Lsn(2 * MIB), Lsn(3 * MIB + 8))
    said = verify()
    assert (said.code, said.kinds) == (1, ["no_complete_backup"])
    assert "the archive begins with 000000010000000000000003" in said.finding("backup_incomplete")["text"]


def test_tombstones_attempts_and_what_cannot_be_read_are_kept_apart(built: Built, verify: Verifier) -> None:
    gone = BackupId("20261101T020000Z", 1, "00000000")
    backups(built).commit(Tombstone(id=str(gone), at="2026-11-02T02:00:00Z", why="never finished"))
    built.store.create(f"{built.archive.layout.backup(gone)[:-9]}11111111/backup.json", b"{}", {})
    said = verify()
    assert (said.code, said.kinds) == (1, ["backup_damaged"])
    assert "11111111: its backup.json cannot be used" in said.finding("backup_damaged")["text"]
    assert states(said.document) == ["complete", "complete"]


def test_an_index_that_no_key_here_opens_is_not_taken_for_damage(built: Built, verify: Verifier) -> None:
    recipient = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"
    locked = BackupId("20261129T020000Z", 4, "1a2b3c4d")
    put_backup(backups(built, Codec(1, (recipient,))), locked, Lsn(9 * MIB + 40), Lsn(9 * MIB + 256))
    said = verify()
    assert (said.code, said.kinds) == (2, ["backup_unread"])
    assert "identity_file" in said.finding("backup_unread")["hint"]
    assert states(said.document) == ["complete"] * 3


def test_plain_backups_of_an_archive_that_is_encrypted_since_say_what_helps(built: Built, verify: Verifier) -> None:
    recipient = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"
    built.config = replace(built.config, encryption_recipients=(recipient,))
    hints = [each["hint"] for each in verify().document["findings"] if each["kind"] == "backup_damaged"]
    assert ["encryption.plain_before" in hint for hint in hints] == [True, True]
    built.config = replace(built.config, plain_before="F" * 24)
    assert verify().code == 0


def test_a_floor_that_cannot_be_read_hides_no_gap(built: Built, verify: Verifier) -> None:
    built.store.create(built.archive.layout.floor(1), b"{}", {})
    said = verify()
    assert (said.code, said.kinds) == (2, ["floor_unread"])
    built.replace(built.key(2, 6), None)
    said = verify()
    assert (said.code, said.kinds) == (1, ["gap", "floor_unread"])
