"""Where in the WAL a transaction ended, or a restore point was made: what a recovery can be told to look for without a position.

Formats: ``xl_restore_point`` in ``src/include/access/xlog_internal.h``, and those of ``core.commits``. A prepared transaction's
own number is in the data of the record that ends it. The same from PostgreSQL 13 to 19.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final, TypeAlias

from walkeeper.core.lsn import Lsn
from walkeeper.core.names import Segment
from walkeeper.core.wal_page import PAGE_SIZE, Plain
from walkeeper.core.wal_records import begins_in, read_bytes

Find: TypeAlias = Callable[[Plain, Segment, Plain, Lsn], Lsn | None]
"""Of a segment, with the beginning of the next one: where the first record ends, behind that position, that was looked for; None
where it is not."""

_HEADER_SIZE: Final = 24
_LENGTH: Final = struct.Struct("=I")
_XID: Final = struct.Struct("=I")
_XID_AT: Final = 4
_INFO_AT: Final = 16
_MANAGER_AT: Final = 17
_XLOG: Final = 0
_TRANSACTIONS: Final = 1
_RESTORE_POINT: Final = 0x70
_NAME_AT: Final = _HEADER_SIZE + 2 + 8
_ENDS: Final = frozenset({0x00, 0x20})
_ENDS_PREPARED: Final = frozenset({0x30, 0x40})


def transaction_end(xid: int) -> Find:
    """The commit or the rollback of that transaction, by the lower half of its number, as in the WAL."""
    wanted = _XID.pack(xid & 0xFFFFFFFF)

    def is_it(body: bytes) -> bool:
        kind = body[_INFO_AT] & 0x70
        if kind in _ENDS:
            return body[_XID_AT : _XID_AT + 4] == wanted
        return kind in _ENDS_PREPARED and wanted in body[_HEADER_SIZE:]

    return lambda plain, segment, following, behind: _find(plain, segment, following, behind, _TRANSACTIONS, is_it)


def restore_point(name: str) -> Find:
    """One with that name."""
    wanted = name.encode() + b"\0"

    def is_it(body: bytes) -> bool:
        return body[_INFO_AT] & 0xF0 == _RESTORE_POINT and body[_NAME_AT : _NAME_AT + len(wanted)] == wanted

    return lambda plain, segment, following, behind: _find(plain, segment, following, behind, _XLOG, is_it)


def _find(
    plain: Plain, segment: Segment, following: Plain, behind: Lsn, manager: int, is_it: Callable[[bytes], bool]
) -> Lsn | None:
    for page in range(0, len(plain), PAGE_SIZE):
        limit = min(len(plain), page + PAGE_SIZE) - _HEADER_SIZE
        for at in begins_in(plain, page):
            if at <= limit and plain[at + _MANAGER_AT] != manager:
                continue
            found = read_bytes(plain, segment, at, manager)
            if found is None and following and len(plain) == segment.size:
                (length,) = _LENGTH.unpack_from(plain, at)
                found = read_bytes(plain + following[: length + length // 128 + PAGE_SIZE], segment, at, manager)
            if found is not None and segment.start + found[1] > behind and is_it(found[0]):
                return Lsn(segment.start + found[1])
    return None
