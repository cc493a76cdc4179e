"""Codes over names, clusters, sizes and sums: what they bind together, and from where on they are demanded."""

from __future__ import annotations

import hashlib
import hmac

import pytest

from walkeeper.core.authentication import CODE, COVERED, Demand, code_of, is_authentic, sums_of

OLD, NEW, OTHER = b"o" * 64, b"n" * 64, b"x" * 64
NAME = "wal/0000000100000000/000000010000000000000003.zst"
STATED = {"format": "1", "sha256": "ab" * 32, "size": "1048576", "packed-sha256": "cd" * 32, "packed-size": "1234"}


def test_a_code_is_an_hmac_that_anybody_with_the_key_can_compute() -> None:
    lines = ["walkeeper object 1", "7300", NAME, *(f"{each}={STATED[each]}" for each in COVERED)]
    assert code_of(NEW, 7300, NAME, STATED) == hmac.new(NEW, "\n".join(lines).encode(), hashlib.sha256).hexdigest()


def test_a_code_holds_for_one_name_in_one_cluster_with_these_sums_and_keys_that_are_known() -> None:
    made = {**STATED, CODE: code_of(OLD, 7300, NAME, STATED)}
    assert is_authentic([NEW, OLD], 7300, NAME, made)
    assert is_authentic([OLD], 7300, NAME, {**made, "x-amz-something": "of the store"})
    assert not is_authentic([NEW], 7300, NAME, made)
    assert not is_authentic([], 7300, NAME, made)
    assert not is_authentic([OLD], 7301, NAME, made)
    assert not is_authentic([OLD], 7300, NAME.replace("03.", "04."), made)
    assert not is_authentic([OLD], 7300, NAME + ".age", made)
    for each in COVERED:
        assert not is_authentic([OLD], 7300, NAME, {**made, each: "1" + made[each]})
        assert not is_authentic([OLD], 7300, NAME, {name: value for name, value in made.items() if name != each})
    for code in ("", "0" * 64, made[CODE].upper(), made[CODE] + "0", "ü"):
        assert not is_authentic([OLD], 7300, NAME, {**STATED, CODE: code})
    assert not is_authentic([OLD], 7300, NAME, STATED)


def test_what_is_stored_is_summed_where_nobody_has_done_that() -> None:
    body = b"{}\n"
    stated = sums_of(body, {"format": "1"})
    assert stated == {"format": "1", "packed-sha256": hashlib.sha256(body).hexdigest(), "packed-size": "3"}
    assert sums_of(b"other", stated) == stated


SINCE = "00000002000000050000000A"


@pytest.mark.parametrize(
    ("name", "demanded"),
    [
        ("wal/0000000200000005/000000020000000500000009.zst", False),
        ("wal/0000000100000005/000000010000000500000009.zst.age", False),
        ("wal/0000000200000005/00000002000000050000000A.zst", True),
        ("wal/0000000200000006/000000020000000600000000.zst", True),
        ("wal/0000000300000005/000000030000000500000009.zst", True),  # a newer timeline did not exist before
        ("wal/0000000100000005/00000001000000050000000B.zst", True),
        ("wal/0000000200000005/000000020000000500000009.partial.zst", False),
        ("tail/000000020000000500000009/00000000-00001000-o.zst", False),
        ("tail/00000002000000050000000A/00000000-00001000-o.zst", True),
        ("gap/000000020000000500000009-00000005000A0000.json", False),
        ("start/000000020000000500000009.json", False),
        ("start/0000000200000005000000090.json", True),
        ("history/00000002.history", False),
        ("history/00000003.history", True),
        ("backup/20261128T020000Z-2-0a0b0c0d/backup.json", True),
        ("expire/00000001.json", True),
        ("anything", True),
    ],
)
def test_a_code_is_demanded_of_all_that_was_made_since(name: str, demanded: bool) -> None:
    assert Demand(since=SINCE).code(name) is demanded
    assert Demand().code(name)


@pytest.mark.parametrize(
    ("name", "demanded"),
    [
        ("wal/0000000200000005/00000002000000050000000A.zst", True),
        ("wal/0000000200000005/00000002000000050000000A.again.zst", True),
        ("wal/0000000200000005/000000020000000500000009.zst", False),
        ("tail/00000002000000050000000A/00000000-00001000-o.zst", True),
        ("backup/20261128T020000Z-2-0a0b0c0d/data/ab.zst", True),
        ("backup/20261128T020000Z-00000002-0a0b0c0d/data/ab.zst", False),
        ("backup/20261128T020000Z-00000003-0a0b0c0d/data/ab.zst", True),
        ("wal/0000000200000005/00000002000000050000000A.zst.age", False),
        ("history/00000003.history", False),  # histories are plain in every archive
        ("backup/20261128T020000Z-2-0a0b0c0d/backup.json", False),
    ],
)
def test_where_all_is_encrypted_nothing_plain_is_believed_above_that_segment(name: str, demanded: bool) -> None:
    assert Demand(plain_before=SINCE).encryption(name) is demanded
    assert Demand().encryption(name) is name.endswith(".zst")


def test_a_backup_needs_a_code_of_whatever_timeline_it_is() -> None:
    assert Demand(since=SINCE, plain_before=SINCE).code("backup/20261128T020000Z-00000001-0a0b0c0d/backup.json")
