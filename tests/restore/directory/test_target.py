"""What people write after --to, and what PostgreSQL is told."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from walkeeper.errors import CannotRestore, WrongCall
from walkeeper.restore.directory import here
from walkeeper.restore.directory.target import parse, settings

pytestmark = pytest.mark.usefixtures("berlin")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("latest", {}),
        ("immediate", {"recovery_target": "immediate"}),
        ("16/b374d848", {"recovery_target_lsn": "16/B374D848", "recovery_target_inclusive": "off"}),
        ("lsn:0/1", {"recovery_target_lsn": "0/1", "recovery_target_inclusive": "off"}),
        ("4711", {"recovery_target_xid": "4711", "recovery_target_inclusive": "on"}),
        ("before_release", {"recovery_target_name": "before_release"}),
        ("name:2026-11-28", {"recovery_target_name": "2026-11-28"}),
        ("name:latest", {"recovery_target_name": "latest"}),
        ("2026-11-27 23:10", {"recovery_target_time": "2026-11-27 22:10:00+00", "recovery_target_inclusive": "on"}),
        ("2026-07-27T23:10", {"recovery_target_time": "2026-07-27 21:10:00+00", "recovery_target_inclusive": "on"}),
        ("2026-11-27 23:10Z", {"recovery_target_time": "2026-11-27 23:10:00+00", "recovery_target_inclusive": "on"}),
        ("2026-11-27 23:10 UTC", {"recovery_target_time": "2026-11-27 23:10:00+00", "recovery_target_inclusive": "on"}),
        ("2026-11-27 23:10 CET", {"recovery_target_time": "2026-11-27 22:10:00+00", "recovery_target_inclusive": "on"}),
        (
            "2026-10-25 02:30 CEST",
            {"recovery_target_time": "2026-10-25 00:30:00+00", "recovery_target_inclusive": "on"},
        ),
        ("2026-10-25 02:30 CET", {"recovery_target_time": "2026-10-25 01:30:00+00", "recovery_target_inclusive": "on"}),
        (
            "2026-11-27 23:10:05.25-03",
            {"recovery_target_time": "2026-11-28 02:10:05.25+00", "recovery_target_inclusive": "on"},
        ),
        (
            "2026-11-27 23:10:00.123 -03",
            {"recovery_target_time": "2026-11-28 02:10:00.123+00", "recovery_target_inclusive": "on"},
        ),
        (
            "2026-11-27 23:10 +0545",
            {"recovery_target_time": "2026-11-27 17:25:00+00", "recovery_target_inclusive": "on"},
        ),
    ],
)
def test_a_target_is_what_a_person_means(text: str, expected: dict[str, str]) -> None:
    assert settings(parse(text), exclusive=False) == expected


@pytest.mark.parametrize(
    "text",
    ["", "2026-11-27", "2026-13-01 00:00", "23:10", "1/2/3", "123456789/0", "lsn:x", "xid:-1", "0", "2", "time:now",
     "now", "Today", "yesterday", "LATEST", "Immediate", "2026-11-27 24:61", "2026-11-27 23:10 PST", "2026-07-27 23:10 CET",
     "2026-03-29 02:30 CET", "2026-11-27 23:10+02 CET", "2026-11-27 23:10+02 UTC", "2026-11-27 23:10 +02 CET", "2026-11-27 23:10 -", "0001-01-01 00:00+23", "name:" + 64 * "x", "a\nb", "1e3", "-", "９９"],
)  # fmt: skip
def test_what_is_not_clearly_a_target_is_refused_with_all_that_can_be_written(text: str) -> None:
    with pytest.raises(CannotRestore, match="--to") as told:
        parse(text)
    assert "restore point" in told.value.hint
    assert told.value.exit_code == 2


@pytest.mark.parametrize("text", ["2026-10-25 02:30", "2026-03-29 02:30:00"])
def test_a_time_of_the_hour_in_which_clocks_are_changed_says_which_it_is(text: str) -> None:
    with pytest.raises(WrongCall, match="twice or never") as told:
        parse(text)
    first, second = re.findall("--to '([^']+)'", told.value.hint)
    assert parse(first) != parse(second)
    assert parse(f"{text}+01") in (parse(first), parse(second))


@pytest.mark.parametrize("written", ["a", "16384", "16384=there", "="])
def test_a_tablespace_that_is_not_written_as_it_has_to_be_is_a_wrong_call(written: str) -> None:
    with pytest.raises(WrongCall, match=f"^--tablespace {written}: not OLD=NEW"):
        here.tablespaces(cast(Any, None), Path("/data"), (written,))


def test_a_tablespaces_old_place_is_known_with_a_slash_at_its_end() -> None:
    backup = SimpleNamespace(id="b", tablespaces=[SimpleNamespace(oid=16384, location="/old/place")])
    assert here.tablespaces(cast(Any, backup), Path("/data"), ("/old/place/=/new",)) == {16384: Path("/new")}


def test_exclusive_ends_just_before() -> None:
    assert settings(parse("4711"), exclusive=True)["recovery_target_inclusive"] == "off"
