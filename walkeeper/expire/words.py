"""What people say about single things: a backup stays for longer, a floor is revoked, a pin is let go; and the list of pins."""

from __future__ import annotations

import json as json_module
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Final

from walkeeper.archive.expiry import let_go, note_floor, read_expiry, read_pins, write_retained
from walkeeper.archive.open import Archives, open_archives
from walkeeper.archive.restorable import look, with_trials
from walkeeper.config import Config
from walkeeper.core.amounts import to_the_second
from walkeeper.core.backup import BackupId
from walkeeper.core.floor import FOREVER, Pin, Retained, lasting, moment, written
from walkeeper.core.record import Record
from walkeeper.core.windows import Windows
from walkeeper.errors import Unsafe
from walkeeper.expire.command import DONE, owned_record, store_time
from walkeeper.expire.look import REVOKED_BEFORE
from walkeeper.lib.terminal import printable
from walkeeper.lib.units import Age
from walkeeper.verify.answer import say
from walkeeper.verify.evidence import ask_the_dcs, locate

NEWEST: Final = "newest"
"""Instead of an id: the newest full backup of the cluster's own chain that was not found damaged, for timers."""


def retain(config: Config, backup: str, until: datetime | timedelta | None) -> int:
    """``until``: a time, or from now on; None withdraws an earlier word."""
    id_ = None if backup == NEWEST and until is not None else BackupId.parse(backup)
    return say(lambda: _retain(config, id_, until), does=True)


def revoke(config: Config) -> int:
    return say(lambda: _revoke(config), does=True)


def pins(config: Config, release: str | None, *, json: bool) -> int:
    """List them; or let one go, after which expire no longer waits for it."""
    return say(lambda: _pins(config, release, json=json), json=json, does=bool(release))


def _retain(config: Config, id_: BackupId | None, until: datetime | timedelta | None) -> tuple[str, int]:
    record, now, archives = _open(config)
    until = now + until if isinstance(until, timedelta) else until
    system = int(record.system_identifier)
    found = look(archives, system, record.size, record)
    by_timer = id_ is None
    id_ = id_ or _newest_full(with_trials(archives.store, archives.layout(system), found).windows)
    if until is not None and until <= now:
        raise Unsafe(
            f"expire --until {until:%Y-%m-%d}: not later than today, {now:%Y-%m-%d} in UTC",
            hint=f"Name a day that is to come. walkeeper expire --release {id_} ends an earlier word.",
        )
    judged = next((each for each in found.windows.judged if each.backup.id == str(id_)), None)
    if until is not None and (judged is None or not judged.counts):
        raise Unsafe(
            f"backup {id_}: {judged.why if judged else 'there is no such backup'}",
            hint="A backup that a floor has given up comes back with walkeeper expire --revoke, while its grace lasts.",
        )
    standing = next((each for each in found.expiry.retained if each.backup == str(id_)), None)
    if by_timer and standing is not None and until is not None and moment(standing.until) >= until:
        return f"Backup {id_} stays {lasting(standing.until)}, as was said before.", DONE
    word = Retained(
        number=standing.number + 1 if standing else 1, backup=str(id_), at=written(now), until=written(until or now)
    )
    if write_retained(archives.store, archives.layout(system), word) is None:
        raise Unsafe(f"backup {id_}: somebody else has just said how long it stays", hint="Call it again.")
    after = look(archives, system, record.size, record)
    if until is not None and str(id_) not in {backup.id for backup in after.windows.complete}:
        raise Unsafe(
            f"backup {id_}: a floor that was recorded at this moment has given it up", hint="walkeeper expire --revoke"
        )
    said = f"stays {lasting(word.until)}, with its own WAL" if until is not None else "stays no longer than others"
    return f"Backup {id_} {said}.", DONE


def _newest_full(windows: Windows) -> BackupId:
    chain = windows.chains[windows.kept.timeline]
    fulls = [backup for window in chain for backup in window.backups if backup.kind == "full"]
    if not fulls:
        raise Unsafe("backup newest: no full one is complete", hint="walkeeper backups lists them.")
    return BackupId.parse(fulls[-1].id)


def _revoke(config: Config) -> tuple[str, int]:
    record, now, archives = _open(config)
    layout = archives.layout(int(record.system_identifier))
    expiry = read_expiry(archives.store, layout)
    newest = expiry.newest
    if newest is None or now > expiry.stands_from(newest) - REVOKED_BEFORE:
        which = "there is no floor" if newest is None else f"the grace of floor {newest.number} is over"
        raise Unsafe(f"floor: {which}, so that there is nothing to revoke", hint="What is deleted does not come back.")
    note_floor(archives.store, layout, newest.number, "revoked", written(now))
    return f"Floor {newest.number} is revoked: nothing below it goes.", DONE


def _pins(config: Config, release: str | None, *, json: bool) -> tuple[str, int]:
    archives, claim = open_archives(config, to_read=True), ask_the_dcs(config)
    layout, _ = locate(config, archives.store, claim, None)
    found = read_pins(archives.store, layout)
    if release is not None:
        pin = next((each for each in found if each.id == release), None)
        if pin is None:
            raise Unsafe(f"pin {release}: there is none", hint="walkeeper pins lists them.")
        let_go(archives.store, layout, pin.id)
        return f"Pin {release} is gone: expire no longer waits for it.", DONE
    now = store_time(config)
    if json:
        fields = ("id", "kind", "backup", "timeline", "lsn", "at", "until", "by")
        listed = [{**{each: getattr(pin, each) for each in fields}, "over": moment(pin.until) < now} for pin in found]
        return json_module.dumps(listed, indent=2), DONE
    return "\n".join(printable(line) for pin in found for line in _lines(pin, now)) or "Nothing is pinned.", DONE


def _lines(pin: Pin, now: datetime) -> Iterator[str]:
    over = ", which is over" if moment(pin.until) < now else ""
    yield f"{pin.id}  {pin.kind} {pin.backup}"
    yield f"  until {to_the_second(pin.until)}{over}; from {pin.lsn} on timeline {pin.timeline}; {pin.by}"


def _open(config: Config) -> tuple[Record, datetime, Archives]:
    return owned_record(config), store_time(config), open_archives(config)


def parse_until(text: str) -> datetime | timedelta:
    """A date in UTC, ``2027-11-28``; from now, ``365d``; or ``forever``. Raises ValueError."""
    if text == "forever":
        return FOREVER
    if text.endswith(("d", "h")):
        return timedelta(seconds=Age.parse(text))
    return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)
