"""What each actor of SECURITY.md may do in a bucket, and what it cannot, tried on a real server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import botocore.session
import pyrage
import pytest
from botocore.exceptions import ClientError
from botocore.loaders import Loader
from msgspec.structs import replace

from tests.core.values import paged_segment
from tests.fixtures.bare_host import BareHost
from tests.fixtures.taken import Place
from tests.parts.postgres import Postgres
from tests.parts.processes import new_directory, wait_until
from tests.parts.seaweedfs import LEAST_ACTIONS, RESTORE_ACTIONS, SeaweedFS
from walkeeper.archive import life
from walkeeper.archive.codec import Codec
from walkeeper.archive.layout import Layout
from walkeeper.archive.read import Reader
from walkeeper.archive.write import Archive
from walkeeper.core.history import History
from walkeeper.core.lsn import MIB, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.errors import StoreDenied
from walkeeper.store.object_key import is_passing
from walkeeper.store.s3.driver import S3Store

LAYOUT = Layout("demo", None, 7300000000000000001)
SIZE = SegmentSize(MIB)
SEGMENT = Segment(1, 3, SIZE)


@pytest.fixture(scope="module")
def bucket() -> Iterator[SeaweedFS]:
    others = {"restore": RESTORE_ACTIONS, "elsewhere": ("Read:other", "Write:other", "List:other")}
    with SeaweedFS(actions=LEAST_ACTIONS, others=others) as server:
        yield server


def store_of(bucket: SeaweedFS, key: str) -> S3Store:
    return S3Store(replace(bucket.settings(), access_key_id=key))


def test_an_agent_archives_and_a_restore_host_reads_that_and_changes_nothing(bucket: SeaweedFS) -> None:
    plain = paged_segment(SEGMENT, LAYOUT.system_identifier, History(1))
    archive = Archive(store_of(bucket, bucket.access_key), LAYOUT, SIZE, Codec())
    archive.store.probe()
    archive.archive_segment(SEGMENT, plain, History(1))
    archive.state_start(SEGMENT)

    store = store_of(bucket, "restore")
    reader = Reader(store, Codec())
    assert reader.deliver(LAYOUT, SEGMENT.name) == plain
    assert reader.deliver(LAYOUT, Segment(1, 4, SIZE).name) is None  # absent is provable with no more than these rights
    before = [info.key for info in store.list("")]
    with pytest.raises(StoreDenied):
        store.create("demo/x", b"x", {})
    with pytest.raises(StoreDenied):
        store.delete(LAYOUT.file(SEGMENT, ".zst"))
    assert [info.key for info in archive.store.list("")] == before


@pytest.mark.postgres
def test_a_cluster_is_backed_up_with_an_agents_rights_and_restored_with_a_restore_hosts_and_a_key(
    bucket: SeaweedFS,
) -> None:
    def section(key: str) -> dict[str, Any]:
        return {
            "s3": {
                "bucket": bucket.bucket, "prefix": "postgresql", "endpoint": bucket.endpoint, "region": bucket.region,
                "path_style": True, "access_key_id": key, "secret_access_key": bucket.secret_key,
            }
        }  # fmt: skip

    rows = "SELECT (count(*), sum(hashtext(m)))::text FROM t"
    identity = pyrage.x25519.Identity.generate()
    file = new_directory("k") / "age-key"
    file.touch(mode=0o600)
    file.write_text(f"{identity}\n")
    with Postgres(new_directory("p")) as server:
        place = Place(server, section(bucket.access_key), encryption={"recipients": [str(identity.to_public())]})
        server.execute("CREATE TABLE t AS SELECT md5(g::text) AS m FROM generate_series(1, 20000) g")
        assert place.take() == 0
        assert place.taken().suffix == ".zst.age"
        server.execute("INSERT INTO t SELECT 'after the backup'")
        place.archive_wal()
        place.store_section = section("restore")
        there = BareHost(place, encryption={"identity_file": str(file)})
        said = there.run("restore", "--data-dir", str(there.data), "--json")
        assert said.returncode == 0, said.stdout + said.stderr
        try:
            there.start(json.loads(said.stdout))
            wait_until(lambda: not there.value("SELECT pg_is_in_recovery()"), "the end of the recovery")
            assert there.value(rows) == server.value(rows)
        finally:
            there.host.kill9()


def test_who_has_rights_elsewhere_reads_nothing_here(bucket: SeaweedFS) -> None:
    store = store_of(bucket, "elsewhere")
    with pytest.raises(StoreDenied):
        store.get(LAYOUT.file(SEGMENT, ".zst"))
    with pytest.raises(StoreDenied):
        list(store.list(""))
    with pytest.raises(StoreDenied):
        store.create("demo/x", b"x", {})


@pytest.mark.postgres
def test_what_is_locked_is_restored_though_somebody_deleted_all_that_he_could() -> None:
    """As examples/s3 says it: without the marks of what was deleted everything is there again."""
    with SeaweedFS() as bucket, Postgres(new_directory("p")) as server:
        session = botocore.session.Session()
        session.register_component("data_loader", Loader())  # tests share one else, which knows what walkeeper calls
        client: Any = session.create_client(
            "s3", endpoint_url=bucket.endpoint, region_name=bucket.region,
            aws_access_key_id=bucket.access_key, aws_secret_access_key=bucket.secret_key,
        )  # fmt: skip
        client.create_bucket(Bucket="locked", ObjectLockEnabledForBucket=True)
        section = bucket.section("postgresql")
        section["s3"] |= {"bucket": "locked", "object_lock_days": 2, "object_lock_mode": "COMPLIANCE"}
        place = Place(server, section)
        server.execute("CREATE TABLE t AS SELECT md5(g::text) AS m FROM generate_series(1, 20000) g")
        assert place.take() == 0
        place.archive_wal()
        store = place.archive.store
        store.probe()
        life.give(store, place.layout, life.Sign("0f" * 8, 1), "n1")

        kept = set()
        for version in client.list_object_versions(Bucket="locked")["Versions"]:
            named = {"Bucket": "locked", "Key": version["Key"]}
            client.delete_object(**named)
            try:
                client.delete_object(**named, VersionId=version["VersionId"])
            except ClientError:
                kept.add(version["Key"].removeprefix("postgresql/"))
        assert list(store.list("")) == []
        assert kept
        assert not any(is_passing(key) for key in kept)
        for mark in client.list_object_versions(Bucket="locked")["DeleteMarkers"]:
            client.delete_object(Bucket="locked", Key=mark["Key"], VersionId=mark["VersionId"])

        there = BareHost(place)
        said = there.run("restore", "--data-dir", str(there.data), "--json")
        assert said.returncode == 0, said.stdout + said.stderr
        try:
            there.start(json.loads(said.stdout))
            wait_until(lambda: not there.value("SELECT pg_is_in_recovery()"), "the end of the recovery")
            assert there.value("SELECT count(*) FROM t") == 20000
        finally:
            there.host.kill9()

        with pytest.raises(StoreDenied) as caught:
            S3Store(replace(bucket.settings(), object_lock_days=2)).create("demo/x", b"x", {})
        assert "made with object lock" in caught.value.hint
