"""How WAL gets to the archiver, in one word."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias, get_args

Way: TypeAlias = Literal["streaming", "builtin", "durable", "command", "several"]
WAYS: Final[tuple[Way, ...]] = get_args(Way)


def keys_of(way: Way) -> dict[str, str]:
    """The keys of walkeeper's configuration that choose it."""
    if way == "durable":
        return {"receiver": "builtin", "durability": "store"}
    if way == "several":  # stores; which they are is for who has them
        return {}
    return {"receiver": "builtin"} if way == "builtin" else {"archiver": way}
