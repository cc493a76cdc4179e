"""Floors, backups that people retain, and pins, as the store has them: what ``expire`` goes by and what it leaves."""

from __future__ import annotations

import re
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, Literal, TypeVar

import msgspec

from walkeeper.archive.layout import Layout
from walkeeper.archive.stated import FORMAT
from walkeeper.core.backup import Backup, BackupId
from walkeeper.core.coverage import Range
from walkeeper.core.floor import (
    LONGEST_PIN,
    MAX_FLOOR_BYTES,
    Floor,
    Pin,
    Retained,
    covered,
    decode,
    encode,
    moment,
    written,
)
from walkeeper.core.lsn import Lsn
from walkeeper.core.names import Segment
from walkeeper.errors import BadBackup, BadFloor, NotAuthentic, StoreError, StoreUnavailable
from walkeeper.lib import events
from walkeeper.lib.clock import since_boot, timestamp
from walkeeper.lib.retry import with_retries
from walkeeper.store.base import AlreadyThere, Store
from walkeeper.store.several import Several

_PASSED: Final = 1000
"""Numbers that are passed at most: others can write into the store."""
_FLOOR: Final = re.compile(r"([0-9]{8})(?:\.(revoked|done))?\.json\Z")
_RETAINED: Final = re.compile(r"retain-([0-9A-Za-z-]+)-([0-9]{8})\.json\Z")
_LISTINGS: Final = 10
"""How often pins are listed, at most, until two listings are the same."""
_RENEWED: Final = 86400.0
"""Seconds after which who works under a pin writes the next one."""
_LOOKS: Final = 3600.0
"""Seconds between two looks at that, and after a refusal."""
NOT_PINNED: Final = "walkeeper expire does not know of it: do not let it run meanwhile."
_Mark = TypeVar("_Mark", Floor, Retained)


@dataclass(frozen=True, slots=True)
class Expiry:
    """``floors`` are those that count, the oldest first: not revoked, and not done before the newest one that counts.

    ``numbers`` are all that were ever used; ``done`` and not revoked are those below which everything was deleted. ``retained``
    has the newest word about each backup, by id.
    """

    floors: tuple[Floor, ...] = ()
    stored_at: Mapping[int, datetime] = field(default_factory=dict)
    """When each floor was stored, by the store's own word, where it has one: a writer that slept has not used up its grace."""
    done: frozenset[int] = frozenset()
    numbers: frozenset[int] = frozenset()
    retained: tuple[Retained, ...] = ()

    def standing(self, now: datetime) -> list[Floor]:
        """Those whose grace is over, and below which not everything was deleted."""
        return [floor for floor in self.floors if floor.number not in self.done and self.stands_from(floor) <= now]

    def stands_from(self, floor: Floor) -> datetime:
        """When its grace is over."""
        begun = max(moment(floor.at), self.stored_at.get(floor.number, moment(floor.at)))
        return begun + timedelta(seconds=floor.grace)

    def held(self, now: datetime) -> dict[str, str]:
        """Which backups people retain at that moment: until when, by id."""
        return {each.backup: each.until for each in self.retained if moment(each.until) > now}

    @property
    def newest(self) -> Floor | None:
        return self.floors[-1] if self.floors else None


def read_expiry(store: Store, layout: Layout) -> Expiry:
    """One small listing, and few documents. Raises BadFloor or the store's errors."""
    floors: dict[int, datetime | None] = {}
    words: dict[str, set[int]] = {"revoked": set(), "done": set()}
    retained: dict[BackupId, int] = {}
    for info in store.list(layout.floors):
        name = info.key.removeprefix(layout.floors)
        if match := _FLOOR.match(name):
            if match[2]:
                words[match[2]].add(int(match[1]))
            else:
                floors[int(match[1])] = info.modified
        elif match := _RETAINED.match(name):
            with suppress(BadBackup):  # of nothing that walkeeper could have written
                id_ = BackupId.parse(match[1])
                retained[id_] = max(retained.get(id_, 0), int(match[2]))
    standing = sorted(floors.keys() - words["revoked"])
    wanted = [number for number in standing if number == standing[-1] or number not in words["done"]]
    return Expiry(
        tuple(_floor(store, layout, number) for number in wanted),
        {number: at for number, at in floors.items() if at is not None},
        frozenset(words["done"] & {*standing}),
        frozenset(floors),
        tuple(_retained(store, layout, id_, number) for id_, number in sorted(retained.items())),
    )


def below_floors(store: Store, layout: Layout) -> Mapping[int, Sequence[Range]]:
    """Segment numbers below the recorded floors, by timeline; nothing where one of them cannot be relied on."""
    try:
        return covered(read_expiry(store, layout).floors)
    except BadFloor as problem:
        events.failure("floor_unreadable", problem)
        return {}


def begins_since(store: Store, layout: Layout) -> Segment | None:
    """The segment that the archive begins with since all below a floor was deleted; None where nothing was. Raises the store's
    errors.

    A newer floor that waits is no reason to forget it: each daily run records one.
    """
    try:
        done = read_expiry(store, layout).done
        return _floor(store, layout, max(done)).first if done else None
    except BadFloor as problem:
        events.failure("floor_unreadable", problem)
        return None


def read_pins(store: Store, layout: Layout) -> list[Pin]:
    """All that are there, those too that have ended; from when the store got them, if that is later than they say.

    Raises BadFloor or the store's errors.

    Listed again after that: one that was renewed meanwhile is gone under its old name, and was not listed under its new one.
    """
    after = {info.key: info.modified for info in store.list(layout.pins)}
    for _ in range(_LISTINGS):
        listed, found = after, [_pin_at(store, layout, *each) for each in after.items()]
        after = {info.key: info.modified for info in store.list(layout.pins)}
        if after.keys() == listed.keys():
            return [pin for pin in found if pin is not None]
    raise StoreUnavailable(
        f"{layout.pins}: no two listings are the same", hint="Pins come and go there. Try again later."
    )


def _pin_at(store: Store, layout: Layout, key: str, stored_at: datetime | None) -> Pin | None:
    """None for one that has just been let go. Who wrote it may have had a clock that is behind."""
    body = store.get(key, MAX_FLOOR_BYTES)
    if body is None:
        return None
    pin = decode(Pin, body, key)
    if layout.pin(pin.id) != key:
        raise BadFloor(f"{key}: it says that it is {pin.id}", hint="Look at who may write there.")
    if stored_at is None or stored_at <= moment(pin.at):
        return pin
    until = stored_at + (moment(pin.until) - moment(pin.at))
    return msgspec.structs.replace(pin, at=written(stored_at), until=written(until))


def write_pin(store: Store, layout: Layout, pin: Pin) -> None:
    """Raises AlreadyThere, or the store's errors."""
    store.create(layout.pin(pin.id), encode(pin), {"format": FORMAT})


def write_pin_in_each(store: Store, layout: Layout, pin: Pin) -> list[str]:
    """Into each of several stores, as expire asks its own alone: what those said that did not take it. One that is there is as
    good. Raises the first's error where none took it.
    """
    stores = store.stores if isinstance(store, Several) else (store,)
    problems: list[StoreError] = []
    for each in stores:
        try:
            with suppress(AlreadyThere):
                write_pin(each, layout, pin)
        except StoreError as problem:
            problems.append(problem)
    if len(problems) == len(stores):
        raise problems[0]
    return [str(problem) for problem in problems]


def new_pin(backup: Backup, timeline: int, by: str, ahead: float) -> Pin:
    """For a restore of that backup along ``timeline``'s chain. ``ahead``: by how much the store's clock is before ours."""
    return _pin("restore", backup.id, timeline, backup.wal[0].start, by, ahead)


def pin_for_backup(id_: BackupId, timeline: int, start: Lsn, by: str, ahead: float) -> Pin:
    """For a backup that has just begun: its WAL from there on is needed."""
    return _pin("backup", str(id_), timeline, str(start), by, ahead)


class Lasting:
    """A pin that is in the store, for who may work for longer than it lasts: each day the next one takes its place."""

    def __init__(self, store: Store, layout: Layout, pin: Pin) -> None:
        self.pin = pin
        self._store = store
        self._layout = layout
        self._began = self._asked = since_boot()

    def tend(self, noted: Callable[[str], None] = lambda _: None) -> None:
        """``noted`` is told the next one's id before this one is let go. What the store refuses is tried again in an hour."""
        now = since_boot()
        if now - self._began < _RENEWED or now - self._asked < _LOOKS:
            return
        self._asked, before = now, self.pin
        newer = _next(before, moment(before.at) + timedelta(seconds=now - self._began))
        try:
            refused = write_pin_in_each(self._store, self._layout, newer)
        except StoreError as problem:
            events.failure("pin_not_renewed", problem, pin=before.id, until=before.until)
            return
        self.pin, self._began = newer, now
        noted(newer.id)
        for why in refused:
            events.warning("not_pinned", pin=newer.id, error=why, hint=NOT_PINNED)
        if refused:
            return  # who did not take the next one has this one still, which ends by itself
        try:
            let_go(self._store, self._layout, before.id)
        except StoreError as problem:
            events.info("pin_left", pin=before.id, until=before.until, error=problem)


@contextmanager
def pinned(store: Store, layout: Layout, pin: Pin, *, must: bool = False) -> Iterator[None]:
    """While something is done that needs it, for however long. Without a right to write one that is said, and it is done all the
    same; or, with ``must``, it raises the store's error.
    """
    there = True
    try:
        with suppress(AlreadyThere):  # by a first attempt, whose answer was lost
            with_retries(lambda: write_pin(store, layout, pin))
    except StoreError as problem:
        if must:
            raise
        there = False
        events.warning("not_pinned", error=problem, hint=NOT_PINNED)
    lasting, over = Lasting(store, layout, pin), threading.Event()

    def tend() -> None:
        while not over.wait(_LOOKS):
            lasting.tend()

    thread = threading.Thread(target=tend, name="pin", daemon=True)
    if there:
        thread.start()
    try:
        yield
    finally:
        if there:
            over.set()
            thread.join()
            try:
                let_go(store, layout, lasting.pin.id)
            except StoreError as problem:
                events.info("pin_left", pin=lasting.pin.id, until=lasting.pin.until, error=problem)


def _pin(kind: Literal["restore", "backup"], backup: str, timeline: int, lsn: str, by: str, ahead: float) -> Pin:
    at = timestamp(ahead)
    until = written(moment(at) + timedelta(seconds=LONGEST_PIN))
    id_ = f"{secrets.token_hex(8)}-0001"
    return Pin(id=id_, kind=kind, backup=backup, timeline=timeline, lsn=lsn, at=at, until=until, by=by)


def renewed(pin: Pin, ahead: float) -> Pin:
    """The next one of the same restore, from now on. Write it, and then let the old one go."""
    return _next(pin, moment(timestamp(ahead)))


def _next(pin: Pin, at: datetime) -> Pin:
    token, _, number = pin.id.partition("-")
    until = at + (moment(pin.until) - moment(pin.at))
    return msgspec.structs.replace(pin, id=f"{token}-{int(number) + 1:04}", at=written(at), until=written(until))


def let_go(store: Store, layout: Layout, pin: str) -> None:
    """By its id: the restore is over, or has renewed it."""
    store.delete(layout.pin(pin))


def write_floor(store: Store, layout: Layout, floor: Floor) -> Floor | None:
    """As it is recorded: the number is a later one where what has it is not authentic, such as a floor from before there was a
    key. None where somebody else took the number first. Raises the store's errors.
    """
    return _numbered(store, floor, layout.floor)


def note_floor(store: Store, layout: Layout, number: int, word: str, at: str) -> None:
    """That it is ``revoked``, or ``done``. Raises NotAuthentic where that could not be said, or the store's errors."""
    _create(store, layout.floor_is(number, word), f'{{"at": "{at}"}}\n'.encode())


def write_retained(store: Store, layout: Layout, retained: Retained) -> Retained | None:
    """As ``write_floor``."""
    id_ = BackupId.parse(retained.backup)
    return _numbered(store, retained, lambda number: layout.retained(id_, number))


def _floor(store: Store, layout: Layout, number: int) -> Floor:
    key = layout.floor(number)
    floor = decode(Floor, store.get(key, MAX_FLOOR_BYTES) or b"", key)
    if floor.number != number or int(floor.system_identifier) != layout.system_identifier:
        raise BadFloor(
            f"{key}: it says that it is floor {floor.number} of system identifier {floor.system_identifier}",
            hint="Look at who may write there.",
        )
    return floor


def _retained(store: Store, layout: Layout, id_: BackupId, number: int) -> Retained:
    key = layout.retained(id_, number)
    retained = decode(Retained, store.get(key, MAX_FLOOR_BYTES) or b"", key)
    if retained.backup != str(id_) or retained.number != number:
        raise BadFloor(f"{key}: it speaks of {retained.backup}", hint="Look at who may write there.")
    return retained


def _numbered(store: Store, mark: _Mark, key_of: Callable[[int], str]) -> _Mark | None:
    first = mark.number
    while True:
        try:
            return mark if _create(store, key_of(mark.number), encode(mark)) else None
        except NotAuthentic:
            if mark.number - first == _PASSED:
                raise
            mark = msgspec.structs.replace(mark, number=mark.number + 1)


def _create(store: Store, key: str, document: bytes) -> bool:
    try:
        store.create(key, document, {"format": FORMAT})
    except AlreadyThere:
        body = store.get(key, MAX_FLOOR_BYTES)
        return body is not None and bytes(body) == document
    return True
