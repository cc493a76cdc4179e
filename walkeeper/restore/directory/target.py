"""Up to where: what a person wrote after ``--to``, as a recovery target of PostgreSQL's."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal, TypeAlias

from walkeeper.core.lsn import Lsn
from walkeeper.errors import BadName, WrongCall

Action: TypeAlias = Literal["pause", "promote", "shutdown"]

_USAGE: Final = (
    "It is latest, immediate, a time like '2026-11-27 23:10' (this host's time zone, or with one: 23:10+01), a position like "
    "0/5000028, a transaction's number, or the name of a restore point."
)
_TIMES: Final = {"now", "today", "tomorrow", "yesterday", "epoch", "infinity"}
"""Words that PostgreSQL takes for a time, and nobody for the name of a restore point: to look for one reads all WAL."""
_PREFIXED: Final = re.compile(r"(time|lsn|xid|name):(.+)", re.DOTALL)
_ZONE: Final = re.compile(r"\s*([A-Za-z]{1,5})\Z")
"""At the end of a time, as in PostgreSQL's log. It is known only as what this host's zone is called then: elsewhere it may mean
another one."""
_NAME: Final = re.compile(r"[A-Za-z_].{0,62}", re.DOTALL)
_LONGEST_NAME: Final = 63
_HIGHEST_XID: Final = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Latest:
    """Everything that is stored."""

    text: str = "everything that is archived"


@dataclass(frozen=True, slots=True)
class Immediate:
    """Where the backup is consistent, and no further."""

    text: str = "where the backup is consistent"


@dataclass(frozen=True, slots=True)
class ToLsn:
    """Every record that ends there or before."""

    lsn: Lsn

    @property
    def text(self) -> str:
        return f"position {self.lsn}"


@dataclass(frozen=True, slots=True)
class ToTime:
    """Every transaction that ended by then, with a zone."""

    at: datetime

    @property
    def text(self) -> str:
        return written(self.at)


@dataclass(frozen=True, slots=True)
class ToXid:
    """That transaction's commit."""

    xid: int

    @property
    def text(self) -> str:
        return f"transaction {self.xid}"


@dataclass(frozen=True, slots=True)
class ToName:
    """A restore point of ``pg_create_restore_point``."""

    name: str

    @property
    def text(self) -> str:
        return f"restore point {self.name!r}"


Target: TypeAlias = Latest | Immediate | ToLsn | ToTime | ToXid | ToName


def parse(text: str) -> Target:
    """``time:…``, ``lsn:…``, ``xid:…`` and ``name:…`` say what it is; else its form does. Raises WrongCall."""
    prefixed = _PREFIXED.fullmatch(text)
    kind, value = (prefixed[1], prefixed[2].strip()) if prefixed else ("", text.strip())
    if not kind and value in ("latest", "immediate"):
        return Latest() if value == "latest" else Immediate()
    if not kind and value.lower() in {"latest", "immediate", *_TIMES}:
        raise _wrong(text)
    if kind == "lsn" or (not kind and re.fullmatch(r"[0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8}", value)):
        try:
            return ToLsn(Lsn.parse(value))
        except BadName:
            raise _wrong(text) from None
    if kind == "xid" or (not kind and value.isdecimal()):
        if not value.isascii() or not value.isdecimal() or not 2 < int(value) <= _HIGHEST_XID:
            raise _wrong(text)
        return ToXid(int(value))
    if kind == "time" or (not kind and re.match(r"[0-9]", value)):
        return ToTime(_moment(text, value))
    if kind == "name" or _NAME.fullmatch(value):
        if len(value.encode()) > _LONGEST_NAME or not value.isprintable():
            raise _wrong(text)
        return ToName(value)
    raise _wrong(text)


def written(at: datetime) -> str:
    """As PostgreSQL takes it: in UTC, to the microsecond."""
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f").rstrip("0").removesuffix(".") + "+00"


def settings(target: Target, *, exclusive: bool) -> dict[str, str]:
    """The one of PostgreSQL's settings that says it, and whether what is at the target belongs to it.

    A position is where bytes end, as everywhere in walkeeper: PostgreSQL's own inclusive target would replay the record that
    begins there, too.
    """
    inclusive = "off" if exclusive else "on"
    if isinstance(target, Latest):
        return {}
    if isinstance(target, Immediate):
        return {"recovery_target": "immediate"}
    if isinstance(target, ToLsn):
        return {"recovery_target_lsn": str(target.lsn), "recovery_target_inclusive": "off"}
    if isinstance(target, ToTime):
        return {"recovery_target_time": written(target.at), "recovery_target_inclusive": inclusive}
    if isinstance(target, ToXid):
        return {"recovery_target_xid": str(target.xid), "recovery_target_inclusive": inclusive}
    return {"recovery_target_name": target.name}


def _moment(text: str, value: str) -> datetime:
    if not re.match(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]", value):
        raise _wrong(text)
    value = re.sub(r"\s*(UTC|GMT|Z)\Z", "+00:00", value, flags=re.IGNORECASE)
    value = re.sub(r"\s+(?=[+-][0-9:]+\Z)", "", value)  # as PostgreSQL's log has it where a zone has no name
    zone = _ZONE.search(value)
    try:
        at = datetime.fromisoformat(_ZONE.sub("", value))
        here = [at.replace(fold=fold).astimezone() for fold in (0, 1)]
        found = [each.astimezone(UTC) for each in here]
    except (ValueError, OverflowError):
        raise _wrong(text) from None
    if zone is not None:
        found = [each.astimezone(UTC) for each in here if (each.tzname(), each.replace(tzinfo=None)) == (zone[1], at)]
        if not found:
            raise _wrong(text)
    elif found[0] != found[1]:
        raise WrongCall(
            f"--to {text!r}: clocks were put back or forward then, so that it was twice or never, in this host's time zone",
            hint=f"Say which is meant: --to '{here[0]}', or --to '{here[1]}'.",
        )
    return found[0]


def _wrong(text: str) -> WrongCall:
    return WrongCall(f"--to {text!r}: it is not a target", hint=_USAGE)
