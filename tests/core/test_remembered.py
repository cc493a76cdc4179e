"""What is remembered in the DCS beside the record: how much of it, and what is believed of what stands there."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from walkeeper.core.lsn import Lsn
from walkeeper.core.members import MOST, Member, may_have, remember
from walkeeper.core.remembered import (
    LIMIT,
    TEXT_BYTES,
    Remembered,
    Text,
    decode,
    encode,
    recalled,
    seen,
    without_moments,
)
from walkeeper.errors import BadRecord

SYSTEM = "7300000000000000001"
NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)
EMPTY = Remembered(system_identifier=SYSTEM)


def text(timeline: int, length: int = 45) -> Text:
    return Text(timeline, b"\xff" * length, {"sha256": "ab" * 32})


def test_what_is_written_is_read_byte_for_byte_and_unknown_fields_are_passed_over() -> None:
    written = EMPTY.with_texts({2: text(2), 3: text(3)})
    assert [each.timeline for each in written.texts] == [3, 2]
    assert decode(encode(written)) == written
    assert written.text(3) == text(3)
    assert written.text(4) is None
    later = json.loads(encode(written)) | {"something": "new"}
    assert decode(json.dumps(later).encode()) == written


def test_of_two_hundred_timelines_the_newest_that_have_room_are_kept_without_a_hole() -> None:
    written = EMPTY.with_texts({timeline: text(timeline, 45 * timeline) for timeline in range(2, 201)})
    assert [each.timeline for each in written.texts] == [200, 199]
    assert EMPTY.with_texts({2: text(2), 3: text(3, TEXT_BYTES)}).texts == ()


def test_a_text_is_replaced_or_dropped_by_its_number_alone() -> None:
    before = EMPTY.with_texts({2: text(2), 3: text(3)})
    assert before.with_texts({3: text(3, 90)}).texts == (text(3, 90), text(2))
    assert before.with_texts({3: None, 4: None}).texts == (text(2),)


def test_the_largest_document_that_is_written_can_be_read() -> None:
    members = [Member("n" * 255 + chr(0x100 + each), "h" * 256, 65535, 0.0, Lsn(2**64 - 1)) for each in range(MOST)]
    full = Remembered(system_identifier=SYSTEM, members=seen(members, [], 0.0, NOW)).with_texts(
        {each: text(each) for each in range(2, 1000)}
    )
    assert len(full.members) == MOST
    assert decode(encode(full)) == full
    too_long = [Member("n" * 257, None, None, 0.0), Member("b", "h" * 257, 1, 0.0), Member("c", None, None, 0.0)]
    assert [each.name for each in seen(too_long, [], 0.0, NOW)] == ["c"]
    assert len(seen([*members, *too_long], [], 0.0, NOW)) == MOST


@pytest.mark.parametrize("document", [
    b"", b"{}", b"null", b"\xff", b"[" * 100_000, b" " * (LIMIT + 1),
    b'{"system_identifier": "x"}', b'{"schema": 2, "system_identifier": "1"}',
    b'{"system_identifier": "1", "texts": [{"timeline": 1, "text": "", "stated": {}}]}',
    b'{"system_identifier": "1", "texts": [{"timeline": 2, "text": "?", "stated": {}}]}',
    b'{"system_identifier": "1", "members": [{"name": "b", "gone_at": "yesterday"}]}',
    b'{"system_identifier": "1", "members": [{"name": "b", "gone_at": "2026-13-99T00:00:00Z"}]}',
    b'{"system_identifier": "1", "members": [{"name": "b", "horizon": "far"}]}',
])  # fmt: skip
def test_what_cannot_be_relied_on_is_refused_in_one_line(document: bytes) -> None:
    with pytest.raises(BadRecord, match=r"^remembered in the DCS: .+") as refused:
        decode(document)
    assert "\n" not in str(refused.value)


def test_a_member_is_known_to_an_agent_that_starts_by_when_it_was_seen_and_what_it_may_have() -> None:
    known = {
        "a": Member("a", "10.0.0.1", 5432, 100.0),
        "b": Member("b", "10.0.0.2", 5432, 40.0),
        "c": Member("c", "10.0.0.3", 5433, 0.0, Lsn(300)),
    }
    document = seen(known.values(), ["a"], 100.0, NOW)
    later = recalled(document, 7.0, NOW + timedelta(seconds=50))
    assert later == {
        "a": Member("a", "10.0.0.1", 5432, 7.0),  # it was there when that was written, and may have what came since
        "b": Member("b", "10.0.0.2", 5432, 7.0 - 110.0),
        "c": Member("c", "10.0.0.3", 5433, 7.0 - 150.0, Lsn(300)),
    }
    known_now = remember(later, [], 7.0, Lsn(1000))
    assert [each.name for each in may_have(known_now, Lsn(500))] == ["a", "b"]
    assert recalled(document, 0.0, NOW - timedelta(days=1))["b"].seen_at == 0.0  # another host's clock


def test_the_document_changes_with_who_is_there_and_not_with_the_clock() -> None:
    known = [Member("a", "h", 1, 100.0), Member("b", "h", 2, 40.0)]
    first = without_moments(seen(known, ["a"], 100.0, NOW))
    assert without_moments(seen(known, ["a"], 160.0, NOW + timedelta(hours=1))) == first
    assert without_moments(seen(known, ["a", "b"], 100.0, NOW)) != first
    assert without_moments(seen([*known, Member("c", None, None, 1.0)], ["a"], 100.0, NOW)) != first
