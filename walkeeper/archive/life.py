"""Signs of life in the store: ``life/<token>/<number>``, each a small document that says who gave it, for people."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Final

from walkeeper.archive.layout import Layout
from walkeeper.archive.stated import FORMAT
from walkeeper.errors import CannotTell, NotAuthentic, WalkeeperError
from walkeeper.lib import events
from walkeeper.lib.clock import timestamp
from walkeeper.store.base import SMALL, AlreadyThere, ObjectInfo, Store

MOST: Final = 10_000
"""Objects that one look takes at most: ten requests."""
FIRST: Final = 1
"""A token's first number."""
_SIGN: Final = re.compile(r"([0-9a-f]{16})/([0-9]{12}|[1-9][0-9]{12,})\Z")
_PRINTABLE: Final = re.compile(r"[\w.:+ -]{1,100}\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class Sign:
    """One of them. ``modified`` is the store's word."""

    token: str
    number: int
    modified: datetime | None = None


def signs(store: Store, layout: Layout) -> list[Sign]:
    """What the store lists, in order; a name alone says nothing of who gave it. Raises CannotTell, or the store's errors."""
    listed = list(islice(store.list(layout.lives), MOST + 1))
    if len(listed) > MOST:
        raise CannotTell(
            f"{store.url}/{layout.lives}: more than {MOST} objects, so that nobody can tell who lives in this archive",
            hint="An agent keeps three there. Look at who may write there, and move the others away.",
        )
    found = (parse(info.key.removeprefix(layout.lives), info) for info in listed)
    return [sign for sign in found if sign is not None]


def is_planted(store: Store, layout: Layout, sign: Sign) -> bool:
    """Whether somebody without the key gave it, where there is one. Raises the store's errors."""
    try:
        store.head(layout.life(sign.token, sign.number))
    except NotAuthentic as planted:
        events.failure("object_not_authentic", planted)
        return True
    return False


def parse(name: str, info: ObjectInfo) -> Sign | None:
    """A key below ``life/``; None for what is not ours."""
    match = _SIGN.match(name)
    return Sign(match[1], int(match[2]), info.modified) if match else None


def newest(found: Iterable[Sign]) -> dict[str, Sign]:
    """The one with the highest number, by token."""
    return {sign.token: sign for sign in sorted(found, key=lambda sign: sign.number)}


def give(store: Store, layout: Layout, sign: Sign, owner: str) -> None:
    """Store one. That it is there already is one as well. Raises NotAuthentic where it is planted, or the store's errors."""
    said = {"owner": owner, "host": socket.gethostname(), "at": timestamp()}
    try:
        store.create(layout.life(sign.token, sign.number), json.dumps(said).encode() + b"\n", {"format": FORMAT})
    except AlreadyThere:
        store.head(layout.life(sign.token, sign.number))


def drop_older(store: Store, layout: Layout, found: Iterable[Sign], token: str) -> None:
    """Remove that token's signs between its first, which says how old it is, and the newest one in ``found`` (P2).

    That one stays for whoever lists just when the next is stored.
    """
    own = sorted(sign.number for sign in found if sign.token == token)
    for number in own[:-1]:
        if number != FIRST:
            store.delete(layout.life(token, number))


def who(store: Store, layout: Layout, sign: Sign) -> str:
    """Who gave it, for people: whatever is odd about it, or cannot be had, is left out."""
    try:
        said = json.loads(store.get(layout.life(sign.token, sign.number), SMALL) or b"{}")
    except (ValueError, RecursionError, WalkeeperError):
        said = None
    fields = said if isinstance(said, dict) else {}
    owner, host, at = (
        value if isinstance(value := fields.get(key), str) and _PRINTABLE.match(value) else "?"
        for key in ("owner", "host", "at")
    )
    return f"{owner} on host {host}, at {at}"
