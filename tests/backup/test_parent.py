"""How an incremental begins: how long it is waited for, and what is said of the leader's checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.fixtures.backed_up import put_backup
from tests.fixtures.made_backup import LAYOUT, made
from tests.twins.memory_store import MemoryStore
from walkeeper.archive.backups import Backups
from walkeeper.archive.codec import Codec
from walkeeper.archive.open import Archives
from walkeeper.archive.proofs import write_proof
from walkeeper.backup import parent
from walkeeper.backup.parent import Parent, begin_incremental, lacking, newest_chain
from walkeeper.config import Config
from walkeeper.core.backup import BackupId
from walkeeper.core.lsn import MIB, Lsn, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.core.proof import Proof
from walkeeper.core.record import Record
from walkeeper.errors import PostgresError
from walkeeper.lib import events
from walkeeper.postgres.base_backup import BEFORE_IT_BEGINS, BackupStream, Request
from walkeeper.postgres.server import ServerState


@dataclass
class Silent:
    """A walsender that never begins, or refuses."""

    given: list[float] = field(default_factory=list)

    def upload(self, manifest: bytes) -> None:
        pass

    def begin(self, request: Request, seconds: float) -> None:
        assert request.incremental
        self.given.append(seconds)
        raise PostgresError("it says nothing any more")


def begin(walsender: Silent, *, spread: bool = False, standby: bool = False) -> None:
    server, config = SimpleNamespace(in_recovery=standby), SimpleNamespace(postgresql=SimpleNamespace(user='the "one"'))
    begin_incremental(
        cast(Config, config),
        cast(BackupStream, walsender),
        Request("x", spread),
        Parent("p", b"{}"),
        cast(ServerState, server),
    )


def test_a_checkpoint_that_takes_its_time_gets_it() -> None:
    walsender = Silent()
    for spread in (False, True):
        with pytest.raises(PostgresError, match="it says nothing any more"):
            begin(walsender, spread=spread)
    assert walsender.given == [parent.BEGINS, BEFORE_IT_BEGINS]


def test_a_server_that_does_not_begin_is_said_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parent, "BEGINS", 0.0)
    with pytest.raises(PostgresError, match="the server did not begin within 0 s"):
        begin(Silent())


@pytest.mark.parametrize(
    ("refused", "told"),
    [
        (
            'permission denied to execute CHECKPOINT command DETAIL: Only roles with privileges of the "pg_checkpoint" role',
            True,
        ),
        ("connection refused", False),
    ],
)
def test_the_right_to_make_a_checkpoint_is_asked_for_only_where_it_is_lacking(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], refused: str, told: bool
) -> None:
    def records(_: Any) -> None:
        raise PostgresError(refused)

    events.to_stderr()
    monkeypatch.setattr(parent, "Server", lambda *_: SimpleNamespace(close=lambda: None))
    monkeypatch.setattr(parent, "open_records", records)
    with pytest.raises(PostgresError, match="nothing any more"):
        begin(Silent(), standby=True)
    said = capsys.readouterr().err
    assert ("no_checkpoint_on_leader" in said, 'grant pg_checkpoint to "the ""one""";' in said) == (True, told)


def test_a_parents_pieces_are_looked_for_by_their_names_as_they_were_stored() -> None:
    """Encryption may have been turned on since."""
    store = MemoryStore()
    backup = made(store)
    manifest = LAYOUT.backup_document(BackupId.parse(backup.id), "manifest", backup.manifest, ".zst")
    store.objects[manifest] = (b"x", {})
    backups = Backups(store, LAYOUT, cast(Codec, SimpleNamespace(suffix=".zst.age")))
    assert lacking(backups, [backup]) == ""
    del store.objects[key := next(key for key in store.objects if "/data/" in key)]
    leftover = f"{key.rpartition('/')[0]}/{'0' * 64}.zst"
    store.objects[leftover] = (bytes(1 << 20), {})  # of another attempt
    assert lacking(backups, [backup]) == f"{backup.id} is damaged: {key}: it is not there"


@pytest.mark.parametrize("recorded", [True, False], ids=["by the record", "by a listing"])
def test_an_incremental_builds_on_the_newest_backup_that_was_not_found_damaged(
    monkeypatch: pytest.MonkeyPatch, *, recorded: bool
) -> None:
    store = MemoryStore()
    archives = Archives(store, LAYOUT.scope, None, Codec())
    store.create(f"{LAYOUT.starts}000000010000000000000003.json", b"{}", {})
    for number in range(3, 10):
        store.create(LAYOUT.file(Segment(1, number, SegmentSize(MIB)), ".zst"), b"x", {})
    ids = [BackupId(f"2026112{day}T020000Z", 1, "00000001") for day in range(4)]
    for number, (id_, parent_of) in enumerate(zip(ids, ("", "", ids[1], ids[2]), strict=True), start=4):
        changed: dict[str, Any] = {"kind": "incremental", "parent": str(parent_of)} if parent_of else {}
        put_backup(archives.backups(7), id_, Lsn(number * MIB + 40), Lsn(number * MIB + 256), **changed)
    record = Record(
        system_identifier="7", segment_size=MIB, timeline=1, lsn="0/A00000", start="000000010000000000000003",
        owner="node1", session="x",
    )  # fmt: skip
    monkeypatch.setattr(parent, "ask_the_dcs", lambda _: SimpleNamespace(record=record if recorded else None))

    def newest() -> tuple[list[str], str]:
        server = SimpleNamespace(system_identifier=7, segment_size=SegmentSize(MIB))
        before = BackupId("20261125T020000Z", 1, "00000001")
        chain, passed = newest_chain(cast(Config, None), archives, cast(ServerState, server), before)
        return [each.id for each in chain], passed

    def damage(id_: BackupId) -> None:
        note = Proof(
            backup=str(id_), at="2026-11-28T02:00:00Z", timeline=1, lsn="0/0", damage=f"pg_checksums: {id_.at}"
        )
        write_proof(store, LAYOUT, note)

    assert newest() == ([*map(str, ids[1:])], "")
    damage(ids[3])
    chain, passed = newest()
    assert (chain, passed.startswith(f"{ids[3]}: "), "pg_checksums" in passed) == ([*map(str, ids[1:3])], True, True)
    damage(ids[1])
    assert newest()[0] == [str(ids[0])], "all that builds on it is damaged, too"
    damage(ids[0])
    chain, passed = newest()
    assert (chain, ids[3].at in passed) == ([], True)
