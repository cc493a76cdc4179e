"""What each actor of SECURITY.md may do in a bucket, and what it cannot, tried on a real server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from msgspec.structs import replace

from tests.core.values import paged_segment
from tests.parts.seaweedfs import LEAST_ACTIONS, RESTORE_ACTIONS, SeaweedFS
from walkeeper.archive.codec import Codec
from walkeeper.archive.layout import Layout
from walkeeper.archive.read import Reader
from walkeeper.archive.write import Archive
from walkeeper.core.history import History
from walkeeper.core.lsn import MIB, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.errors import StoreDenied
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


def test_who_has_rights_elsewhere_reads_nothing_here(bucket: SeaweedFS) -> None:
    store = store_of(bucket, "elsewhere")
    with pytest.raises(StoreDenied):
        store.get(LAYOUT.file(SEGMENT, ".zst"))
    with pytest.raises(StoreDenied):
        list(store.list(""))
    with pytest.raises(StoreDenied):
        store.create("demo/x", b"x", {})
