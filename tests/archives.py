"""Archives for verify, list and fetch: made by walkeeper's own Archive, of segments with true page headers, and then damaged."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from tests.core.worlds import history_text, paged_segment
from tests.twins.memory_record import MemoryDcs, MemoryRecord
from walkeeper import tail
from walkeeper.archive import Archive
from walkeeper.codec import Codec
from walkeeper.config import Config, load
from walkeeper.core.history import History, Switch
from walkeeper.core.lsn import MIB, Lsn, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.core.record import Record
from walkeeper.core.tail import Piece
from walkeeper.layout import Layout
from walkeeper.store.base import Store
from walkeeper.store.open import open_store
from walkeeper.store.settings import StoreSettings
from walkeeper.survey import evidence
from walkeeper.verify import command, rebuild

SYSTEM: Final = 7300000000000000001
SIZE: Final = SegmentSize(MIB)
ONE: Final = History(1)
TWO: Final = History(2, (Switch(1, Lsn(5 * MIB + 100)),))
FOUR: Final = History(4, (Switch(1, Lsn(5 * MIB + 100)), Switch(2, Lsn(8 * MIB + 9000))))
"""Timeline 3 was promoted from 2 as well, somewhere else, and died."""
THREE: Final = History(3, (Switch(1, Lsn(5 * MIB + 100)), Switch(2, Lsn(7 * MIB + 500_000))))


class Built:
    """An archive from segment 3 of timeline 1 on, its configuration, and a DCS in memory that has no record yet."""

    def __init__(self, directory: Path, settings: StoreSettings | None = None, codec: Codec | None = None) -> None:
        file = directory / "patroni.yml"
        (directory / "store").mkdir()
        file.write_text(f"scope: demo\nwalkeeper: {{store: {{directory: {directory / 'store'}}}}}\n")
        config = load(file, {})
        self.config: Config = replace(config, store=settings or config.store)
        self.store: Store = open_store(self.config.store)
        self.dcs = MemoryDcs()
        self.codec = codec or Codec()
        self.archive = self.archive_of(SYSTEM)
        self.archive.state_start(self.segment(1, 3))

    def archive_of(self, system: int, codec: Codec | None = None) -> Archive:
        return Archive(self.store, Layout("demo", None, system), SIZE, codec or self.codec)

    @staticmethod
    def segment(timeline: int, number: int) -> Segment:
        return Segment(timeline, number, SIZE)

    def put(self, history: History, *numbers: int, archive: Archive | None = None, **options: Any) -> None:
        for number in numbers:
            segment = history.segment(number, SIZE)
            into = archive or self.archive
            into.archive_segment(
                segment, paged_segment(segment, into.layout.system_identifier, history, **options), history
            )

    def put_history(self, *histories: History) -> None:
        for history in histories:
            self.archive.archive_history(history.timeline, history_text(history))

    def key(self, timeline: int, number: int, suffix: str = ".zst") -> str:
        return self.archive.layout.file(self.segment(timeline, number), suffix)

    def replace(self, key: str, body: bytes | None, *, metadata: dict[str, str] | None = None) -> None:
        """What nobody but a fault does: other bytes under that key, or none. The metadata stay as they were."""
        info = self.store.head(key)
        assert info is not None
        self.store.delete(key)
        if body is not None:
            self.store.create(key, body, info.metadata if metadata is None else metadata)

    def body(self, key: str) -> bytes:
        body = self.store.get(key)
        assert body is not None
        return bytes(body)

    def put_tail(self, history: History, number: int, *ends: int, owner: str = "o1", begin: int = 0) -> list[str]:
        """Pieces of that segment up to each of ``ends``, by one owner; their keys."""
        segment = history.segment(number, SIZE)
        plain = paged_segment(segment, SYSTEM, history)
        keys = []
        for end in ends:
            receipt = tail.put(self.archive, segment, Piece(begin, end, owner), plain[begin:end])
            keys.append(receipt.key)
            begin = end
        return keys

    def record(self, timeline: int, number: int, system: int = SYSTEM, *, inside: int = 0) -> None:
        """The frontier before segment ``number``, or so many bytes into it."""
        record = Record(
            system_identifier=str(system), segment_size=MIB, timeline=timeline, lsn=str(Lsn(number * MIB + inside)),
            start=self.segment(1, 3).name, owner="node1", session="s",
        )  # fmt: skip
        self.dcs.put(record.encode())


def replaced(built: Built, identity: Path) -> Config:
    """Its configuration with that age identity."""
    return replace(built.config, identity_file=identity)


class Said:
    """What verify answered."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def document(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.out)
        return found

    @property
    def kinds(self) -> list[str]:
        """Of what is not a note, worst first."""
        return [each["kind"] for each in self.document["findings"] if each["severity"] != "note"]

    @property
    def notes(self) -> set[str]:
        return {each["kind"] for each in self.document["findings"] if each["severity"] == "note"}

    def finding(self, kind: str) -> dict[str, Any]:
        (found,) = [each for each in self.document["findings"] if each["kind"] == kind]
        return dict(found)


class Verifier:
    """Runs verify on a Built, whose DCS is the one that verify finds."""

    def __init__(self, built: Built, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.built, self.capsys = built, capsys
        for module in (evidence, rebuild):
            monkeypatch.setattr(module, "open_records", lambda _: MemoryRecord(built.dcs))

    def __call__(self, **request: Any) -> Said:
        self.capsys.readouterr()
        code = command.main(self.built.config, command.Request(**{"json": True, **request}))
        said = Said(code, *self.capsys.readouterr())
        if request.get("json", True) and not request.get("rebuild"):
            assert said.document["exit_code"] == code
        return said
