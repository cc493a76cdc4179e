"""Histories that the DCS remembers: exactly what was written, by whoever has the key, or nothing."""

from __future__ import annotations

import hashlib

import pytest
from msgspec.structs import replace

from tests.core.values import history_text
from walkeeper.archive.authentic import Trust
from walkeeper.archive.histories import recalled, remembered
from walkeeper.archive.layout import Layout
from walkeeper.core.authentication import CODE
from walkeeper.core.history import History, Switch
from walkeeper.core.lsn import Lsn
from walkeeper.errors import BadHistory, CannotTell, NotAuthentic

LAYOUT = Layout("demo", None, 7300000000000000001)
TEXT = history_text(History(3, (Switch(1, Lsn(0x5000100)),)))
KEY = Trust((b"k" * 64,))


@pytest.mark.parametrize("trust", [Trust(), KEY])
def test_what_was_noted_is_recalled_byte_for_byte(trust: Trust) -> None:
    noted = remembered(LAYOUT, trust, 3, TEXT)
    assert recalled(LAYOUT, trust, noted) == TEXT
    assert (CODE in noted.stated) == bool(trust.keys)


@pytest.mark.parametrize("trust", [Trust(), KEY])
def test_other_bytes_than_are_stated_are_nothing(trust: Trust) -> None:
    noted = remembered(LAYOUT, trust, 3, TEXT)
    with pytest.raises(CannotTell, match=r"00000003\.history, remembered in the DCS"):
        recalled(LAYOUT, trust, replace(noted, text=TEXT + b"\n"))
    with pytest.raises(CannotTell):
        recalled(LAYOUT, trust, replace(noted, stated={}))


def test_where_there_is_a_key_only_its_holder_is_believed() -> None:
    noted, other = remembered(LAYOUT, KEY, 3, TEXT), history_text(History(3, (Switch(2, Lsn(0x9000000)),)))
    for planted in (
        remembered(LAYOUT, Trust(), 3, TEXT),
        remembered(LAYOUT, Trust((b"x" * 64,)), 3, TEXT),
        replace(noted, timeline=4),
        replace(noted, text=other, stated={**noted.stated, "sha256": hashlib.sha256(other).hexdigest()}),
        remembered(Layout("demo", None, 1), KEY, 3, TEXT),
    ):
        with pytest.raises(NotAuthentic):
            recalled(LAYOUT, KEY, planted)


def test_what_is_no_history_is_not_recalled_either() -> None:
    with pytest.raises(BadHistory):
        recalled(LAYOUT, Trust(), remembered(LAYOUT, Trust(), 3, b"3\t0/100\tits own parent\n"))
