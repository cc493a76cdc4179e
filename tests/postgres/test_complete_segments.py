"""Complete means complete by the bytes: every segment that a real server completed is, and nothing else. P13."""

from __future__ import annotations

import random
import shutil
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache

import psycopg
import pytest

from tests.fixtures.worlds import wait_for
from tests.parts.binaries import all_postgres
from tests.parts.postgres import Postgres
from tests.parts.processes import new_directory
from walkeeper.core.history import History, parse_history
from walkeeper.core.lsn import MIB, Lsn, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.core.wal_page import PAGE_SIZE, without_zeros
from walkeeper.core.wal_records import check_complete
from walkeeper.errors import BadSegment

pytestmark = pytest.mark.postgres
SIZE = SegmentSize(MIB)
ALL = sorted(all_postgres())


@dataclass
class Servers:
    """Complete segments of a server that crashed, and of one that was promoted; and what is not complete."""

    complete: dict[Segment, bytes]
    promoted: dict[Segment, bytes]
    history: History
    open: dict[Segment, bytes]


def write(server: Postgres, dice: random.Random) -> None:
    """Records of all lengths, and switches in many places: near a page's end, too."""
    with server.connect() as connection:
        for _ in range(24):
            for _ in range(dice.randrange(1, 4)):
                length = dice.choice([0, dice.randrange(200), dice.randrange(9000), dice.randrange(700_000)])
                connection.execute("SELECT pg_logical_emit_message(false, 'm', repeat('m', %s))", [length])
            connection.execute("SELECT pg_switch_wal()")
            at = Lsn.parse(server.lsn())
            # The next switch begins in the last bytes of a page, or over its end.
            room = -at % PAGE_SIZE - dice.randrange(0, 160, 8)
            connection.execute("SELECT pg_logical_emit_message(false, 'm', repeat('e', %s))", [max(0, room)])
            connection.execute("SELECT pg_switch_wal()")


def crash_while_it_writes(server: Postgres) -> None:
    """In the middle of a record that is longer than some segments."""

    def endless() -> None:
        with suppress(psycopg.Error), server.connect() as connection:
            while True:
                connection.execute("SELECT pg_logical_emit_message(false, 'm', repeat('c', 5000000))")

    before = Lsn.parse(server.lsn())
    thread = threading.Thread(target=endless)
    thread.start()
    wait_for(lambda: Lsn.parse(server.lsn()) > before + 8 * MIB)
    server.kill9()
    thread.join()
    server.start()


def of(server: Postgres, history: History) -> tuple[dict[Segment, bytes], dict[Segment, bytes]]:
    """The segments in pg_wal that the server has completed, of that history's chain; and the open one."""
    end = Lsn.parse(server.lsn())
    complete: dict[Segment, bytes] = {}
    opened: dict[Segment, bytes] = {}
    for name in server.segments():
        segment = Segment.parse(name, SIZE)
        if history.contains(segment) and segment.start <= end:
            (complete if segment.end <= end else opened)[segment] = (server.pg_wal / name).read_bytes()
    return complete, opened


@cache
def servers(major: int) -> Servers:
    dice = random.Random(major)
    directory = new_directory("w")
    settings = {"wal_keep_size": "1GB", "max_wal_size": "2GB", "hot_standby": "on"}
    with Postgres(directory / "a", all_postgres()[major], settings=settings) as server:
        write(server, dice)
        crash_while_it_writes(server)
        write(server, dice)
        server.execute("SELECT pg_logical_emit_message(false, 'm', repeat('o', 300000))")
        server.execute("CREATE TABLE flushed ()")
        complete, opened = of(server, History(1))
        server.stop()
        shutil.copytree(server.data, directory / "copy")
    other = Postgres(directory / "b", all_postgres()[major], settings=settings)
    shutil.copytree(directory / "copy", other.data)
    other.data.chmod(0o700)
    (other.data / "standby.signal").touch()
    other.configure({})
    with other:
        other.promote()
        write(other, dice)
        history = parse_history(2, (other.pg_wal / "00000002.history").read_bytes())
        promoted, _ = of(other, history)
    shutil.rmtree(directory)
    return Servers(complete, {s: plain for s, plain in promoted.items() if s.timeline == 2}, history, opened)


@pytest.mark.parametrize("major", ALL)
def test_p13_every_segment_that_a_server_completed_is_complete(major: int) -> None:
    found = servers(major)
    assert len(found.complete) > 100
    assert len(found.promoted) > 40
    for segment, plain in found.complete.items():
        check_complete(plain, segment, History(1))
    for segment, plain in found.promoted.items():
        check_complete(plain, segment, found.history)
    first = min(found.promoted, key=lambda segment: segment.number)
    assert first.number == found.history.switches[0].lsn // SIZE, (
        "the segment in which the timeline began is one of them"
    )
    switched = [plain for plain in found.complete.values() if without_zeros(plain) < SIZE - PAGE_SIZE]
    assert 30 < len(switched) < len(found.complete)


def broken(major: int) -> Iterator[tuple[Segment, bytes, str]]:
    dice = random.Random(major)
    found = servers(major)
    for segment, plain in found.open.items():
        yield segment, plain, "open"
    full = {s: plain for s, plain in found.complete.items() if without_zeros(plain) > SIZE - PAGE_SIZE}
    old = next(iter(full.values()))
    for segment, plain in list(full.items())[1:]:
        page = dice.randrange(1, SIZE // PAGE_SIZE - 1) * PAGE_SIZE
        yield segment, plain[:page] + bytes(PAGE_SIZE) + plain[page + PAGE_SIZE :], "a page is zero"
        yield segment, plain[:page] + old[page:], "the rest is a recycled one's"
        yield segment, plain[:page] + old[page : page + PAGE_SIZE] + plain[page + PAGE_SIZE :], "a page is an old one's"
        yield segment, plain[:page].ljust(SIZE, b"\0"), "zeros from a page on"
    for segment, plain in found.complete.items():
        # Up to a page before the switch, as a receiver that was cut leaves it.
        used = (without_zeros(plain) - 1) // PAGE_SIZE * PAGE_SIZE
        if used >= PAGE_SIZE:
            yield segment, plain[:used].ljust(SIZE, b"\0"), "cut before its end"


@pytest.mark.parametrize("major", ALL)
def test_p13_what_a_server_has_not_completed_is_refused(major: int) -> None:
    looked: dict[str, int] = {}
    for segment, plain, what in broken(major):
        assert is_refused(plain, segment), f"{segment}: {what}, and it is taken for complete"
        looked[what] = looked.get(what, 0) + 1
    assert len(looked) == 6, looked


def is_refused(plain: bytes, segment: Segment) -> bool:
    try:
        check_complete(plain, segment, History(1))
    except BadSegment:
        return True
    return False
