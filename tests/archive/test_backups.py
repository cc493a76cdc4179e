"""Base backups in a store in memory: their documents, their pieces, and the one object that decides."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyrage
import pytest

from tests.core.values import a_backup
from tests.fixtures.backed_up import piece_of, put_document, put_piece
from tests.fixtures.made_backup import made
from tests.twins.memory_store import MemoryStore
from walkeeper.archive.backups import Backups, Kind, Stored, order_of
from walkeeper.archive.codec import Codec
from walkeeper.archive.layout import Layout
from walkeeper.core import backup_index
from walkeeper.core.backup import BackupId, Tombstone
from walkeeper.core.backup_index import Part
from walkeeper.errors import BadBackup, CannotTell, StoreUnavailable
from walkeeper.store.base import ObjectInfo

ID = BackupId("20261128T020000Z", 3, "1a2b3c4d")
LAYOUT = Layout("demo", None, 7)
PLAIN = b"some bytes of a tar" * 100
SHA256 = hashlib.sha256(Codec().pack(PLAIN)).hexdigest()
PIECE = piece_of(Stored(SHA256, 10, was_present=False), PLAIN)
FOLDER = f"demo/7/backup/{ID}/"


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def backups(store: MemoryStore) -> Backups:
    return Backups(store, LAYOUT, Codec())


def test_a_piece_is_stored_once_under_the_name_of_its_frame(store: MemoryStore, backups: Backups) -> None:
    first = put_piece(backups, ID, PLAIN)
    again = put_piece(backups, ID, PLAIN)
    assert (first.was_present, again.was_present) == (False, True)
    assert first.packed_size == again.packed_size == len(store.objects[f"{FOLDER}data/{SHA256}.zst"][0])
    assert backups.pieces(ID) == {SHA256: first.packed_size}
    assert backups.read_piece(a_backup(ID), PIECE) == PLAIN


def test_p13_a_piece_that_is_shorter_than_it_was_stored_does_not_count(store: MemoryStore, backups: Backups) -> None:
    put_piece(backups, ID, PLAIN)
    key = f"{FOLDER}data/{SHA256}.zst"
    body, metadata = store.objects[key]
    store.objects[key] = (body[:-1], metadata)
    with pytest.raises(CannotTell, match=key):
        put_piece(backups, ID, PLAIN)
    with pytest.raises(CannotTell):
        backups.read_piece(a_backup(ID), PIECE)
    store.objects[key] = (Codec().encode(b"another's"), metadata)
    with pytest.raises(CannotTell, match="not what its name says"):
        backups.read_piece(a_backup(ID), PIECE)
    del store.objects[key]
    with pytest.raises(CannotTell, match="not there"):
        backups.read_piece(a_backup(ID), PIECE)


def test_p13_what_states_nothing_of_itself_is_read_before_a_second_attempt_takes_it_over(
    store: MemoryStore, backups: Backups
) -> None:
    """As in a directory whose file system keeps no extended attributes."""
    kinds: tuple[Kind, ...] = ("order", "index")
    put_piece(backups, ID, PLAIN)
    for kind in kinds:
        put_document(backups, ID, kind, PLAIN)
    store.objects = {key: (body, {}) for key, (body, _) in store.objects.items()}
    assert put_piece(backups, ID, PLAIN).was_present
    assert all(put_document(backups, ID, kind, PLAIN).was_present for kind in kinds)
    store.objects = {key: (body[:-1] + bytes([body[-1] ^ 1]), {}) for key, (body, _) in store.objects.items()}
    with pytest.raises(CannotTell, match="with other bytes"):
        put_piece(backups, ID, PLAIN)
    for kind in kinds:
        with pytest.raises(CannotTell, match="with other bytes"):
            put_document(backups, ID, kind, PLAIN)


def test_p13_an_encrypted_one_that_states_nothing_is_opened_where_there_is_a_key(
    store: MemoryStore, tmp_path: Path
) -> None:
    identity = pyrage.x25519.Identity.generate()
    file = tmp_path / "identity"
    file.write_text(f"{identity}\n")
    blind = Backups(store, Layout("demo", None, 7), Codec(recipients=(str(identity.to_public()),)))
    sees = Backups(store, Layout("demo", None, 7), replace(blind.codec, identity_file=file))
    put_piece(blind, ID, PLAIN)
    put_document(blind, ID, "index", PLAIN)
    store.objects = {key: (body, {}) for key, (body, _) in store.objects.items()}
    assert put_piece(sees, ID, PLAIN).was_present
    assert put_document(sees, ID, "index", PLAIN).was_present
    other = blind.codec.seal(blind.codec.pack(b"another's" * 40))
    store.objects = dict.fromkeys(store.objects, (other, {}))
    with pytest.raises(CannotTell, match="with other bytes"):
        put_piece(sees, ID, PLAIN)
    with pytest.raises(CannotTell, match="with other bytes"):
        put_document(sees, ID, "index", PLAIN)
    assert put_piece(blind, ID, PLAIN).was_present, "a limit, which docs/limits.md states"
    store.objects = {key: (body[:20] + b"x" + body[21:], {}) for key, (body, _) in store.objects.items()}
    with pytest.raises(CannotTell, match="with other bytes"):
        put_piece(sees, ID, PLAIN)


def test_a_frame_that_unpacks_to_other_bytes_than_the_index_says_is_not_the_piece(backups: Backups) -> None:
    stored = put_piece(backups, ID, PLAIN)
    for plain in (PLAIN[:-1] + b"?", PLAIN[:-1], PLAIN + b"?"):
        with pytest.raises(CannotTell, match=r"what the index says|cut short"):
            backups.read_piece(a_backup(ID), piece_of(stored, plain))


def test_whoever_comes_first_decides_between_backup_and_tombstone(store: MemoryStore, backups: Backups) -> None:
    assert backups.read(ID) is None
    backup, tombstone = a_backup(ID), Tombstone(id=str(ID), at="2026-11-29T02:00:00+00:00", why="given up")
    assert backups.commit(tombstone) == tombstone
    assert backups.commit(backup) == tombstone
    assert backups.read(ID) == tombstone
    store.objects[f"{FOLDER}backup.json"] = (b"{", {})
    with pytest.raises(BadBackup, match=str(ID)):
        backups.read(ID)


def test_all_ids_are_listed_without_their_pieces_and_nothing_strange(store: MemoryStore, backups: Backups) -> None:
    other = BackupId("20261127T020000Z", 2, "00000000")
    put_piece(backups, ID, PLAIN)
    backups.commit(a_backup(other))
    store.create("demo/7/backup/readme.txt", b"", {})
    store.create("demo/7/backup/readme/x", b"", {})
    assert backups.ids() == [other, ID]
    assert not any(what == "list" for what, _ in store.calls)


def test_an_index_is_given_out_only_after_it_was_proved(store: MemoryStore, backups: Backups) -> None:
    piece = piece_of(Stored(SHA256, 10, was_present=False), PLAIN, Part("PG_VERSION", "f", 0o600, 3, 0, 512, 3))
    stored = put_document(backups, ID, "index", backup_index.encode(piece) * 2)
    backup = a_backup(ID, index=stored.sha256)
    assert list(backups.index(backup)) == [piece, piece]
    key = f"{FOLDER}index-{stored.sha256}.zst"
    store.objects[key] = (Codec().encode(backup_index.encode(piece)), {})
    with pytest.raises(CannotTell, match="not what its name says"):
        backups.index(backup)


def test_p12_an_order_is_text_that_a_shell_can_read(store: MemoryStore, backups: Backups) -> None:
    stored = put_document(backups, ID, "order", order_of([SHA256, SHA256], ".zst"))
    order = store.objects[f"{FOLDER}order-{stored.sha256}"][0]
    assert order.decode().splitlines() == [f"{SHA256}.zst"] * 2
    put_piece(backups, ID, PLAIN)
    packed = store.objects[f"{FOLDER}data/{SHA256}.zst"][0]
    told = subprocess.run(["zstd", "-dc"], input=packed * 2, capture_output=True, check=True)
    assert told.stdout == PLAIN * 2  # as xargs cat gives them to zstd
    assert (
        subprocess.run(["sha256sum"], input=packed, capture_output=True, check=True).stdout.split()[0].decode()
        == SHA256
    )


def test_encrypted_pieces_and_documents_come_back_and_are_not_in_the_clear(store: MemoryStore) -> None:
    identity = pyrage.x25519.Identity.generate()
    backups = Backups(store, LAYOUT, Codec(recipients=(str(identity.to_public()),)))
    put_piece(backups, ID, PLAIN)
    stored = put_document(backups, ID, "manifest", PLAIN)
    assert {f"{FOLDER}data/{SHA256}.zst.age", f"{FOLDER}manifest-{stored.sha256}.zst.age"} == set(store.objects)
    assert not any(b"some bytes" in body for body, _ in store.objects.values())


def test_an_attempt_takes_over_only_what_is_encrypted_for_the_same_recipients(store: MemoryStore) -> None:
    one, other = (str(pyrage.x25519.Identity.generate().to_public()) for _ in range(2))
    backups = Backups(store, LAYOUT, Codec(recipients=(one, other)))
    assert backups.claim(ID)
    put_piece(backups, ID, PLAIN)
    known = backups.pieces(ID)
    assert known
    same, fewer = (
        Backups(store, LAYOUT, Codec(recipients=(other, one))),
        Backups(store, LAYOUT, Codec(recipients=(one,))),
    )
    assert same.claim(ID, known)
    assert not fewer.claim(ID, known)
    assert not fewer.claim(ID, frozenset())  # no piece is stored yet, and the other run may just begin with it
    assert Backups(store, LAYOUT, Codec()).claim(ID, frozenset())
    assert [key for key in store.objects if "/recipients-" in key and one in key] == []
    for key in [key for key in store.objects if "/recipients-" in key]:
        del store.objects[key]
    assert not same.claim(ID, known)  # as of an older walkeeper, which did not say
    assert same.claim(ID, frozenset())


class Late(MemoryStore):
    """Lists what it had some time ago."""

    late = True

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return (info for info in super().list(prefix) if not (self.late and "/recipients-" in info.key))


def test_a_listing_that_is_late_says_nothing_of_other_recipients() -> None:
    store = Late()
    recipients = (str(pyrage.x25519.Identity.generate().to_public()),)
    backups = Backups(store, LAYOUT, Codec(recipients=recipients))
    with pytest.raises(StoreUnavailable, match="does not list it yet") as told:
        backups.claim(ID, frozenset())
    assert told.value.waiting_helps
    put_piece(backups, ID, PLAIN)
    with pytest.raises(StoreUnavailable, match="does not list it yet"):
        backups.claim(ID, backups.pieces(ID))
    store.late = False
    assert backups.claim(ID, backups.pieces(ID))
    store.late = True
    other = Backups(store, LAYOUT, Codec(recipients=(str(pyrage.x25519.Identity.generate().to_public()),)))
    assert not other.claim(ID, other.pieces(ID))  # which has said nothing of itself


def test_of_two_runs_for_other_recipients_at_once_one_at_most_goes_on(store: MemoryStore) -> None:
    one, other = (
        Backups(store, LAYOUT, Codec(recipients=(str(pyrage.x25519.Identity.generate().to_public()),)))
        for _ in range(2)
    )
    told: list[bool] = []

    def before(what: str, _: str) -> None:
        if what == "create":
            store.before = None
            told.append(other.claim(ID, frozenset()))

    store.before = before
    told.append(one.claim(ID, frozenset()))
    assert told == [True, False]


def test_p14_whatever_of_a_backup_with_a_tablespace_is_gone_a_look_does_not_call_it_whole(store: MemoryStore) -> None:
    backups = Backups(store, LAYOUT, Codec())
    backup = made(store, manifest=hashlib.sha256().hexdigest())
    assert backups.shows(backup) == "whole"
    whole = dict(store.objects)
    named = [key for key in whole if not key.endswith("backup.json")]
    assert sum("/order-" in key for key in named) == 2
    for key in named:
        store.objects.clear()
        store.objects.update({each: whole[each] for each in whole if each != key})
        assert backups.shows(backup) == "less", key
        assert backups.lacks(backup), key
