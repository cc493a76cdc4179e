"""archive-push without an agent: what it stores, what it refuses before it opens anything, and how it exits."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.core.values import long_header, plain_segment, switch_record
from tests.fixtures.pushing import LABEL, SIZE, SYSTEM, DataDirectory
from walkeeper.archive.codec import Codec
from walkeeper.archive.layout import Layout
from walkeeper.archive.read import fetch
from walkeeper.archive.write import Archive
from walkeeper.cli import main as cli
from walkeeper.control import paths
from walkeeper.core.lsn import MIB, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.push import client, command
from walkeeper.store.directory import DirectoryStore

SEGMENT = "000000010000000000000005"


@pytest.fixture
def data(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> DataDirectory:
    made = DataDirectory(short_path)
    monkeypatch.setenv("WALKEEPER_RUN_DIR", str(made.run))
    monkeypatch.chdir(made.path)
    return made


@pytest.fixture
def push(data: DataDirectory, capfd: pytest.CaptureFixture[str]) -> Iterator[Callable[..., tuple[int, str]]]:
    """The command in this process: its exit code and what it said."""
    before = signal.getsignal(signal.SIGINT)

    def run(path: str) -> tuple[int, str]:
        code = cli.main(["archive-push", "-c", str(data.config), path])
        return code, capfd.readouterr().err

    yield run
    signal.signal(signal.SIGINT, before)


Push = Callable[[str], tuple[int, str]]


def fetched(data: DataDirectory, name: str) -> bytes | None:
    return fetch(DirectoryStore(data.store), Layout("demo", None, SYSTEM), Codec(), name)


def test_p13_a_clone_stores_nothing_where_it_came_from(data: DataDirectory, push: Push) -> None:
    data.segment()
    (data.path / "walkeeper_clone_of").write_text(f"file://{data.store}/demo/{SYSTEM}/\n")
    code, said = push(f"pg_wal/{SEGMENT}")
    assert (code, said.count("\n")) == (1, 1)
    assert "was restored from there as another one" in said
    assert data.objects() == []
    (data.path / "walkeeper_clone_of").write_text(f"file://{data.store}/elsewhere/{SYSTEM}/\n")
    assert push(f"pg_wal/{SEGMENT}") == (0, "")


def test_p13_without_an_agent_nothing_is_stored_where_the_archive_that_this_host_has_seen_is_not(
    data: DataDirectory, push: Push
) -> None:
    """Its disk is not mounted, or the configuration says another prefix for a while."""
    data.segment()
    data.config.write_text(f"{data.config.read_text()}  spool: {{directory: {data.path.parent}/spool}}\n")
    seen = data.path.parent / "spool" / "archive-seen"
    seen.parent.mkdir(mode=0o700)
    place = f"{data.store.as_uri()}/demo/{SYSTEM}/"
    for wrong, says in ((place, "no archive is there"), (f"{place}elsewhere/", f"knows is {place}elsewhere/")):
        seen.write_text(f"{wrong}\n")
        seen.chmod(0o600)
        code, said = push(f"pg_wal/{SEGMENT}")
        assert (code, said.count("\n"), says in said) == (1, 1, True)
        assert data.objects() == []
    seen.write_text(f"{place}\n")
    size = SegmentSize(MIB)
    Archive(DirectoryStore(data.store), Layout("demo", None, SYSTEM), size, Codec()).state_start(Segment(1, 3, size))
    assert push(f"pg_wal/{SEGMENT}") == (0, "")


def rot(data: DataDirectory, name: str) -> None:
    """One byte of that object, in place: its metadata stay."""
    (path,) = data.store.rglob(name)
    path.chmod(0o600)
    body = bytearray(path.read_bytes())
    body[-1] ^= 1
    path.write_bytes(body)


@pytest.mark.parametrize("absolute", [False, True], ids=["as PostgreSQL calls", "as Patroni calls"])
def test_p1_exit_0_means_that_the_archive_has_it(data: DataDirectory, push: Push, absolute: bool) -> None:
    data.segment()
    assert push(f"{data.path}/pg_wal/{SEGMENT}" if absolute else f"pg_wal/{SEGMENT}") == (0, "")
    assert fetched(data, SEGMENT) == (data.wal / SEGMENT).read_bytes()
    assert push(f"pg_wal/{SEGMENT}") == (0, "")  # and again


def test_p2_p3_other_bytes_of_that_name_are_refused_and_both_stay(data: DataDirectory, push: Push) -> None:
    first = (data.wal / data.segment().name).read_bytes()
    assert push(f"pg_wal/{SEGMENT}")[0] == 0
    data.segment(fill=b"x")
    code, said = push(f"pg_wal/{SEGMENT}")
    assert code == 1
    assert "other bytes" in said
    assert "HINT: " in said
    assert said.count("\n") == 1
    assert fetched(data, SEGMENT) == first


def test_p1_by_hand_a_damaged_object_that_states_nothing_wrong_is_no_reason_to_say_that_it_is_stored(
    data: DataDirectory, push: Push
) -> None:
    plain = (data.wal / data.segment().name).read_bytes()
    assert push(f"pg_wal/{SEGMENT}")[0] == 0
    rot(data, f"{SEGMENT}.zst")
    assert push(f"pg_wal/{SEGMENT}")[0] == 0  # PostgreSQL, which must not wait for a read
    assert data.objects() == [f"{SEGMENT}.zst"]
    (data.wal / "archive_status" / f"{SEGMENT}.ready").unlink()
    for _ in range(2):
        assert push(f"pg_wal/{SEGMENT}")[0] == 0
        assert fetched(data, SEGMENT) == plain
    assert data.objects() == [f"{SEGMENT}.again.zst", f"{SEGMENT}.zst"]
    rot(data, f"{SEGMENT}.again.zst")
    code, said = push(f"pg_wal/{SEGMENT}")
    assert (code, "HINT: Move both away" in said) == (1, True)


def test_p3_what_a_server_received_of_a_timeline_that_it_left_blocks_no_archiver(
    data: DataDirectory, push: Push
) -> None:
    """The dead primary has stored its whole segment; the promoted standby's checkpoint marks its own part of it ``.ready``."""
    whole = (data.wal / data.segment().name).read_bytes()
    assert push(f"pg_wal/{SEGMENT}")[0] == 0
    data.segment(fill=b"x")
    assert push(f"pg_wal/{SEGMENT}")[0] == 1
    data.history()  # timeline 1 ended inside that segment
    for _ in range(2):
        code, said = push(f"pg_wal/{SEGMENT}")
        assert (code, "left_behind" in said) == (0, True)
    assert fetched(data, SEGMENT) == whole
    assert fetched(data, f"{SEGMENT}.partial") == (data.wal / SEGMENT).read_bytes()


def test_every_kind_of_file_is_archived_under_its_own_name(data: DataDirectory, push: Push) -> None:
    partial = data.segment(5)
    (data.wal / partial.name).rename(data.wal / f"{partial.name}.partial")
    backup = f"{partial.name}.00000028.backup"
    (data.wal / backup).write_bytes(LABEL)
    names = [data.history(), f"{partial.name}.partial", backup, data.segment(5, timeline=2).name]
    for name in names:
        for _ in range(2):
            assert push(f"pg_wal/{name}") == (0, "")
        assert fetched(data, name) == (data.wal / name).read_bytes()


def test_p13_an_open_segment_that_is_pushed_by_hand_is_refused(data: DataDirectory, push: Push) -> None:
    """It lies in the file of an old one, whose pages are still behind its own."""
    segment, middle = data.segment(), 64 * 8192
    old = plain_segment(Segment(1, 2, SIZE), SYSTEM)
    path = data.wal / segment.name
    path.write_bytes(path.read_bytes()[:middle] + old[middle:])
    code, said = push(f"pg_wal/{segment.name}")
    assert code == 1
    assert "it says that it is the page of 0/280000" in said
    assert "HINT: It is a segment that is still being written, or it is damaged." in said
    assert data.objects() == []


@pytest.mark.parametrize("name", ["00000002.history", f"{SEGMENT}.00000028.backup"])
def test_p3_other_contents_of_a_history_or_a_label_are_refused(data: DataDirectory, push: Push, name: str) -> None:
    contents = {"00000002.history": b"1\t0/500064\tx\n"}.get(name, LABEL)
    (data.wal / name).write_bytes(contents)
    assert push(f"pg_wal/{name}")[0] == 0
    (data.wal / name).write_bytes(contents.replace(b"5000", b"6000"))
    assert push(f"pg_wal/{name}")[0] == 1
    assert fetched(data, name) == contents


def test_p8_the_partial_of_another_branch_is_kept_beside_the_first(data: DataDirectory, push: Push) -> None:
    """Two promotions from one timeline may each leave one: neither is wrong, and neither may block an archiver for ever."""
    name = f"{SEGMENT}.partial"
    contents = [plain_segment(Segment(1, 5, SIZE), SYSTEM, fill=fill) for fill in (b"a", b"b")]
    for content in (*contents, *contents):
        (data.wal / name).write_bytes(content)
        assert push(f"pg_wal/{name}")[0] == 0
    assert fetched(data, name) == contents[0]
    kept = [path for path in data.objects() if path.startswith(name)]
    assert len(kept) == 2


HOSTILE = {
    "D1 up": f"../pg_wal/{SEGMENT}",
    "D1 up inside": f"pg_wal/../pg_wal/{SEGMENT}",
    "D1 elsewhere": f"/tmp/{SEGMENT}",
    "D1 below": f"pg_wal/archive_status/{SEGMENT}",
    "D1 no directory": SEGMENT,
    "D1 empty": "",
    "D1 a directory": "pg_wal/",
    "D2 lower case": f"pg_wal/{SEGMENT.replace('5', 'a')}",
    "D2 too short": f"pg_wal/{SEGMENT[1:]}",
    "D2 too long": f"pg_wal/{SEGMENT}0",
    "D2 packed": f"pg_wal/{SEGMENT}.gz",
    "D2 half a label": f"pg_wal/{SEGMENT}.backup",
    "D3 newline": f"pg_wal/{SEGMENT}\n",
    "D3 escape": f"pg_wal/\x1b[31m{SEGMENT}",
    "D3 no text": os.fsdecode(b"pg_wal/\xff\xfe"),
    "D3 digits of elsewhere": f"pg_wal/{SEGMENT[:-1]}٥",
    "D3 percent": "pg_wal/%f",
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_is_no_wal_file_is_refused_before_anything_is_opened(
    data: DataDirectory, push: Push, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data.segment()

    def refuse(*_: object, **__: object) -> int:
        raise AssertionError("opened")

    monkeypatch.setattr("walkeeper.push.storing.read_wal_file", refuse)
    code, said = push(HOSTILE[case])
    assert code == 1
    assert said.count("\n") == 1
    assert said.removesuffix("\n").isprintable()
    assert "HINT: " in said
    assert data.objects() == []


@pytest.mark.parametrize("argument", ["-x", "--", f"-/pg_wal/{SEGMENT}"])
def test_d1_a_path_that_looks_like_an_option_is_refused(data: DataDirectory, push: Push, argument: str) -> None:
    assert push(argument)[0] in range(1, 126)


def lay_link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def lay_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def lay_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def lay_socket(path: Path) -> None:
    path.unlink()
    with socket.socket(socket.AF_UNIX) as bound:
        os.chdir(path.parent)
        bound.bind(path.name)
        os.chdir(path.parent.parent)


def cut(path: Path) -> None:
    os.truncate(path, SIZE - 1)


def grow(path: Path) -> None:
    os.truncate(path, SIZE + 1)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def zeros(path: Path) -> None:
    path.write_bytes(bytes(SIZE))


def another_name(path: Path) -> None:
    path.write_bytes(plain_segment(Segment(1, 6, SIZE), SYSTEM))


def another_cluster(path: Path) -> None:
    path.write_bytes(plain_segment(Segment(1, 5, SIZE), SYSTEM + 1))


def newer_timeline(path: Path) -> None:
    path.write_bytes(plain_segment(Segment(1, 5, SIZE), SYSTEM, timeline=2))


def unknown_magic(path: Path) -> None:
    path.write_bytes(b"\x01\xd0" + path.read_bytes()[2:])


def nothing(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize(
    "spoil",
    [lay_link, lay_fifo, lay_directory, lay_socket, cut, grow, empty, zeros, another_name, another_cluster,
     newer_timeline, unknown_magic, nothing],
)  # fmt: skip
def test_p5_what_is_no_whole_segment_of_this_cluster_is_refused(
    data: DataDirectory, push: Push, spoil: Callable[[Path], None]
) -> None:
    spoil(data.wal / data.segment().name)
    code, said = push(f"pg_wal/{SEGMENT}")
    assert code == 1
    assert SEGMENT in said
    assert data.objects() == []


def test_d5_a_data_directory_or_pg_wal_that_is_a_link_is_legal(
    data: DataDirectory, push: Push, short_path: Path
) -> None:
    name = data.segment().name
    data.wal.rename(short_path / "wal_disk")
    data.wal.symlink_to(short_path / "wal_disk")
    assert push(f"pg_wal/{name}") == (0, "")
    (short_path / "link").symlink_to(data.path)
    assert push(f"{short_path}/link/pg_wal/{name}") == (0, "")


@pytest.mark.parametrize("megabytes", [1, 16, 64])
def test_c18_every_segment_size(data: DataDirectory, push: Push, megabytes: int) -> None:
    segment = data.segment(3, size=SegmentSize(megabytes * MIB))
    assert push(f"pg_wal/{segment.name}") == (0, "")
    assert data.archive(segment.size).find(segment) is not None


@pytest.mark.slow
def test_c18_a_segment_of_1_gib(data: DataDirectory, push: Push) -> None:
    segment = Segment(1, 3, SegmentSize(1024 * MIB))
    path = data.wal / segment.name
    path.write_bytes(long_header(segment, SYSTEM) + switch_record())
    os.truncate(path, segment.size)
    assert push(f"pg_wal/{segment.name}") == (0, "")
    assert data.archive(segment.size).find(segment) is not None


# ----------------------------------------------------------------------------------------------------------- exit codes


@pytest.mark.parametrize(
    "problem", [MemoryError(), RuntimeError("bug"), KeyboardInterrupt(), SystemExit(255), OSError(5, "EIO")]
)
def test_whatever_happens_the_exit_is_between_1_and_125(
    data: DataDirectory, push: Push, problem: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    data.segment()

    def fail(*_: object) -> None:
        raise problem

    monkeypatch.setattr(command, "_push", fail)
    code, said = push(f"pg_wal/{SEGMENT}")
    assert code in range(1, 126)
    assert said.count("\n") <= 1
    assert "Traceback" not in said


@pytest.mark.parametrize("text", ["", "walkeeper: [", "scope: demo\nwalkeeper: {store: {nonsense: 1}}\n"])
def test_a_broken_configuration_is_told_in_one_line(data: DataDirectory, push: Push, text: str) -> None:
    data.segment()
    data.config.write_text(text)
    code, said = push(f"pg_wal/{SEGMENT}")
    assert code == 1
    assert str(data.config) in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("arguments", [[], ["-c"], ["a", "b"], ["--nonsense", "pg_wal/x"]])
def test_a_wrong_call_is_no_success(push: Push, arguments: list[str]) -> None:
    assert push("")[0] == 1
    assert cli.main(["archive-push", *arguments]) in range(1, 126)


def test_a_store_that_is_away_is_a_failure_that_may_pass(data: DataDirectory, push: Push) -> None:
    data.segment()
    data.store.rmdir()
    code, said = push(f"pg_wal/{SEGMENT}")
    assert code == 1
    assert "HINT: Mount the file system" in said
    data.store.mkdir()
    assert push(f"pg_wal/{SEGMENT}") == (0, "")


def test_p9_a_server_that_stops_does_not_wait_for_a_store_that_hangs(
    data: DataDirectory, push: Push, monkeypatch: pytest.MonkeyPatch
) -> None:
    data.segment()
    data.start_server()
    pid_file = data.path / "postmaster.pid"
    pid_file.write_text(pid_file.read_text().replace("ready   ", "stopping"))
    monkeypatch.setattr(command, "STOPPING_SECONDS", 0.2)
    monkeypatch.setattr(command, "_push", lambda *_: time.sleep(60))
    begun = time.monotonic()
    assert push(f"pg_wal/{SEGMENT}")[0] == 1
    assert time.monotonic() - begun < 20


def test_sigint_while_it_works_is_an_ordinary_failure(data: DataDirectory, short_path: Path) -> None:
    data.segment()
    ready = short_path / "ready"
    os.mkfifo(ready)
    program = (
        "import sys, time; from walkeeper.cli import main as cli; from walkeeper.push import command\n"
        f"def hang(*_):\n    open({str(ready)!r}, 'w').close()\n    time.sleep(60)\n"
        "command._push = hang\nsys.exit(cli.main(sys.argv[1:]))"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program, "archive-push", "-c", str(data.config), f"pg_wal/{SEGMENT}"],
        cwd=data.path, env=data.environment, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with ready.open():
        pass
    while child.poll() is None:  # one that comes just before a wait begins is noticed after it
        child.send_signal(signal.SIGINT)
        time.sleep(0.1)
    _, said = child.communicate(timeout=60)
    assert child.returncode == 1
    assert said.count("\n") == 1


# -------------------------------------------------------------------------------------------------- an agent that does not help


@pytest.mark.parametrize("agent", ["deaf", "hangs up", "older", "garbled"])
def test_h9_an_agent_that_is_no_help_is_done_without(
    data: DataDirectory, push: Push, agent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data.segment()
    monkeypatch.setattr(client, "ANSWER_SECONDS", 0.3)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(paths.socket_path(str(data.config), data.environment))
    listening.listen()
    answers = {
        "hangs up": b"",
        "older": json.dumps({"ok": False, "error": "unknown verb 'push'", "hint": ""}).encode() + b"\n",
        "garbled": b'{"ok": tru\n',
    }

    def serve() -> None:
        accepted, _ = listening.accept()
        with accepted:
            accepted.recv(4096)
            accepted.sendall(answers[agent])

    thread = threading.Thread(target=serve, daemon=True)
    if agent in answers:
        thread.start()
    with listening:
        assert push(f"pg_wal/{SEGMENT}") == (0, "")
    assert fetched(data, SEGMENT) is not None


def test_a_refusal_of_the_agent_is_final(data: DataDirectory, push: Push, monkeypatch: pytest.MonkeyPatch) -> None:
    data.segment()
    reply = {"ok": False, "error": "it is\nanother", "hint": "Look.", "reason": "conflict"}
    monkeypatch.setattr("walkeeper.control.client.exchange", lambda *_: json.dumps(reply).encode())
    assert push(f"pg_wal/{SEGMENT}") == (1, "walkeeper: archive-push: it is?another HINT: Look.\n")
    assert data.objects() == []
