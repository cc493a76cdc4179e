"""What tests ask of a store in a bucket, by operation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeAlias

import pytest

from walkeeper.store.base import Store

KEY: Final = "cluster/wal/000000010000000000000001.zst"
BODY: Final = bytes(range(256)) * 4096
METADATA: Final = {"sha256": "0f" * 32, "packed-size": "16777216"}

Call: TypeAlias = Callable[[Store], object]

CALLS: Final[dict[str, tuple[Any, Call]]] = {
    "create": ("PUT", lambda store: store.create(KEY, BODY, METADATA)),
    "head": ("HEAD", lambda store: store.head(KEY)),
    "get": ("GET", lambda store: store.get(KEY)),
    "list": ("LIST", lambda store: list(store.list(""))),
    "folders": ("LIST", lambda store: list(store.folders(""))),
    "delete": ("DELETE", lambda store: store.delete(KEY)),
}
EACH_CALL: Final = pytest.mark.parametrize(("operation", "call"), CALLS.values(), ids=CALLS.keys())
