"""A gap that a returning member has closed is no gap any more, for people as well."""

from __future__ import annotations

from pathlib import Path

from tests.core.values import plain_segment
from walkeeper.archive.codec import Codec
from walkeeper.archive.layout import Layout
from walkeeper.archive.write import Archive
from walkeeper.config import load
from walkeeper.core.history import History
from walkeeper.core.lsn import MIB, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.core.record import Record
from walkeeper.status import gather
from walkeeper.store.directory import DirectoryStore

LOST = Segment(1, 5, SegmentSize(MIB))


def test_status_reports_a_gap_until_it_is_closed(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    file = tmp_path / "patroni.yml"
    file.write_text(f"scope: demo\nwalkeeper:\n  store:\n    directory: {tmp_path / 'store'}\n")
    config = load(file, {})
    record = Record(
        system_identifier="7", segment_size=MIB, timeline=1, lsn=str(LOST.end), start=LOST.name, owner="a", session="s"
    )
    archive = Archive(DirectoryStore(tmp_path / "store"), Layout("demo", None, 7), LOST.size, Codec())
    archive.record_gap(LOST, LOST.end)
    unknown: list[str] = []
    told = {"timeline": 1, "start": "0/500000", "end": "0/600000"}
    assert gather._gaps(config, record, unknown) == [told | {"accepted": False}]
    archive.accept_gap(LOST, LOST.end)
    assert gather._gaps(config, record, unknown) == [told | {"accepted": True}]
    archive.archive_segment(LOST, plain_segment(LOST, 7), History(1))
    assert gather._gaps(config, record, unknown) == []
    assert unknown == []
