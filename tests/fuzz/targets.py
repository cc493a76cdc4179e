"""What is fuzzed: for each target how its input is made, and what must take it.

A target may raise walkeeper's own errors and nothing else. Inputs are true ones that were damaged, documents of the right names
and of any values, and plain noise.
"""

from __future__ import annotations

import atexit
import json
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import msgspec
from hypothesis import strategies as st

from tests.agent.test_metrics import KNOWN
from tests.core.values import a_backup, history_text, paged_segment
from tests.twins.memory_store import MemoryStore
from walkeeper.agent.http.server import Pages, serve
from walkeeper.archive import expiry, tail_read
from walkeeper.archive.authentic import AuthenticStore, Trust
from walkeeper.archive.backups import Backups
from walkeeper.archive.codec import Codec
from walkeeper.archive.contents import Contents, starts, stated_size, take
from walkeeper.archive.histories import stored_history, timelines
from walkeeper.archive.layout import Layout
from walkeeper.archive.read import Reader, opened, parts, prove_archive, wal_file
from walkeeper.archive.restorable import read_documents
from walkeeper.archive.tail import stored_pieces
from walkeeper.archive.write import Archive
from walkeeper.config import load
from walkeeper.control.server import AgentLock, ControlServer
from walkeeper.core import backup, backup_index, commits, floor, proof, wal_records
from walkeeper.core.history import History, Switch, parse_history
from walkeeper.core.lsn import MIB, Lsn, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.core.record import Record, decode_record
from walkeeper.core.wal_page import SegmentHeader, check_every_page, check_header, check_pages
from walkeeper.errors import WalkeeperError
from walkeeper.push.place import parse_path
from walkeeper.store.base import Body, Store

SYSTEM: Final = 7300000000000000001
SIZE: Final = SegmentSize(MIB)
LAYOUT: Final = Layout("demo", None, SYSTEM)
SEGMENT: Final = Segment(1, 5, SIZE)
TWO: Final = History(2, (Switch(1, Lsn(5 * MIB + 100)),))
ID: Final = "20261128T020000Z-00000001-0a1b2c3d"


@dataclass(frozen=True, slots=True)
class Target:
    """``take`` gets what ``made`` makes."""

    made: st.SearchStrategy[Any]
    take: Callable[[Any], object]


# --- inputs -----------------------------------------------------------------------------------------------------------


@st.composite
def damaged(draw: st.DrawFn, *whole: bytes) -> bytes:
    """One of those with some bytes changed, taken out, put in, or doubled."""
    data = bytearray(draw(st.sampled_from(whole)))
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        length = draw(st.sampled_from([1, 2, 4, 8, 100, 8192]))
        match draw(st.sampled_from(["change", "flip", "cut", "put", "double", "end"])):
            case "change":
                data[at : at + length] = draw(
                    st.binary(min_size=length, max_size=length) if length <= 8 else st.just(b"")
                )
            case "flip" if data:
                data[at] ^= 1 << draw(st.integers(0, 7))
            case "cut":
                del data[at : at + length]
            case "put":
                data[at:at] = draw(st.binary(max_size=16))
            case "double":
                data[at:at] = data[at : at + length]
            case _:
                del data[at:]
    return bytes(data)


ODD: Final[list[Any]] = [
    0, -1, 1, 2**31, 2**63, 2**64, 10**400, 0.5, 1e308, float("inf"), float("nan"), True, False, None, "", "0", "0/0",
    "FFFFFFFF/FFFFFFFF", "0/100000000", "000000010000000000000005", "7300000000000000001", "\x00", "\ud800", "ü\n\x1b[2J", "x" * 5000,
    "2026-11-28T02:00:00Z", "9999-99-99T99:99:99Z", "20261128T020000Z-00000001-0a1b2c3d", [], {}, [[]], [{}], "../../etc/passwd",
]  # fmt: skip
values = st.recursive(
    st.sampled_from(ODD) | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=6,
)


def document(text: str) -> bytes:
    """What a program that is not ours may have written."""
    return text.encode("utf-8", "surrogatepass")


def documents(true: Mapping[str, Any]) -> st.SearchStrategy[bytes]:
    """That document with any values in place of some, and as text with damage."""

    def changed(changes: Mapping[str, Any]) -> bytes:
        return document(json.dumps({**true, **changes}))

    keys = st.sampled_from(sorted(true)) | st.text(max_size=8)
    nested = st.sampled_from([b"[" * 20_000, b'{"a":' * 20_000, b"1" * 20_000, b'"' + b"\\u0000" * 3000 + b'"'])
    return (
        st.dictionaries(keys, values, max_size=3).map(changed)
        | damaged(json.dumps(true).encode())
        | nested
        | st.binary(max_size=200)
    )


@cache
def segment_bytes() -> bytes:
    return bytes(paged_segment(SEGMENT, SYSTEM, History(1)))


@cache
def bodies() -> tuple[bytes, ...]:
    plain = segment_bytes()
    bomb = Codec().encode(bytes(64 * MIB))
    return (
        Codec().encode(plain),
        Codec().encode(plain[: MIB // 2]),
        Codec().encode(b""),
        bomb,
        Codec().encode(plain * 2),
    )


RECORD: Final = json.loads(
    Record(
        system_identifier=str(SYSTEM), segment_size=MIB, timeline=2, lsn="0/500000", start=SEGMENT.name, owner="a", session="s",
    ).encode()
)  # fmt: skip
_names = st.text("0123456789ABCDEF", min_size=24, max_size=24) | st.sampled_from(
    [
        SEGMENT.name,
        "000000020000000000000005",
        "FFFFFFFFFFFFFFFFFFFFFFFF",
        "000000000000000000000000",
        "00000001000000FF000000FF",
    ]
)
_suffixes = st.sampled_from(
    [
        "",
        ".zst",
        ".zst.age",
        ".again.zst",
        ".again",
        ".json",
        ".partial.zst",
        ".00000028.backup.zst",
        ".accepted.json",
        ".history",
        "x",
    ]
)
_kinds = st.sampled_from(
    ["wal", "start", "gap", "history", "tail", "backup", "expire", "pin", "life", "probe", "", "..", "W"]
)


@st.composite
def keys(draw: st.DrawFn) -> str:
    """Of objects below one archive: near to true ones, or not."""
    name = draw(_names)
    kind = draw(_kinds)
    inner = {
        "wal": f"{name[:16]}/{name}",
        "gap": f"{name}-{draw(_names)[:16]}",
        "history": name[:8],
        "tail": f"{name}/{draw(_names)[:8]}-{draw(_names)[:8]}-{draw(st.text('abc0', max_size=12))}",
        "backup": f"20261128T020000Z-{name[:8]}-{name[:8].lower()}/{draw(st.sampled_from(['backup.json', 'data/' + 'a' * 64, 'x']))}",
        "expire": draw(st.sampled_from(["00000001", "00000001.revoked", f"retain-{name}-00000001", "99999999"])),
        "pin": draw(st.sampled_from(["0011223344556677-0001", name])),
    }.get(kind, name)
    odd = draw(st.sampled_from(["", "", "", "\n", " ", "/", "\x1b[2J", "ü"]))
    return f"{LAYOUT.root}{kind}/{inner}{odd}{draw(_suffixes)}"


listings = st.dictionaries(
    keys(), st.sampled_from([b"", b"{}", b'{"segment_size": 1048576}', b'{"segment_size": 1e999}', b"x"]), max_size=30
)

YAML: Final = b"""scope: demo
name: n1
etcd3: {host: 127.0.0.1:9}
postgresql:
  listen: 127.0.0.1:5432
  data_dir: /tmp/nowhere/data
  authentication: {replication: {username: r, password: p}}
walkeeper:
  store: {s3: {bucket: our-wal, region: r, endpoint: "http://127.0.0.1:9"}}
  encryption: {recipients: []}
  agent: {listen: "127.0.0.1:8018", poll_interval: 2s}
  spool: {limit: 1GiB}
"""
_yaml_words = st.lists(
    st.sampled_from(
        [b"scope", b"walkeeper", b"store", b"s3", b": ", b":\n  ", b"[", b"]", b"{", b"}", b"*a", b"&a ", b"!!python/object:os.system ",
         b"!x ", b"<<: ", b"- ", b"? ", b"| ", b"> ", b"'", b'"', b"\n", b"---\n", b"%TAG", b".inf", b"0x1f", b"1_000", b"2026-11-28", b"\t",
         b"\x00", b"\xff", b"\xef\xbb\xbf", b"~", b"#", b"password", b"1e999"]
    ),
    max_size=40,
).map(b"".join)  # fmt: skip


# --- what takes them --------------------------------------------------------------------------------------------------


def take_history(content: bytes) -> None:
    found = parse_history(9, content)
    _ = found.timelines, found.contains(SEGMENT), found.segment_at(Lsn(5 * MIB), SIZE), found.parts_from(TWO)


def take_segment(plain: bytes) -> None:
    """Each look on its own: what one refuses another may still be asked about."""
    with suppress(WalkeeperError):
        check_header(SegmentHeader.parse(plain, SEGMENT.name), SEGMENT, SYSTEM, History(1))
    for look in (check_pages, check_every_page, wal_records.check_complete):
        with suppress(WalkeeperError):
            look(plain, SEGMENT, None)
    for read in (wal_records.last_whole, wal_records.ends_early, wal_records.begins):
        with suppress(WalkeeperError):
            read(plain, SEGMENT)
    with suppress(WalkeeperError):
        wal_records.goes_beyond(plain, segment_bytes(), SEGMENT)
        wal_records.goes_beyond(segment_bytes(), plain, SEGMENT)
    with suppress(WalkeeperError):
        _ = list(commits.commits(plain, SEGMENT)), list(commits.commits_back(plain, SEGMENT))


def take_body(made: tuple[bytes, Mapping[str, str], str]) -> None:
    data, metadata, suffix = made
    body = Body.of(data, metadata)
    with suppress(WalkeeperError):
        opened(LAYOUT, Codec(), SEGMENT, suffix, body)
    with suppress(WalkeeperError):
        for _ in parts(LAYOUT, Codec(), SEGMENT, suffix, body):
            pass
    store = MemoryStore()
    store.objects[LAYOUT.file(SEGMENT, suffix)] = (data, dict(metadata))
    for seen in (store, AuthenticStore(store, Trust((b"k" * 64,), encrypted=True))):
        archive = Archive(seen, LAYOUT, SIZE, Codec())
        for look in (archive.find, archive.contents.has):
            with suppress(WalkeeperError):
                look(SEGMENT)
        with suppress(WalkeeperError):
            archive.archive_segment(SEGMENT, segment_bytes(), History(1))


def take_listing(objects: Mapping[str, bytes]) -> None:
    raw = MemoryStore()
    raw.objects = {key: (body, {}) for key, body in objects.items()}
    for store in (raw, AuthenticStore(raw, Trust((b"k" * 64,)))):
        for look in looks(store):
            with suppress(WalkeeperError):
                look()


def looks(store: Store) -> list[Callable[[], object]]:
    contents = Contents(store, LAYOUT, SIZE)
    return [
        lambda: take(store, "demo", None).archives,
        lambda: stated_size(store, LAYOUT, starts(store, LAYOUT)),
        lambda: prove_archive(store, LAYOUT, SEGMENT.name),
        lambda: (contents.frontier(TWO), contents.start(), contents.gaps(), contents.open_gaps()),
        lambda: list(contents.segments()),
        lambda: [stored_history(store, LAYOUT, each) for each in timelines(store, LAYOUT)],
        lambda: list(stored_pieces(store, LAYOUT)),
        lambda: tail_read.assemble(store, LAYOUT, Codec(), SEGMENT.name),
        lambda: expiry.read_expiry(store, LAYOUT),
        lambda: expiry.read_pins(store, LAYOUT),
        lambda: read_documents(Backups(store, LAYOUT, Codec())),
        lambda: Reader(store, Codec(), far=True).deliver(LAYOUT, SEGMENT.name),
    ]


def take_yaml(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "patroni.yml"
        path.touch(mode=0o600)
        path.write_bytes(data)
        try:
            load(path, {}, for_agent=True)
        except WalkeeperError as refused:
            assert "\n" not in str(refused)
            assert str(refused).isprintable()


@cache
def control() -> ControlServer:
    """One that nobody can reach, for what it makes of a line."""
    directory = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    lock = AgentLock(directory / "lock")
    return ControlServer(directory / "socket", lock, {"status": lambda _: {}, "push": _push})


def _push(request: dict[str, Any]) -> dict[str, Any]:
    parse_path(str(request.get("path")), str(request.get("cwd")))
    wal_file(str(request.get("file")))
    return {}


def take_line(line: bytes) -> None:
    reply = control()._answer(line)
    assert json.dumps(reply).isascii()


@cache
def web() -> int:
    """The port of the agent's HTTP server, with a report in which everything is known."""
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = int(free.getsockname()[1])
    serve("127.0.0.1", port, Pages(lambda: deepcopy(KNOWN), lambda: "<html></html>"))
    return port


def take_http(request: bytes) -> None:
    with closing(socket.create_connection(("127.0.0.1", web()), timeout=60)) as client:
        with suppress(OSError):
            client.sendall(request)
            client.shutdown(socket.SHUT_WR)
        answer = b""
        with suppress(OSError):
            while part := client.recv(65536):
                answer += part
    assert str(HTTPStatus.INTERNAL_SERVER_ERROR.value).encode() not in answer[:20], answer[:200]


def _metadata() -> st.SearchStrategy[dict[str, str]]:
    names = ["sha256", "size", "packed-sha256", "packed-size", "format", "hmac-sha256"]
    odd = ["", "0", "-1", "1048576", "a" * 64, "A" * 64, "9" * 5000, "1e3", "ü"]
    return st.dictionaries(st.sampled_from(names), st.sampled_from(odd), max_size=6)


_floor: Final = {
    "number": 1, "at": "2026-11-28T02:00:00Z", "grace": 3600, "system_identifier": str(SYSTEM), "segment_size": MIB, "start": SEGMENT.name,
    "below": [{"timeline": 1, "lsn": "0/500000"}], "kept": [], "backups": [ID], "member": "a",
}  # fmt: skip
_pin: Final = {
    "id": "0011223344556677-0001", "kind": "restore", "backup": ID, "timeline": 1, "lsn": "0/500000", "at": "2026-11-28T02:00:00Z",
    "until": "2026-11-29T02:00:00Z", "by": "a",
}  # fmt: skip
_proof: Final = {
    "backup": ID, "at": "2026-11-28T02:00:00Z", "timeline": 1, "lsn": "0/500000", "last_commit": "", "checks": ["x"], "by": "a",
}  # fmt: skip
_backup: Final = json.loads(backup.encode(a_backup(backup.BackupId.parse(ID))))
_lines: Final = [
    b'{"verb": "status"}', b'{"verb": "push", "path": "pg_wal/000000010000000000000005", "cwd": "/", "file": "00000002.history"}',
    b'{"verb": "restore", "file": 1}', b"[]", b'{"verb": {}}',
]  # fmt: skip
_requests: Final = [
    b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"HEAD /metrics HTTP/1.0\r\n\r\n", b"GET /health?x=%00 HTTP/1.1\r\nHost: [::1]:1\r\n\r\n",
    b"POST /ready HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999999\r\n\r\n", b"GET /status HTTP/9.9\r\nHost: a@b\r\nHost: c\r\n\r\n", b"GET /\r\n\r\n",
]  # fmt: skip

TARGETS: Final[dict[str, Target]] = {
    "record": Target(documents(RECORD), decode_record),
    "history": Target(
        damaged(history_text(TWO), b"1\t0/500000\tx\n2\t0/600000\ty\n") | st.binary(max_size=200), take_history
    ),
    "segment": Target(st.deferred(lambda: damaged(segment_bytes())), take_segment),
    "body": Target(
        st.deferred(
            lambda: st.tuples(
                damaged(*bodies()) | st.binary(max_size=100),
                _metadata(),
                st.sampled_from([".zst", ".zst.age", ".again.zst"]),
            )
        ),
        take_body,
    ),
    "listing": Target(listings, take_listing),
    "backup.json": Target(documents(_backup), lambda data: backup.decode(data, backup.BackupId.parse(_backup["id"]))),
    "backup index": Target(
        st.lists(documents({"a": 1}) | damaged(msgspec.json.encode(["a" * 64, [["base/1", 0, 0, 10]]])), max_size=3),
        lambda lines: list(backup_index.decode(lines)),
    ),
    "floor": Target(documents(_floor), lambda data: floor.decode(floor.Floor, data, "key")),
    "pin": Target(documents(_pin), lambda data: floor.decode(floor.Pin, data, "key")),
    "proof": Target(documents(_proof), lambda data: proof.decode(data, "key")),
    "patroni.yml": Target(damaged(YAML) | _yaml_words, take_yaml),
    "socket": Target(damaged(*_lines) | documents({"verb": "push", "path": "pg_wal/x", "cwd": "/"}), take_line),
    "HTTP": Target(damaged(*_requests) | st.binary(max_size=300), take_http),
}


def run(name: str, made: Any) -> None:
    """Raises what walkeeper must not raise."""
    with suppress(WalkeeperError):
        TARGETS[name].take(made)


def uncaught() -> Iterator[list[str]]:
    """What threads die of meanwhile."""
    found: list[str] = []
    before = threading.excepthook
    threading.excepthook = lambda facts: found.append(repr(facts.exc_value))
    try:
        yield found
    finally:
        threading.excepthook = before
