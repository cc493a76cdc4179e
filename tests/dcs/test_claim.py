"""What the DCS says of the record: four answers, never mixed up."""

from __future__ import annotations

import pytest

from tests.twins.memory_record import MemoryDcs, MemoryRecord
from walkeeper.core.record import Record
from walkeeper.dcs.base import Versioned
from walkeeper.dcs.claim import Known, read_claim
from walkeeper.errors import DcsUnavailable

RECORD = Record(
    system_identifier="7", segment_size=1 << 20, timeline=1, lsn="0/100000", start="000000010000000000000001",
    owner="a", session="s",
)  # fmt: skip


class Silent(MemoryRecord):
    def read(self) -> Versioned | None:
        raise DcsUnavailable("no answer")


@pytest.mark.parametrize(
    ("document", "known", "lost"),
    [
        (None, Known.ABSENT, True),
        (b"garbage", Known.UNREADABLE, True),
        (b'{"x":' + b'{"a":' * 10_000, Known.UNREADABLE, True),
        (RECORD.encode().replace(b'"7"', b'"' + b"7" * 5000 + b'"'), Known.UNREADABLE, True),
        (RECORD.encode(), Known.RECORD, False),
    ],
)
def test_the_dcs_answers_in_one_of_three_ways(document: bytes | None, known: Known, lost: bool) -> None:
    dcs = MemoryDcs()
    if document is not None:
        dcs.put(document)
    claim = read_claim(MemoryRecord(dcs))
    assert (claim.known, claim.lost, claim.record == RECORD) == (known, lost, known is Known.RECORD)
    assert bool(claim.why) == (known is not Known.RECORD)


def test_a_dcs_that_is_silent_says_nothing_of_the_record() -> None:
    claim = read_claim(Silent(MemoryDcs()))
    assert (claim.known, claim.lost, claim.why) == (Known.UNKNOWN, False, "no answer")
