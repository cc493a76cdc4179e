"""Tars to pieces: the pieces are the tar, the index says what lies in them, and small changes move little."""

from __future__ import annotations

import hashlib
import io
import random
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.backup.tars import Tree, by_index, cut, joined, tar_of, unpacked
from walkeeper.backup.cutter import Cutter, buffer_bytes
from walkeeper.core.backup import MAX_PIECE, PIECE
from walkeeper.core.tar_header import BLOCK
from walkeeper.errors import BadBackup

SMALL = 8 * BLOCK
"""Bytes of a file in one piece, in these tests."""

names = st.text(st.characters(codec="utf-8", exclude_characters="/\0\\"), min_size=1, max_size=12).filter(
    lambda name: name not in {".", ".."} and len(name.encode()) < 90
)
contents = st.one_of(
    st.binary(max_size=64),
    st.integers(-2, 2).map(lambda more: b"x" * (SMALL + more)),
    st.integers(0, 5 * SMALL).map(lambda size: random.Random(size).randbytes(size)),
)
trees = st.dictionaries(names, st.one_of(st.none(), contents), max_size=20)


@settings(max_examples=100, deadline=None)
@given(tree=trees, other=trees, portion=st.integers(1, 4 * SMALL))
def test_the_pieces_are_the_tars_and_the_index_says_what_lies_where(tree: Tree, other: Tree, portion: int) -> None:
    tars = {16384: tar_of(other), 0: tar_of(tree)}
    cuts, cutter = cut(tars, SMALL, portion)
    for tablespace, whole in ((0, tree), (16384, other)):
        with tarfile.open(fileobj=io.BytesIO(joined(cuts, tablespace))) as tar:
            read = {each.name: tar.extractfile(each) for each in tar.getmembers()}
            assert {name: file and file.read() for name, file in read.items()} == whole
    restored, _ = by_index(cuts)
    assert restored == tree | {f"pg_tblspc/16384/{path}": content for path, content in other.items()}
    everything = [*tree.values(), *other.values()]
    assert cutter.files == sum(content is not None for content in everything)
    assert cutter.bytes == sum(len(content or b"") for content in everything)
    again, _ = cut({16384: tar_of(other, mtime=1), 0: tar_of(tree, mtime=2)}, SMALL, SMALL)
    assert [each.buffer for each in again] == [each.buffer for each in cuts]


def test_p12_the_tar_command_reads_the_pieces_one_behind_the_other(tmp_path: Path) -> None:
    tree: Tree = {
        "base": None,
        "base/1": b"",
        "base/" + "n" * 90: b"a long name",
        "base/2": b"z" * (3 * SMALL + 1),
        "odd \nname\t'ä": b"x",
    }
    cuts, _ = cut({0: tar_of(tree, {"pg_tblspc/16384": "/some/where " + "x" * 80})}, SMALL)
    whole = joined(cuts)
    assert whole.endswith(bytes(2 * BLOCK))
    assert unpacked(whole, tmp_path / "to") == tree | {"pg_tblspc": None}
    assert (tmp_path / "to/pg_tblspc/16384").readlink() == Path("/some/where " + "x" * 80)
    assert (tmp_path / "to/base/1").stat().st_mode & 0o7777 == 0o600
    assert (tmp_path / "to/base").stat().st_mode & 0o7777 == 0o700
    assert (tmp_path / "to/base/1").stat().st_mtime == 0


@pytest.mark.parametrize(("size", "parts"), [(PIECE - 1, 1), (PIECE, 1), (PIECE + 1, 2), (2 * PIECE, 2)])
def test_a_file_of_about_one_piece_lies_in_as_many_as_it_needs(size: int, parts: int) -> None:
    content = random.Random(size).randbytes(size)
    cuts, _ = cut({0: tar_of({"a": b"before", "base": None, "base/1": content, "z": b"after"})}, PIECE)
    holding = [(each, part) for each in cuts for part in each.parts if part.path == "base/1"]
    assert [part.offset for _, part in holding] == [PIECE * number for number in range(parts)]
    if parts > 1:  # nothing else lies there, so that nothing else changes them
        assert all(each.parts == (part,) for each, part in holding)
    assert max(each.length for each in cuts) <= min(MAX_PIECE, buffer_bytes())
    assert by_index(cuts)[0]["base/1"] == content


def test_one_file_more_or_one_that_grows_moves_only_what_lies_next_to_it() -> None:
    chance = random.Random(1)
    tree: Tree = {f"base/5/{number}": chance.randbytes(chance.choice([0, 512, 8192, 24576])) for number in range(2000)}
    piece = 64 * 8192
    sums = {hashlib.sha256(each.buffer).digest() for each in cut({0: tar_of(tree)}, piece)[0]}
    assert 20 < len(sums) < 200
    for changed in ({"base/5/0": b"x" * 100, **tree}, tree | {"base/5/7": b"y" * 8192 * 3}):
        now = {hashlib.sha256(each.buffer).digest() for each in cut({0: tar_of(changed)}, piece)[0]}
        assert len(now - sums) <= 4


def test_an_empty_tar_is_one_piece_and_what_a_header_says_beyond_8_gib_is_read() -> None:
    cuts, cutter = cut({0: bytes(1024)}, SMALL)
    assert [(each.buffer, each.parts) for each in cuts] == [(bytearray(1024), ())]
    assert cutter.files == 0
    info = tarfile.TarInfo("huge")
    info.size = 9 * 1024**3
    cuts, cutter = [], Cutter(lambda _: bytearray(buffer_bytes(SMALL)), bytearray(buffer_bytes(SMALL)), SMALL)
    cutter.begin(0)
    cutter.feed(memoryview(info.tobuf(tarfile.GNU_FORMAT)))
    with pytest.raises(BadBackup, match="cut short"):
        cutter.end()


def _with(**changed: object) -> bytes:
    info = tarfile.TarInfo("base/1")
    for name, value in changed.items():
        setattr(info, name, value)
    return info.tobuf(tarfile.USTAR_FORMAT)


@pytest.mark.parametrize(
    "header",
    [
        _with(type=tarfile.LNKTYPE, linkname="x"),
        _with(type=tarfile.FIFOTYPE),
        _with(name="../x"),
        _with(name="a//b"),
        _with(name="/"),
        _with().replace(b"ustar", b"usta_"),
        tarfile.TarInfo("b\udcff").tobuf(tarfile.USTAR_FORMAT, "utf-8", "surrogateescape"),
        b"x" * 512,
    ],
)
def test_what_postgresql_does_not_send_is_refused(header: bytes) -> None:
    with pytest.raises(BadBackup, match="the server's tar: "):
        cut({0: header + bytes(1024)}, SMALL)
