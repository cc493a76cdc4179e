"""Damage in one of two stores, with a real server's bytes: what is restored, and replayed, comes from the other."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.fixtures.bare_host import BareHost
from tests.fixtures.taken import Place
from tests.parts.postgres import REPLICATOR, Postgres
from tests.parts.processes import new_directory, wait_until
from walkeeper.core.backup import Backup

pytestmark = pytest.mark.postgres


class Two:
    """One server's archives. ``far`` lacks the last segment, and each store has a backup of its own from before ``a``."""

    def __init__(self, server: Postgres) -> None:
        server.execute("ALTER SYSTEM SET wal_keep_size = '256MB'")  # neither recycles what the other has not stored
        server.execute("SELECT pg_reload_conf()")
        self.main = Place(server)
        server.execute(f"DROP ROLE {REPLICATOR}")  # each makes it
        self.far = Place(server)
        server.execute("CREATE TABLE said (word text)")
        self.backups: dict[str, Backup] = {}
        for name, place in (("main", self.main), ("far", self.far)):
            assert place.take() == 0
            self.backups[name] = place.taken()
        self.segments = []
        for word in "abcd":
            server.execute(f"INSERT INTO said VALUES ('{word}')")
            self.segments.append(str(server.value("SELECT pg_walfile_name(pg_current_wal_insert_lsn())")))
            for place in (self.main, self.far) if word != "d" else (self.main,):
                place.archive_wal()
        server.stop()
        self.host = BareHost(self.main)
        stores = [self.main.store_section, {"name": "far", **self.far.store_section}]
        self.host.config.write_text(yaml.safe_dump({"scope": "demo", "walkeeper": {"stores": stores}}))

    def wal(self, place: Place, word: str) -> Path:
        (found,) = (place.root / "wal").glob(f"*/{self.segments['abcd'.index(word)]}.zst")
        return found


@pytest.fixture
def two() -> Iterator[Two]:
    with Postgres(new_directory("p")) as server:
        two = Two(server)
        yield two
        two.host.host.kill9()


def damage(path: Path) -> None:
    """As a disk does: one bit, and the size stays."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_p14_damage_in_one_store_is_met_noted_and_restored_around_from_the_other(two: Two) -> None:
    main, far = two.backups["main"].id, two.backups["far"].id
    assert main != far, "two stores never have the same backup"
    piece = max((two.main.root / "backup" / main / "data").iterdir(), key=lambda path: path.stat().st_size)
    damage(piece)
    damage(two.wal(two.main, "b"))
    words = ["restore", "--data-dir", str(two.host.data)]
    failed = two.host.run(*words)
    assert failed.returncode == 1, failed.stdout + failed.stderr
    assert "Traceback" not in failed.stderr
    assert piece.name in failed.stderr
    assert not (two.host.data / "global/pg_control").exists()
    hint = re.search(r"the same command with (--backup \S+ --delta)", " ".join(failed.stderr.split()))
    assert hint, failed.stderr
    assert far in hint[1]
    planned = two.host.run("restore", "--data-dir", str(two.host.directory / "other"), "--dry-run", "--json")
    document = json.loads(planned.stdout)
    assert (document["store"], document["backup"], document["damage"]) == ("far", far, None)
    assert main in document["stores_passed_over"][0]
    two.wal(two.main, "c").unlink()
    done = two.host.run(*words, *hint[1].split(), "--json")
    assert done.returncode == 0, done.stderr
    two.host.start(json.loads(done.stdout))
    log = two.host.data / "walkeeper.log"
    wait_until(lambda: two.host.value("SELECT NOT pg_is_in_recovery()"), "the end of the recovery", logs=[log])
    assert two.host.value("SELECT string_agg(word, '' ORDER BY word) FROM said") == "abcd"


def test_p14_a_hole_in_one_store_is_read_over_from_the_other_and_both_are_pinned(two: Two) -> None:
    """Main has the only backup, and far the WAL that main lacks in the middle, and not its end."""
    shutil.rmtree(two.far.root / "backup")
    two.wal(two.main, "c").unlink()
    words = ["restore", "--data-dir", str(two.host.data)]
    told = two.host.run(*words, "--dry-run")
    assert "no store has all of it" in " ".join(told.stdout.split()), told.stdout + told.stderr
    done = two.host.run(*words, "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["store"], document["backup"]) == ("main", two.backups["main"].id)
    pins = [{path.name for path in (place.root / "pin").iterdir()} for place in (two.main, two.far)]
    assert len(pins[0]) == 1
    assert pins[0] == pins[1]
    two.host.start(document)
    log = two.host.data / "walkeeper.log"
    wait_until(lambda: two.host.value("SELECT NOT pg_is_in_recovery()"), "the end of the recovery", logs=[log])
    assert two.host.value("SELECT string_agg(word, '' ORDER BY word) FROM said") == "abcd"
