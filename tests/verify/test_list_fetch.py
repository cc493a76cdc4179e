"""``walkeeper list`` says what is there; ``walkeeper fetch`` gets it out, whole and verified or not at all (P6)."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pyrage
import pytest

from tests.core.values import history_text, paged_segment
from tests.fixtures.archives import FOUR, ONE, SYSTEM, THREE, TWO, Built, Verifier, replaced
from tests.parts.seaweedfs import SeaweedFS
from walkeeper.archive.codec import Codec
from walkeeper.core.history import History
from walkeeper.core.lsn import MIB, Lsn
from walkeeper.errors import StoreUnavailable
from walkeeper.lib import retry
from walkeeper.store.directory import DirectoryStore
from walkeeper.verify import fetch_command, list_command, windows


@pytest.fixture
def built(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Built:
    monkeypatch.setattr(retry, "_WAIT", 0.0)
    built = Built(tmp_path)
    Verifier(built, capsys, monkeypatch)  # makes its DCS the one that is found
    fill(built)
    return built


def fill(built: Built) -> None:
    built.put(ONE, *range(3, 7))
    built.put_history(TWO, THREE, FOUR)
    built.put(TWO, *range(5, 8))
    built.put(THREE, 7)
    built.put(FOUR, 8, 9, 11)
    built.archive.record_gap(built.segment(4, 10), Lsn(11 * MIB))
    built.store.create(f"demo/{SYSTEM}/wal/0000000200000000/{BACKUP}.zst", Codec().encode(LABEL), {})
    built.record(4, 12)


BACKUP = "000000020000000000000006.00000028.backup"
LABEL = b"START WAL LOCATION: 0/600028 (file 000000020000000000000006)\n"


# --- list -----------------------------------------------------------------------------------------------------------


def listed(built: Built, capsys: pytest.CaptureFixture[str], **options: Any) -> tuple[int, str]:
    capsys.readouterr()
    code = list_command.main(built.config, **{"timeline": None, "system_identifier": None, "json": False, **options})
    return code, capsys.readouterr().out


def test_list_shows_timelines_ranges_gaps_and_backups(built: Built, capsys: pytest.CaptureFixture[str]) -> None:
    code, out = listed(built, capsys)
    assert code == 0
    for line in (
        "Begins    000000010000000000000003",
        "Frontier  0/C00000 on timeline 4",
        "Timeline 1",
        "  000000010000000000000003..000000010000000000000006",
        "Timeline 3, forked from 2 at 0/77A120; history: stored",
        "  00000004000000000000000B..00000004000000000000000B",
        "  recorded gap: 0/A00000 to 0/B00000, 1 segment",
        f"  {BACKUP}",
    ):
        assert f"{line}\n" in out
    assert "    4 segments, " in out


def test_list_shows_the_newest_of_many_ranges(built: Built, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(101, 141, 2):
        built.store.create(built.key(9, number), b"x", {})
    capsys.readouterr()
    assert list_command.main(built.config, timeline=9, system_identifier=None, json=False) == 0
    out = capsys.readouterr().out
    assert "Timeline 9; history: none\n  10 older ranges: --json has them\n" in out
    assert f"  {built.segment(9, 139)}..{built.segment(9, 139)}\n" in out
    assert str(built.segment(9, 119)) not in out


def test_p16_a_name_that_somebody_planted_makes_no_line_of_its_own(
    built: Built, capsys: pytest.CaptureFixture[str]
) -> None:
    gaps = Path(built.store.url.removeprefix("file://")) / f"demo/{SYSTEM}/gap"
    (gaps / "x\nFrontier  unknown\x1b[2K").write_bytes(b"x")
    _, out = listed(built, capsys)
    assert not [line for line in out.splitlines() if line.startswith("Frontier  unknown")]
    assert f"  demo/{SYSTEM}/gap/x?Frontier  unknown?[2K" in out.splitlines()


def test_list_as_a_document(built: Built, capsys: pytest.CaptureFixture[str]) -> None:
    code, out = listed(built, capsys, json=True)
    found = json.loads(out)
    assert code == found["exit_code"] == 0
    assert [(each["timeline"], each["parent"], each["segments"]) for each in found["timelines"]] == [
        (1, None, 4), (2, 1, 3), (3, 2, 1), (4, 2, 3),
    ]  # fmt: skip
    four = found["timelines"][3]
    assert [(each["first"], each["segments"], each["encrypted"]) for each in four["ranges"]] == [
        ("000000040000000000000008", 2, False),
        ("00000004000000000000000B", 1, False),
    ]
    assert four["gaps"] == [{"start_lsn": "0/A00000", "end_lsn": "0/B00000", "segments": 1, "closed": False}]
    assert four["ranges"][0]["oldest"] <= four["ranges"][0]["newest"]
    assert sum(each["bytes"] for timeline in found["timelines"] for each in timeline["ranges"]) < found["bytes"]
    assert found["backups"]["first"] == [BACKUP]


def test_of_many_ranges_gaps_and_windows_the_newest_are_told_and_the_others_counted(
    built: Built, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(windows, "TOLD", 12)
    monkeypatch.setattr(list_command, "TOLD", 12)
    nine = History(9)
    for number in range(20, 60, 2):
        built.put(nine, number)
        built.archive.record_gap(built.segment(9, number + 1), Lsn((number + 2) * MIB))
    built.put(nine, 25)
    _, out = listed(built, capsys, timeline=9, json=True)
    found = json.loads(out)
    (timeline,) = found["timelines"]
    firsts = [f"0000000900000000000000{number:02X}" for number in range(20, 60, 2)]
    firsts.remove("00000009000000000000001A")  # 24 to 26 are one range
    assert [each["first"] for each in timeline["ranges"]] == firsts[-12:]
    assert (timeline["older_ranges"], timeline["segments"]) == (7, 21)
    assert [each["closed"] for each in timeline["gaps"]] == [False] * 12
    assert timeline["older_gaps"] == 8
    _, out = listed(built, capsys, timeline=9)
    assert "\n  9 older ranges: --json has the newest 12 of all\n" in out
    assert "\n  10 older recorded gaps: --json has the newest 12 of all\n" in out
    monkeypatch.setattr(list_command, "TOLD", 20)
    _, out = listed(built, capsys, timeline=9, json=True)
    (timeline,) = json.loads(out)["timelines"]
    assert [each["closed"] for each in timeline["gaps"]] == [each == 2 for each in range(20)]
    assert (timeline["older_ranges"], timeline["older_gaps"]) == (0, 0)


def test_list_of_one_timeline_and_of_none(built: Built, capsys: pytest.CaptureFixture[str]) -> None:
    code, out = listed(built, capsys, timeline=3, json=True)
    assert (code, [each["timeline"] for each in json.loads(out)["timelines"]]) == (0, [3])
    code, out = listed(built, capsys, timeline=9, json=True)
    assert (code, json.loads(out)["problem"]) == (2, "timeline 9: nothing of it is in the store")
    (built.config.source.parent / "store").rename(built.config.source.parent / "away")
    assert listed(built, capsys)[0] == 2


def test_list_shows_an_archive_that_does_not_say_where_it_begins(
    built: Built, capsys: pytest.CaptureFixture[str]
) -> None:
    built.store.delete(f"demo/{SYSTEM}/start/000000010000000000000003.json")
    code, out = listed(built, capsys)
    assert code == 0
    assert "Begins    it does not say where\n" in out


# --- fetch ----------------------------------------------------------------------------------------------------------


class Fetcher:
    """Runs fetch into one directory."""

    def __init__(self, built: Built, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.built, self.directory, self.capsys = built, directory, capsys
        self.out = self.err = ""

    def __call__(self, what: str, **options: Any) -> int:
        self.capsys.readouterr()
        code = fetch_command.main(self.built.config, what, self.directory, **{"system_identifier": None, **options})
        self.out, self.err = self.capsys.readouterr()
        return code

    @property
    def files(self) -> list[str]:
        return sorted(path.name for path in self.directory.iterdir())

    def has(self, history: History, *numbers: int) -> bool:
        segments = [history.segment(number, self.built.archive.size) for number in numbers]
        return all(
            (self.directory / segment.name).read_bytes() == paged_segment(segment, SYSTEM, history)
            for segment in segments
        )


@pytest.fixture
def fetch(built: Built, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Fetcher:
    return Fetcher(built, tmp_path / "out", capsys)


def test_p6_a_range_along_the_chain_brings_exactly_what_a_recovery_reads(fetch: Fetcher) -> None:
    assert fetch("000000010000000000000003..000000040000000000000009") == 0
    assert fetch.has(ONE, 3, 4)
    assert fetch.has(TWO, 5, 6, 7)
    assert fetch.has(FOUR, 8, 9)
    assert (fetch.directory / "00000002.history").read_bytes() == history_text(TWO)
    assert len(fetch.files) == 9
    assert "00000003.history" not in fetch.files
    assert "9 fetched" in fetch.out
    assert f"restore_command = 'cp {fetch.directory}/%f %p'" in fetch.out
    assert fetch("000000010000000000000003..000000040000000000000009") == 0
    assert "9 there already" in fetch.out


@pytest.mark.parametrize("name", ["000000030000000000000007", "00000004.history", BACKUP])
def test_one_file_of_any_kind(fetch: Fetcher, name: str) -> None:
    assert fetch(name) == 0
    assert fetch.files == [name]


def test_a_range_of_one_timeline_is_its_own_files_also_beyond_the_fork(fetch: Fetcher) -> None:
    assert fetch("000000010000000000000004..000000010000000000000006") == 0
    assert fetch.has(ONE, 4, 5, 6)
    assert len(fetch.files) == 3


def test_what_is_missing_is_named_and_the_rest_fetched(fetch: Fetcher) -> None:
    assert fetch("000000040000000000000008..00000004000000000000000B") == 1
    assert fetch.has(FOUR, 8, 9, 11)
    assert "walkeeper: 00000004000000000000000A: it is not in the archive" in fetch.err
    assert "HINT: " in fetch.err


def test_what_is_missing_in_a_row_is_one_line_in_the_order_of_the_files(fetch: Fetcher) -> None:
    assert fetch("000000040000000000000008..0000000400000000000001FF") == 1
    told = [line for line in fetch.err.splitlines() if line.startswith("walkeeper: ")]
    assert told == [
        "walkeeper: 00000004000000000000000A: it is not in the archive",
        "walkeeper: 00000004000000000000000C to 0000000400000000000001FF, 500 files: it is not in the archive",
    ]


def test_p6_a_damaged_object_is_not_fetched(built: Built, fetch: Fetcher) -> None:
    key = built.key(2, 6)
    built.replace(key, built.body(key)[:-1])
    assert fetch("000000020000000000000005..000000020000000000000007") == 1
    assert fetch.files == ["000000020000000000000005", "000000020000000000000007"]
    assert f"000000020000000000000006: {key}: " in fetch.err  # what has to be moved away


def test_what_is_there_and_is_something_else_stays(fetch: Fetcher) -> None:
    fetch.directory.mkdir()
    other = fetch.directory / "000000020000000000000006"
    for content in (b"something else", b"x" * MIB):
        other.write_bytes(content)
        assert fetch("000000020000000000000005..000000020000000000000007") == 1
        assert other.read_bytes() == content
        assert "is there and is something else" in fetch.err
    other.unlink()
    other.symlink_to("/nowhere")
    assert fetch(other.name) == 1
    assert other.is_symlink()
    assert not [name for name in fetch.files if name.startswith(".")]


@pytest.mark.parametrize(
    ("what", "problem"),
    [
        ("nonsense", "not the name of a WAL file"),
        ("../../etc/passwd", "not a segment name"),
        ("000000010000000000000004..", "not a segment name"),
        ("000000010000000000000006..000000010000000000000004", "it ends before it begins"),
        ("000000020000000000000005..000000010000000000000006", "it ends before it begins"),
        ("000000010000000000000006..000000040000000000000009", "is not a file of timeline 4's chain"),
        ("000000010000000000000004..000000090000000000000009", "00000009.history: it is not in the archive"),
        ("000000010000000000001004", "no such segment with a segment size"),
    ],
)
def test_what_cannot_be_fetched_is_said_before_anything_is(fetch: Fetcher, what: str, problem: str) -> None:
    assert fetch(what) == 2
    assert problem in fetch.err
    assert not fetch.directory.exists()


def test_a_directory_that_cannot_be_written_is_cannot_tell(fetch: Fetcher, tmp_path: Path) -> None:
    fetch.directory = tmp_path / "no" / "such"
    assert fetch("000000010000000000000004") == 2
    assert "No such file or directory" in fetch.err
    fetch.directory = tmp_path / "patroni.yml"
    assert fetch("000000010000000000000004") == 2


@pytest.mark.parametrize("away", ["get", "list"])
def test_p6_a_store_that_is_away_is_not_absence(fetch: Fetcher, monkeypatch: pytest.MonkeyPatch, away: str) -> None:
    def fails(*_: object) -> None:
        raise StoreUnavailable("no answer", hint="Wait.")

    monkeypatch.setattr(DirectoryStore, away, fails)
    assert fetch("000000010000000000000004") == 2
    assert "no answer" in fetch.err


def test_p6_no_archive_there_is_not_absence(built: Built, fetch: Fetcher) -> None:
    assert fetch("000000010000000000000004", system_identifier=SYSTEM + 7) == 2
    assert "there is no archive there" in fetch.err
    built.dcs.wipe()
    assert fetch("000000010000000000000004") == 0  # there is but one


def test_an_encrypted_file_wants_its_identity(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = pyrage.x25519.Identity.generate()
    (tmp_path / "identity").write_text(f"{identity}\n")
    built = Built(tmp_path, codec=Codec(recipients=(str(identity.to_public()),)))
    Verifier(built, capsys, monkeypatch)
    built.put(ONE, 3)
    fetch = Fetcher(built, tmp_path / "out", capsys)
    assert fetch("000000010000000000000003") == 2
    assert "no identity" in fetch.err
    built.config = replaced(built, tmp_path / "identity")
    assert fetch("000000010000000000000003") == 0
    assert fetch.has(ONE, 3)


@pytest.mark.s3
def test_on_a_real_s3_server(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with SeaweedFS() as server:
        built = Built(tmp_path, server.settings(prefix="fetch"))
        Verifier(built, capsys, monkeypatch)
        fill(built)
        code, out = listed(built, capsys, json=True)
        assert code == 0
        assert json.loads(out)["timelines"][0]["ranges"][0]["newest"]
        fetch = Fetcher(built, tmp_path / "out", capsys)
        assert fetch("000000010000000000000003..000000040000000000000009") == 0
        assert fetch.has(FOUR, 8, 9)


def test_a_terminal_sees_how_far_it_is_and_nothing_else_does(monkeypatch: pytest.MonkeyPatch, fetch: Fetcher) -> None:
    assert fetch("000000010000000000000004") == 0
    assert fetch.err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert fetch("000000010000000000000005") == 0
    assert "\r1 files" in fetch.err
    assert fetch.err.endswith("\r")
