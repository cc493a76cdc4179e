"""Backups of real servers: what is stored restores by the shell lines of the documentation, and what must not count does not."""

from __future__ import annotations

import os
import re
import shutil
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import pyrage
import pytest

from tests.fixtures.taken import Place, clock_goes_back, run_shell, shell_lines, verifier
from tests.parts.postgres import Postgres
from tests.parts.processes import new_directory, wait_until
from walkeeper.backup import command
from walkeeper.core.backup import BackupId
from walkeeper.core.backup_job import DAMAGED
from walkeeper.core.lsn import Lsn
from walkeeper.core.windows import stopped_at
from walkeeper.errors import PostgresError
from walkeeper.postgres import base_backup
from walkeeper.store.directory.driver import DirectoryStore

pytestmark = pytest.mark.postgres

BY_HAND: Final = "## Restore without walkeeper"
ROWS: Final = 60_000
"""Some 20 MB: more than what lies in buffers between the server and us."""


def checksums(server: Postgres) -> None:
    server.init()
    server.host.run([server.bin_dir / "pg_checksums", "--enable", "--no-sync", "-D", server.data])


@pytest.fixture(scope="module")
def primary() -> Iterator[Postgres]:
    server = Postgres(new_directory("b") / "pg", settings={"wal_keep_size": "256MB"})
    checksums(server)
    with server:
        server.execute(
            "CREATE TABLE t AS SELECT g AS n, md5(g::text) || repeat('x', 250) AS m FROM generate_series(1, %s) g",
            [ROWS],
        )
        odd = server.directory / 'odd " \\ $HOME é'
        odd.mkdir()
        server.execute(f"CREATE TABLESPACE odd LOCATION '{odd}'")
        server.execute("CREATE TABLE u TABLESPACE odd AS SELECT n FROM t WHERE n <= 1000")
        server.execute("CREATE UNLOGGED TABLE w AS SELECT n FROM t WHERE n <= 10")
        yield server


@pytest.fixture(scope="module")
def place(primary: Postgres) -> Place:
    return Place(primary)


@pytest.fixture
def at_first(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Does that when the first bytes have come, in the thread that reads."""

    def do(what: Callable[[], object]) -> None:
        once = iter([what])

        def moved(_: object, __: int) -> None:
            for each in once:
                each()

        monkeypatch.setattr(command._Meter, "moved", moved)

    return do


@contextmanager
def by_hand(place: Place, key: Path | None = None) -> Iterator[Postgres]:
    """Restored by the documented lines and started; its WAL comes by the documented script. ``key``: age's, if it is encrypted."""
    directory = new_directory("h")
    restored = Postgres(directory / "pg", place.server.bin_dir)
    backup = place.taken()
    variables = {
        "A": place.root, "B": place.root / "backup" / backup.id, "D": restored.data, "R": directory / "wal-from-store",
        "PATH": f"{verifier(restored)}:{os.environ['PATH']}", "C": "cat" if key is None else f"age -d -i {key}",
        "E": "" if key is None else ".age",
    }  # fmt: skip
    data, tablespace, verify, wal = shell_lines("backups.md", BY_HAND)
    run_shell(data, variables, directory)
    for each in backup.tablespaces:
        run_shell(tablespace, variables | {"oid": each.oid, "T": directory / f"space-{each.oid}"}, directory)
    run_shell(verify, variables, directory)
    run_shell(wal, variables, directory)
    (restored.data / "pg_hba.conf").write_text("local all all trust\nhost all all 127.0.0.1/32 trust\n")
    restored.configure({})
    try:
        restored.start()
        wait_until(lambda: not restored.value("SELECT pg_is_in_recovery()"), "the end of recovery", logs=[restored.log])
        yield restored
    finally:
        restored.close()


def test_p12_a_backup_restores_by_the_documented_shell_lines(
    place: Place, primary: Postgres, capsys: pytest.CaptureFixture[str]
) -> None:
    with primary.connect() as session:
        session.execute("CREATE TEMPORARY TABLE gone AS SELECT 1")
        assert place.take() == 0
    said = capsys.readouterr()
    backup = place.taken()
    assert said.out.startswith(f"Backup    {backup.id}\n")
    assert f"From      {backup.start.lsn} on timeline 1\n" in said.out
    assert "backup_begins" in said.err
    primary.execute("INSERT INTO u SELECT -1")
    place.archive_wal()
    with by_hand(place) as restored:
        for query in (
            "SELECT count(*), sum(n), sum(hashtext(m)) FROM t",
            "SELECT count(*), sum(n) FROM u",
            "SELECT count(*) FROM pg_class",
        ):
            assert restored.execute(query) == primary.execute(query)
        assert restored.value("SELECT count(*) FROM w") == 0  # unlogged


@pytest.mark.skipif(shutil.which("age") is None, reason="age is not installed")
def test_p12_an_encrypted_one_does_with_age(place: Place, primary: Postgres) -> None:
    """Its WAL is plain where it was stored before."""
    identity = pyrage.x25519.Identity.generate()
    key = place.directory / "age-key"
    key.touch(mode=0o600)
    key.write_text(f"{identity}\n")
    primary.execute("INSERT INTO u SELECT -2")
    place.archive_wal()
    place.configure(primary, encryption={"recipients": [str(identity.to_public())]})
    try:
        assert place.take() == 0
        primary.execute("INSERT INTO u SELECT -3")
        place.archive_wal()
    finally:
        place.configure(primary)
    assert place.taken().suffix == ".zst.age"
    with by_hand(place, key) as restored:
        for query in ("SELECT count(*), sum(n), sum(hashtext(m)) FROM t", "SELECT count(*), sum(n) FROM u"):
            assert restored.execute(query) == primary.execute(query)


def test_a_backup_that_nobody_can_be_told_of_is_stored(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    with suppress(OSError), open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert place.take() == 0
    assert place.last is not None
    assert place.taken().id == str(place.last)


def test_what_backup_json_says_is_what_the_server_says(place: Place, primary: Postgres) -> None:
    assert place.take(max_rate=1024**3) == 0
    backup = place.taken()
    assert backup.version == int(primary.value("SHOW server_version_num"))
    assert (backup.checksums, backup.damage, backup.member, backup.size) == (True, (), "a", place.size)
    assert backup.system_identifier == str(primary.system_identifier)
    assert [each.location for each in backup.tablespaces] == [
        primary.value("SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'odd'")
    ]
    parts = [part for piece in place.backups.index(backup) for part in piece.parts]
    assert parts[-1].path == "global/pg_control"
    assert sum(part.length for part in parts) == backup.bytes
    assert len({part.path for part in parts if part.kind == "f"}) == backup.files
    assert not any(part.path.startswith("pg_wal/0") for part in parts)
    assert {piece.sha256: piece.packed_size for piece in place.backups.index(backup)} == place.backups.pieces(
        BackupId.parse(backup.id)
    )


def test_tables_that_grow_are_dropped_and_made_meanwhile_do_no_harm(
    place: Place, primary: Postgres, at_first: Callable[[Callable[[], object]], None]
) -> None:
    for name in ("grows", "goes"):
        primary.execute(f"CREATE TABLE {name} AS SELECT n FROM t WHERE n <= 50000")

    def change() -> None:
        primary.execute("INSERT INTO grows SELECT * FROM grows")
        primary.execute("DROP TABLE goes")
        primary.execute("CREATE TABLE new AS SELECT 1 AS n")
        primary.checkpoint()

    at_first(change)
    assert place.take() == 0
    place.archive_wal()
    with by_hand(place) as restored:
        assert restored.value("SELECT count(*) FROM grows") == 100_000
        assert restored.value("SELECT count(*) FROM new") == 1
        assert restored.value("SELECT to_regclass('goes')") is None
    primary.execute("DROP TABLE grows, new")


def test_two_backups_at_once_are_two_backups(place: Place) -> None:
    before = place.ids()
    codes: list[int] = []
    threads = [threading.Thread(target=lambda: codes.append(place.take())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == [0, 0]
    made = place.ids() - before
    assert len(made) == 2
    assert all(place.backups.read(each) is not None for each in made)


def test_p5_a_server_of_another_cluster_and_one_without_an_archive_are_refused(
    place: Place, primary: Postgres, capsys: pytest.CaptureFixture[str]
) -> None:
    (start,) = (place.root / "start").iterdir()
    moved = start.rename(place.directory / "start.json")
    assert place.take() == 1
    said = capsys.readouterr().err
    assert "no archive of this server's cluster begins there" in said
    assert "HINT: Start the agent first" in said
    text = moved.read_text()
    start.write_text(text.replace(str(int(place.size)), str(int(place.size) * 16)))
    assert place.take() == 1
    assert "its segments have 16777216 bytes, this server's have 1048576" in capsys.readouterr().err
    start.unlink()
    moved.rename(start)
    later = start.rename(start.with_name("000000010000000100000000.json"))
    assert place.take() == 1
    assert "before the archive, which begins with 000000010000000100000000" in capsys.readouterr().err
    shutil.copy(later, start)  # what somebody states besides stops nothing
    assert place.take() == 0
    later.unlink()
    assert "not finished" not in said


def test_a_store_that_overwrites_is_refused_before_anything_is_stored(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    create = DirectoryStore.create

    def overwrite(store: DirectoryStore, key: str, body: bytes, metadata: Mapping[str, str]) -> None:
        (place.store / key).unlink(missing_ok=True)
        create(store, key, body, metadata)

    before = place.ids()
    monkeypatch.setattr(DirectoryStore, "create", overwrite)
    assert place.take() == 1
    said = capsys.readouterr().err
    assert "it overwrites objects" in said
    assert "HINT:" in said
    assert place.ids() == before


def test_a_role_that_may_not_replicate_is_told_so(
    place: Place, primary: Postgres, capsys: pytest.CaptureFixture[str]
) -> None:
    primary.execute('CREATE ROLE "Reader-2" LOGIN; CREATE ROLE reader LOGIN')
    place.configure(primary, "Reader-2")
    try:
        assert place.take() == 1
        said = capsys.readouterr().err
        assert "role 'Reader-2' may not replicate" in said
        statement = re.search(r"HINT: As a superuser: (ALTER ROLE [^;]+);", said)
        assert statement
        primary.execute(statement[1])  # as it is printed
        assert place.take() == 0
    finally:
        place.configure(primary)
    settings = place.config.postgresql
    sender = base_backup.BackupStream(type(settings)(settings.host, settings.port, "reader", None, "postgres", ()))
    with pytest.raises(PostgresError) as caught, sender:
        pass
    assert "attribute REPLICATION" in caught.value.hint


def test_an_id_that_cannot_be_resumed_is_refused(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert place.take() == 0
    for id_, why in (
        (str(place.last), "it is stored already"),
        ("20261128T020000Z-00000001-00000000", "nothing of it is stored"),
        ("latest", "not the id of a backup"),
    ):
        assert place.take(resume=id_) == 1
        assert why in capsys.readouterr().err


def test_an_attempt_for_other_recipients_is_not_gone_on_with(
    place: Place, primary: Postgres, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = (str(pyrage.x25519.Identity.generate().to_public()) for _ in range(2))
    place.configure(primary, encryption={"recipients": [one]})
    try:
        assert place.take() == 0
        id_ = str(place.last)
        (place.root / "backup" / id_ / "backup.json").unlink()
        place.configure(primary, encryption={"recipients": [other]})
        capsys.readouterr()
        assert place.take(resume=id_) == 1
        assert f"backup {id_}: what is stored of it is encrypted for other recipients" in capsys.readouterr().err
        assert place.take(job=id_) == DAMAGED
        place.configure(primary, encryption={"recipients": [one]})
        assert place.take(resume=id_) == 0
        assert " of them sent now\n" in capsys.readouterr().out
    finally:
        place.configure(primary)


def test_p14_a_page_with_a_wrong_checksum_makes_it_damaged(
    short_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = Postgres(short_path / "pg")
    checksums(server)
    with server:
        place = Place(server)
        server.execute("CREATE TABLE broken AS SELECT generate_series(1, 10000) AS n")
        file = str(server.value("SELECT pg_relation_filepath('broken')"))
        server.stop()
        with (server.data / file).open("r+b") as relation:
            relation.seek(8192 + 5000)
            relation.write(b"not what was written")
        server.start()
        assert place.take() == 1
        backup = place.taken()
        assert file in backup.damage[0]
        assert "block 1" in backup.damage[0]
        said = capsys.readouterr()
        assert f"Damage    {backup.damage[0]}\n" in said.out
        assert f"backup {backup.id}: damaged: " in said.err


def test_a_server_that_dies_in_the_middle_leaves_an_attempt_that_is_begun_again(
    make_postgres: Callable[..., Postgres], at_first: Callable[[Callable[[], object]], None],
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    server = make_postgres()
    place = Place(server)
    server.execute(
        "CREATE TABLE t AS SELECT g AS n, md5(g::text) || repeat('x', 1000) AS m FROM generate_series(1, 60000) g"
    )
    server.checkpoint()
    enough = 24 * 1024 * 1024

    def moved(meter: object, came: int) -> None:
        if came > enough and server.running:
            wait_until(lambda: len(list(place.root.glob("backup/*/data/*"))) > 0, "a piece in the store")
            server.kill9()

    monkeypatch.setattr(command._Meter, "moved", moved)
    assert place.take() == 1
    id_ = place.last
    said = capsys.readouterr().err
    assert f"HINT: walkeeper backup --resume {id_} " in said
    assert place.attempted() is None
    monkeypatch.undo()
    server.start()
    assert place.take(resume=str(id_)) == 0
    assert place.ids() == {id_}
    assert " of them sent now\n" in capsys.readouterr().out


def standby_of(primary: Postgres, directory: Path) -> Postgres:
    standby = Postgres(directory, settings={"wal_keep_size": "256MB"})
    primary.base_backup(standby.data, wal="stream")
    standby.data.chmod(0o700)
    standby.configure({"primary_conninfo": primary.conninfo(socket=True)})
    (standby.data / "standby.signal").touch()
    return standby


def test_a_standby_is_backed_up_and_one_that_is_promoted_meanwhile_or_without_full_pages_is_not(
    make_postgres: Callable[..., Postgres], short_path: Path, at_first: Callable[[Callable[[], object]], None],
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    server = make_postgres(settings={"wal_keep_size": "256MB"})
    place = Place(server)
    server.execute("CREATE TABLE t AS SELECT g AS n, repeat('x', 1000) AS m FROM generate_series(1, 20000) g")
    clock_goes_back(server)
    with standby_of(server, short_path / "standby") as standby:
        place.configure(standby)
        committed = server.value("SELECT now()")
        server.execute("CREATE TABLE later ()")
        replayed(standby, server.lsn())
        assert place.take() == 0
        backup = place.taken()
        assert backup.stop.position >= backup.start.position
        assert stopped_at(backup) >= committed
        server.execute("INSERT INTO t SELECT 0, ''")
        place.archive_wal()
        with by_hand(place) as restored:
            assert restored.value("SELECT count(*) FROM t") == 20001
        server.execute("ALTER SYSTEM SET full_page_writes = off")
        server.execute("SELECT pg_reload_conf()")
        server.checkpoint()
        server.execute("INSERT INTO t SELECT 0, ''")
        replayed(standby, server.lsn())
        assert place.take() == 1
        said = capsys.readouterr().err
        assert "full_page_writes" in said
        assert "HINT: Set full_page_writes = on on the primary" in said
        server.execute("ALTER SYSTEM RESET full_page_writes")
        server.execute("SELECT pg_reload_conf()")
        server.execute("INSERT INTO t SELECT 0, ''")
        server.checkpoint()
        replayed(standby, server.lsn())
        standby.checkpoint()
        at_first(standby.promote)
        before = list(place.root.glob("backup/*/backup.json"))
        assert place.take() == 1
        said = capsys.readouterr().err
        assert "promoted" in said
        assert "HINT: Begin again: the new primary" in said
        assert list(place.root.glob("backup/*/backup.json")) == before
        monkeypatch.undo()
        assert place.take() == 0
        assert place.taken().stop.timeline == 2


def replayed(standby: Postgres, lsn: str) -> None:
    wait_until(
        lambda: Lsn.parse(str(standby.value("SELECT pg_last_wal_replay_lsn()"))) >= Lsn.parse(lsn),
        f"{lsn} on the standby",
    )


def test_a_server_that_says_nothing_any_more_is_not_waited_for_for_ever(place: Place, primary: Postgres) -> None:
    class Sink:
        def begin(self, tablespace: int) -> None:
            primary.host.pause()

        def feed(self, data: memoryview) -> None:
            pass

        def manifest(self, data: memoryview) -> None:
            pass

    try:
        with base_backup.BackupStream(place.config.postgresql, silence=0.5) as sender:
            sender.begin(base_backup.Request("silent"))
            with pytest.raises(PostgresError, match="it says nothing any more"):
                sender.copy(Sink())
    finally:
        primary.host.resume()
