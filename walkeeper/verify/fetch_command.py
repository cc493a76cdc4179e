"""``walkeeper fetch``: WAL files out of the archive into a directory, for people. Whole and verified, or not at all.

Exit codes are verify's: 0 all of them lie there, 1 something is missing, damaged or in the way, 2 cannot tell.
"""

from __future__ import annotations

import os
import secrets
import shlex
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Final, NamedTuple

from walkeeper.archive import histories
from walkeeper.archive.codec import Codec
from walkeeper.archive.layout import Layout
from walkeeper.archive.open import open_archives
from walkeeper.archive.read import fetch
from walkeeper.config import Config
from walkeeper.core.history import History, parse_history
from walkeeper.core.lsn import SegmentSize
from walkeeper.core.names import HistoryFile, Segment, WalFile, parse_wal_name
from walkeeper.errors import BadName, CannotTell, Locked, Refused, StoreError
from walkeeper.lib import durable
from walkeeper.lib.parallel import in_parallel
from walkeeper.lib.retry import with_retries
from walkeeper.lib.terminal import Progress, complain
from walkeeper.store.base import Store
from walkeeper.verify.answer import CANNOT_TELL, DAMAGED, SOUND, say
from walkeeper.verify.evidence import ask_the_dcs, locate

TOLD: Final = 20
"""Problems that are told one by one."""


class Outcome(Enum):
    FETCHED = "fetched"
    THERE = "there already"
    DAMAGED = "damaged, missing or in the way"
    UNKNOWN = "cannot tell"


class Result(NamedTuple):
    """Of one file. ``problem`` and ``hint`` say why it was not fetched."""

    name: str
    outcome: Outcome
    problem: str = ""
    hint: str = ""


def main(config: Config, what: str, directory: Path, *, system_identifier: int | None) -> int:
    """Fetch ``what``: a file's name, or FIRST..LAST of two segments. Returns the exit code."""
    return say(lambda: _work(config, what, directory, system_identifier), does=True)


def _work(config: Config, what: str, directory: Path, system_identifier: int | None) -> tuple[str, int]:
    archives = open_archives(config, to_read=True)
    store, codec = archives.store, archives.codec
    layout, size = locate(config, store, ask_the_dcs(config), system_identifier)
    files = wanted(what, store, layout, size)
    _make(directory)

    def one(numbered: tuple[int, WalFile]) -> tuple[int, Result]:
        number, file = numbered
        return number, fetch_one(store, layout, codec, file.name, directory)

    results: dict[Outcome, int] = dict.fromkeys(Outcome, 0)
    problems: list[tuple[int, Result]] = []
    with Progress() as progress:
        for number, result in in_parallel(one, enumerate(files), config.upload_workers):
            results[result.outcome] += 1
            if result.problem:
                problems.append((number, result))
            progress.show(f"{sum(results.values()):,} files")
    _tell(problems)
    code = DAMAGED if results[Outcome.DAMAGED] else CANNOT_TELL if results[Outcome.UNKNOWN] else SOUND
    return _summary(results, directory), code


def wanted(what: str, store: Store, layout: Layout, size: SegmentSize) -> Iterator[WalFile]:
    """The files of a range: on one timeline those of that timeline, else of the chain, with the histories that it passes.

    Raises BadName or CannotTell, at once; the files are made up one by one.
    """
    first_name, dots, last_name = what.partition("..")
    if not dots:
        return iter((parse_wal_name(what, size),))
    first, last = Segment.parse(first_name, size), Segment.parse(last_name, size)
    if last.number < first.number or last.timeline < first.timeline:
        raise BadName(f"{what!r}: it ends before it begins")
    if first.timeline == last.timeline:
        return (Segment(first.timeline, number, size) for number in range(first.number, last.number + 1))
    history = _history(store, layout, last.timeline)
    for segment in (first, last):
        if not history.contains(segment):
            raise BadName(
                f"{what!r}: {segment} is not a file of timeline {last.timeline}'s chain",
                hint=f"That has {history.segment(segment.number, size)} there. walkeeper list shows what forked where.",
            )
    return _along(history, first, last)


def fetch_one(store: Store, layout: Layout, codec: Codec, name: str, directory: Path) -> Result:
    """Raises CannotTell where the directory cannot be written: the next file would fare no better."""
    try:
        plain = with_retries(lambda: fetch(store, layout, codec, name))
    except (Locked, StoreError) as problem:
        return Result(name, Outcome.UNKNOWN, str(problem), problem.hint)
    except (CannotTell, Refused) as problem:
        return Result(name, Outcome.DAMAGED, str(problem), problem.hint)
    if plain is None:
        return Result(name, Outcome.DAMAGED, "it is not in the archive", "walkeeper list says what is.")
    place = directory / name
    try:
        return _place(place, plain)
    except OSError as error:
        raise CannotTell(f"{place}: {error.strerror}", hint="Give it room, and the right to write there.") from None


def _tell(problems: list[tuple[int, Result]]) -> None:
    """In the order of the files, and what several of them in a row have in common once."""
    groups: list[list[tuple[int, Result]]] = []
    for number, result in sorted(problems):
        last = groups[-1][-1] if groups else None
        if last is not None and last[0] + 1 == number and last[1].problem == result.problem:
            groups[-1].append((number, result))
        else:
            groups.append([(number, result)])
    for group in groups[:TOLD]:
        (_, first), (_, last_one) = group[0], group[-1]
        named = first.name if len(group) == 1 else f"{first.name} to {last_one.name}, {len(group):,} files"
        complain(f"{named}: {first.problem}", first.hint)
    if len(groups) > TOLD:
        rest = sum(len(group) for group in groups[TOLD:])
        complain(f"and {rest:,} files more", "")


def _along(history: History, first: Segment, last: Segment) -> Iterator[WalFile]:
    passed = [timeline for timeline in history.timelines if first.timeline < timeline <= last.timeline]
    yield from (HistoryFile(timeline) for timeline in passed)
    yield from (history.segment(number, first.size) for number in range(first.number, last.number + 1))


def _history(store: Store, layout: Layout, timeline: int) -> History:
    content = with_retries(lambda: histories.content(store, layout, timeline))
    if content is None:
        raise CannotTell(
            f"{HistoryFile(timeline).name}: it is not in the archive, so that its chain is not known",
            hint="Fetch each timeline's range separately.",
        )
    return parse_history(timeline, content)


def _make(directory: Path) -> None:
    try:
        directory.mkdir(exist_ok=True)
    except OSError as error:
        raise CannotTell(f"{directory}: {error.strerror}", hint="Name a directory, or one that can be made.") from None


def _place(place: Path, plain: bytes) -> Result:
    """Under its name only when it is whole; what is there already stays as it is."""
    if (found := _compared(place, plain)) is not None:
        return found
    tmp = place.with_name(f".{place.name}.{secrets.token_hex(8)}")
    fd = os.open(tmp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        durable.write_all(fd, plain)
        os.fsync(fd)
        durable.publish_by_link(tmp, place)
    except FileExistsError:
        return _compared(place, plain) or Result(place.name, Outcome.DAMAGED, f"{place} came and went")
    finally:
        os.close(fd)
        tmp.unlink(missing_ok=True)
    return Result(place.name, Outcome.FETCHED)


def _compared(place: Path, plain: bytes) -> Result | None:
    """None where there is nothing under that name."""
    if not os.path.lexists(place):
        return None
    if place.is_file() and place.stat().st_size == len(plain) and place.read_bytes() == plain:
        return Result(place.name, Outcome.THERE)
    return Result(
        place.name, Outcome.DAMAGED, f"{place} is there and is something else", "It was left as it is: move it away."
    )


def _summary(results: dict[Outcome, int], directory: Path) -> str:
    counted = ", ".join(f"{count:,} {outcome.value}" for outcome, count in results.items() if count)
    there = results[Outcome.FETCHED] + results[Outcome.THERE]
    if not there:
        return f"{directory}: {counted}"
    return (
        f"{directory}: {counted}.\n"
        f"A server in recovery takes them from there with\n"
        f"  restore_command = 'cp {shlex.quote(str(directory.absolute()))}/%f %p'\n"
        "or from its own pg_wal, if they are copied there before it is started.\n"
        "(walkeeper restore-wal needs no such copy.)"
    )
