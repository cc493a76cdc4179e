"""Records of real servers, of every version that is here: read as pg_waldump does, cut, padded, recycled and diverged."""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import pytest
from psycopg import Connection

from tests.parts.binaries import all_postgres
from tests.parts.postgres import Postgres
from tests.parts.processes import new_directory
from walkeeper.core.commits import commits, commits_back, crosses
from walkeeper.core.lsn import MIB, Lsn, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.core.wal_page import PAGE_SIZE, check_part
from walkeeper.core.wal_records import WalRecord, ends_early, ends_of, goes_beyond, last_begin, read_record, records

pytestmark = pytest.mark.postgres
SIZE = SegmentSize(MIB)
ALL = sorted(all_postgres())
OLDEST = ALL[:1]
"""What is one version's here held for each of them when it was written; the records themselves are looked at in all."""
_LINE = re.compile(r"rmgr: (\w+) +len \(rec/tot\): +\d+/ +(\d+), .*?lsn: (\w+/\w+), prev (\w+/\w+), desc: (\S+)")
_END = re.compile(r"rmgr: Transaction .*?lsn: (\w+/\w+), .*?desc: (COMMIT|ABORT)\w* (?:\d+: )?([-\d]+ [:.\d]+) UTC")


@dataclass
class Wal:
    """Complete segments, and what pg_waldump says that they hold."""

    segments: dict[Segment, bytes]
    begins: dict[Segment, list[tuple[Lsn, Lsn, str]]]
    """Position, previous position, and kind of each record, by the segment that it begins in."""
    ends: dict[Segment, list[tuple[Lsn, str, str]]]
    """Position, time and kind of each commit and rollback, likewise."""
    diverged: dict[Segment, bytes]
    """What another server made of the same beginning, on the same timeline."""


@cache
def wal(major: int) -> Wal:
    directory = new_directory("w")
    bin_dir = all_postgres()[major]
    settings = {"wal_keep_size": "1GB", "max_prepared_transactions": "2"}
    with Postgres(directory / "a", bin_dir, settings=settings) as server:
        server.execute("CREATE TABLE t (n int, b text)")
        first = Segment.parse(server.switch_wal(), SIZE).number + 1
        write(server, 1)
        server.checkpoint()
        write(server, 2)
        server.stop()
        shutil.copytree(server.data, directory / "copy")
        server.start()
        write(server, 3)
        end = Segment.parse(server.switch_wal(), SIZE)
        segments = whole(server, first, end.number)
        listing = subprocess.run(
            [bin_dir / "pg_waldump", "-p", server.pg_wal, "-s", str(Lsn(first * SIZE)), "-e", str(Lsn(end.end))],
            capture_output=True, text=True, check=False, env={**os.environ, "TZ": "UTC"},
        ).stdout  # fmt: skip
    other = Postgres(directory / "b", bin_dir, settings=settings)
    shutil.copytree(directory / "copy", other.data)
    other.data.chmod(0o700)
    other.configure({})
    with other:
        write(other, 4)
        diverged = whole(other, first, Segment.parse(other.switch_wal(), SIZE).number)
    begins: dict[Segment, list[tuple[Lsn, Lsn, str]]] = {segment: [] for segment in segments}
    for kind, _, lsn, previous, what in _LINE.findall(listing):
        begins[Segment.at(1, Lsn.parse(lsn), SIZE)].append((Lsn.parse(lsn), Lsn.parse(previous), f"{kind} {what}"))
    ends: dict[Segment, list[tuple[Lsn, str, str]]] = {segment: [] for segment in segments}
    for lsn, kind, time in _END.findall(listing):
        ends[Segment.at(1, Lsn.parse(lsn), SIZE)].append((Lsn.parse(lsn), f"{time.replace(' ', 'T')}Z", kind))
    shutil.rmtree(directory)
    return Wal(segments, begins, ends, diverged)


def write(server: Postgres, seed: int) -> None:
    """Small records, records over several pages and segments, and one that ends its segment."""
    with server.connect() as connection:
        connection.execute("SELECT setseed(%s::float8 / 10)", [seed])
        for length in (0, 10, 3000, 9000, 40_000, 1_300_000):
            connection.execute("SELECT pg_logical_emit_message(false, 'm', repeat(chr(65 + %s), %s))", [seed, length])
            connection.execute(
                "INSERT INTO t SELECT g, repeat('x', (random() * 900)::int) FROM generate_series(1, 300) g"
            )
        server.switch_wal()
        connection.execute("INSERT INTO t SELECT g, repeat('y', (random() * 9000)::int) FROM generate_series(1, 900) g")
        if seed == 1:
            transactions(connection)


def transactions(connection: Connection[Any]) -> None:
    """Every form of a transaction's end: prepared ones, rollbacks, with savepoints, files, invalidations and an origin."""
    for how, prepared in (("COMMIT", "ROLLBACK"), ("ROLLBACK", "COMMIT")):
        for statement in (
            "CREATE TABLE u (n int)",
            "BEGIN",
            "DROP TABLE u",
            "PREPARE TRANSACTION 'p'",
            f"{prepared} PREPARED 'p'",
            "DROP TABLE IF EXISTS u",
            "BEGIN",
            "DO $$ BEGIN FOR i IN 1..3000 LOOP BEGIN INSERT INTO t VALUES (i); EXCEPTION WHEN others THEN END; END LOOP; END $$",
            how,
        ):
            connection.execute(statement)
    for statement in (
        "SELECT pg_replication_origin_create('o')",
        "SELECT pg_replication_origin_session_setup('o')",
        "INSERT INTO t VALUES (1)",
        "SELECT pg_replication_origin_session_reset()",
        "SELECT pg_replication_origin_drop('o')",
    ):
        connection.execute(statement)


def whole(server: Postgres, first: int, last: int) -> dict[Segment, bytes]:
    segments = [Segment(1, number, SIZE) for number in range(first, last + 1)]
    return {segment: (server.pg_wal / segment.name).read_bytes() for segment in segments}


@pytest.mark.parametrize("major", ALL)
def test_the_records_are_those_that_pg_waldump_lists(major: int) -> None:
    seen = wal(major)
    assert len(seen.segments) > 8
    assert any(kind.startswith("XLOG SWITCH") for listed in seen.begins.values() for *_, kind in listed)
    for segment, plain in seen.segments.items():
        found = list(records(plain, segment))
        listed = seen.begins[segment]
        if len(listed) == len(found) + 1:
            listed = listed[:-1]  # it goes on in the next segment
            assert last_begin(plain, SIZE - 1) == seen.begins[segment][-1][0] - segment.start
        assert [(segment.start + record.begin, record.previous) for record in found] == [one[:2] for one in listed]
        assert [record.is_switch for record in found] == [kind.startswith("XLOG SWITCH") for *_, kind in listed]
        for one, following in pairwise(found):
            assert one.next == following.begin


@pytest.mark.parametrize("major", ALL)
def test_p13_each_segment_says_which_record_the_one_before_it_ended_with(major: int) -> None:
    found = wal(major)
    complete = sorted(found.segments)[:-1]  # the last one is written on
    ends = {segment: ends_of(found.segments[segment], segment) for segment in complete}
    known = [(ends[one].last, ends[following].before) for one, following in pairwise(complete)]
    assert len([1 for pair in known if None not in pair]) >= len(complete) // 2  # long records fill whole segments
    assert all(last == before for last, before in known if None not in (last, before))
    assert all(found.begins[each][0][1] == ends[each].before for each in complete if ends[each].before is not None)
    parted = [
        (one, following)
        for one, following in pairwise(sorted(ends))
        if following in found.diverged and one in found.diverged and found.diverged[one] != found.segments[one]
    ]
    assert parted
    others = [(ends[one].last, ends_of(found.diverged[following], following).before) for one, following in parted]
    assert [1 for pair in others if None not in pair]
    assert not [1 for last, before in others if last == before is not None]


@pytest.mark.parametrize("major", ALL)
def test_the_ends_of_transactions_are_those_that_pg_waldump_lists(major: int) -> None:
    """Forward and back, from anywhere, and those that go over a page's or a segment's end."""
    seen = wal(major)
    listed = [end for segment in seen.segments for end in seen.ends[segment]]
    assert {kind for *_, kind in listed} == {"COMMIT", "ABORT"}
    found, pages, plains = [], 0, list(seen.segments.items())
    for (segment, plain), (_, following) in zip(plains, [*plains[1:], (None, b"")], strict=True):
        here = list(commits(plain, segment, following=following))
        assert list(commits_back(plain, segment, following=following)) == here[::-1]
        for middle in (here[len(here) // 3].begin, here[len(here) // 2].end) if here else ():
            assert list(commits(plain, segment, middle)) == [
                one for one in here if segment.end >= one.end and one.begin >= middle
            ]
            assert list(commits_back(plain, segment, middle)) == [one for one in here[::-1] if one.end <= middle]
        alone = list(commits(plain, segment))
        assert here == [*alone, *filter(None, [crosses(plain, segment, following)])]
        pages += sum(one.begin // PAGE_SIZE < (one.end - 1) // PAGE_SIZE for one in here)
        found += here
    assert [(one.begin, one.when, "ABORT" if one.aborted else "COMMIT") for one in found] == listed
    assert pages


@pytest.mark.parametrize("major", OLDEST)
def test_a_damaged_record_is_not_whole(major: int) -> None:
    dice = random.Random(major)
    for segment, plain in list(wal(major).segments.items())[:3]:
        found = list(records(plain, segment))
        for record in dice.sample(found, min(10, len(found))):
            at = dice.randrange(record.begin, min(record.begin + 24, SIZE))
            broken = plain[:at] + bytes([plain[at] ^ 1 << dice.randrange(8)]) + plain[at + 1 :]
            left = len(list(records(broken, segment)))
            assert left == found.index(record) or broken[record.begin + 18 : record.begin + 20] != bytes(2)


@dataclass
class Cut:
    """Up to where somebody received a segment, and what whole records that gives him."""

    at: int
    records: list[WalRecord]


def cuts(plain: bytes, segment: Segment, dice: random.Random) -> list[Cut]:
    """As a walsender cuts: at the end of a record, or of a page."""
    found = list(records(plain, segment))
    ends = {record.end for record in found if not record.is_switch} | set(range(PAGE_SIZE, SIZE, PAGE_SIZE))
    used = len(plain.rstrip(b"\0"))
    chosen = dice.sample(sorted(end for end in ends if end <= used), 25)
    return [Cut(at, [record for record in found if record.end <= at]) for at in chosen]


@pytest.mark.parametrize("major", OLDEST)
def test_a_tail_goes_beyond_a_copy_only_if_it_has_more_whole_records(major: int) -> None:
    """Whatever lies behind the copy's end: nothing, zeros, or a recycled segment's bytes in whole pages or within one."""
    dice = random.Random(major)
    seen = wal(major).segments
    told: set[bool] = set()
    go_on = 0
    for (before, old), (segment, plain) in pairwise(list(seen.items())[:7]):
        check_part(plain[: len(plain.rstrip(b"\0"))], 0, segment)
        assert before.number + 1 == segment.number
        own = cuts(plain, segment, dice)
        for tail in own:
            for local in own:
                rest = dice.choice([b"", bytes(SIZE), old])
                copy = plain[: local.at] + rest[local.at :]
                beyond = goes_beyond(plain[: tail.at], copy, segment)
                if len(tail.records) > len(local.records):
                    assert beyond, (segment, tail.at, local.at)
                elif tail.records:
                    assert not beyond, (segment, tail.at, local.at)
                if tail.at <= local.at:
                    assert not beyond, (segment, tail.at, local.at)
                told.add(beyond)
            assert goes_beyond(plain[: tail.at], b"", segment) == bool(tail.records) or not tail.records
            assert goes_beyond(plain[: tail.at], old, segment)
            assert not goes_beyond(plain[: tail.at], plain, segment)
        last = last_begin(plain, SIZE - 1)
        if last is not None and read_record(plain, segment, last) is None and plain[-8:] != bytes(8):
            go_on += 1  # in the next segment: whoever lacks a part of that record lacks this segment
            for at in [*(cut.at for cut in own), last, *range(last - last % PAGE_SIZE + PAGE_SIZE, SIZE, PAGE_SIZE)]:
                for rest in (b"", bytes(SIZE), old):
                    assert goes_beyond(plain, plain[:at] + rest[at:], segment), (segment, at)
    assert told == {True, False}
    assert go_on


@pytest.mark.parametrize("major", OLDEST)
def test_a_copy_that_diverged_is_never_replaced(major: int) -> None:
    dice = random.Random(major)
    mine, others = wal(major).segments, wal(major).diverged
    differing = [segment for segment in mine if segment in others and mine[segment] != others[segment]]
    assert differing
    for segment in differing[:3]:
        common = [
            one for one, other in zip(records(mine[segment], segment), records(others[segment], segment), strict=False)
            if one == other and mine[segment][: one.end] == others[segment][: one.end]
        ]  # fmt: skip
        for tail in cuts(mine[segment], segment, dice)[:12]:
            for local in cuts(others[segment], segment, dice)[:4]:
                beyond = goes_beyond(
                    mine[segment][: tail.at], others[segment][: local.at] + bytes(SIZE - local.at), segment
                )
                if len(local.records) > len(common):
                    assert not beyond, (segment, tail.at, local.at)


@pytest.mark.parametrize("major", OLDEST)
def test_a_padded_segment_is_told_from_a_complete_one(major: int) -> None:
    dice = random.Random(major)
    seen = wal(major)
    for segment, plain in seen.segments.items():
        assert ends_early(plain, segment) is None
        for cut in cuts(plain, segment, dice):
            padded = plain[: cut.at].ljust(SIZE, b"\0")
            whole_records = bool(cut.records) and cut.records[-1].end == cut.at
            told = ends_early(padded, segment)
            if whole_records and cut.at < SIZE:
                assert told == segment.start + cut.at
            else:
                assert told is None or told >= segment.start + cut.at


def test_what_is_no_wal_does_no_harm() -> None:
    dice = random.Random(1)
    segment = Segment(1, 5, SIZE)
    for _ in range(200):
        junk = dice.randbytes(dice.randrange(3 * PAGE_SIZE))
        goes_beyond(junk, dice.randbytes(dice.randrange(3 * PAGE_SIZE)), segment)
        assert list(records(junk, segment)) == []
        ends_early(junk, segment)
