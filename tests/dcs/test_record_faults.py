"""The record while the DCS is down, frozen, emptied, slow or says no: real servers, real outages."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import urllib3.util.connection

from tests.parts.consul import HOW as CONSUL_HOW
from tests.parts.consul import ConsulServer, consul_program, least_rights, patronis_rights
from tests.parts.etcd import HOW as ETCD_HOW
from tests.parts.etcd import Etcd, etcd_program
from tests.parts.processes import free_port, wait_until
from tests.parts.proxy import Proxy
from tests.parts.zookeeper import HOW as ZOOKEEPER_HOW
from tests.parts.zookeeper import ZooKeeperServer, zookeeper_found
from walkeeper.dcs import patroni
from walkeeper.dcs.base import BACKUP_JOB, PROOF_JOB, RECORD, REMEMBERED, RecordStore, Versioned
from walkeeper.dcs.patroni import connect
from walkeeper.errors import CasConflict, DcsError, DcsUnavailable

DOCUMENT: Final = b'{"lsn":"0/3000000"}'
OTHER: Final = b'{"lsn":"0/4000000"}'
TIMEOUT: Final = 1.0
SLACK: Final = 20.0
"""Seconds: how late a call may be on a busy machine."""

needs_etcd = pytest.mark.skipif(etcd_program() is None, reason=ETCD_HOW)
needs_consul = pytest.mark.skipif(consul_program() is None, reason=CONSUL_HOW)
needs_zookeeper = pytest.mark.skipif(not zookeeper_found(), reason=ZOOKEEPER_HOW)
_scopes = (f"faults{number}" for number in itertools.count(1))


@contextlib.contextmanager
def opened(
    directory: Path, section: dict[str, Any], scope: str = "", timeout: float = TIMEOUT, key: str = RECORD
) -> Iterator[RecordStore]:
    scope = scope or next(_scopes)
    path = directory / f"{scope}.yml"
    path.write_text(json.dumps({"scope": scope, "name": "node1", **section}))
    with contextlib.closing(connect(path, timeout=timeout, key=key)) as store:
        yield store


def fails_in_time(call: Callable[[], object], timeout: float = TIMEOUT) -> DcsUnavailable:
    begin = time.monotonic()
    with pytest.raises(DcsUnavailable) as caught:
        call()
    assert time.monotonic() - begin < timeout + SLACK
    assert caught.value.hint
    assert "\n" not in str(caught.value)
    return caught.value


def comes_back(store: RecordStore, timeout: float = 60) -> Versioned | None:
    """The first answer after an outage, from the same object."""

    def answered() -> list[Versioned | None]:
        try:
            return [store.read()]
        except DcsUnavailable:
            return []

    return wait_until(answered, "the record store's first answer", timeout)[0]


def takes_writes_again(store: RecordStore, document: bytes) -> bool:
    """A server that has just come up may take longer than one call waits, and may have written what it did not confirm."""

    def written() -> bool:
        try:
            found = store.read()
            return (found is not None and found.document == document) or bool(store.write(document, found))
        except (DcsUnavailable, CasConflict):
            return False

    return wait_until(written, "a write after the outage")


# -------------------------------------------------------------------------------------------------------- etcd is away


@needs_etcd
@pytest.mark.parametrize("kind", ["etcd3", "etcd"])
def test_a_store_whose_etcd_is_down_at_the_start_fails_in_time_and_works_when_it_comes_up(
    tmp_path: Path, kind: str
) -> None:
    with Etcd(v2=True, start=False) as server, opened(tmp_path, {kind: {"host": server.host}}) as store:
        for call in (store.read, store.leader, store.topology, lambda: store.write(DOCUMENT, None)):
            assert str(fails_in_time(call)) not in {
                f"{kind}: no answer within 1 s",
                f"{kind}: an earlier call still hangs",
            }
        server.start()
        assert store.read() is None  # at once: nothing was left hanging
        store.write(DOCUMENT, None)


@needs_etcd
@pytest.mark.parametrize("kind", ["etcd3", "etcd"])
def test_a_store_whose_etcd_is_frozen_at_the_start_fails_in_time_and_works_when_it_goes_on(
    tmp_path: Path, etcd: Etcd, kind: str
) -> None:
    etcd.freeze()
    try:
        before = urllib3.util.connection.create_connection
        with opened(tmp_path, {kind: {"host": etcd.host}}) as store:
            fails_in_time(store.read)
            fails_in_time(store.leader)
            assert urllib3.util.connection.create_connection is before  # S3 goes on meanwhile
            etcd.thaw()
            assert comes_back(store) is None
    finally:
        etcd.thaw()


@needs_etcd
@pytest.mark.parametrize("kind", ["etcd3", "etcd"])
def test_a_store_whose_etcd_freezes_later_fails_in_time_and_goes_on_with_it(
    tmp_path: Path, etcd: Etcd, kind: str
) -> None:
    with opened(tmp_path, {kind: {"host": etcd.host}}) as store:
        written = store.write(DOCUMENT, None)
        etcd.freeze()
        try:
            fails_in_time(store.read)
            fails_in_time(store.topology)
        finally:
            etcd.thaw()
        assert comes_back(store) == written


@needs_etcd
@pytest.mark.parametrize("kind", ["etcd3", "etcd"])
def test_a_store_survives_a_restart_of_etcd(tmp_path: Path, etcd: Etcd, kind: str) -> None:
    with opened(tmp_path, {kind: {"host": etcd.host}}) as store:
        written = store.write(DOCUMENT, None)
        etcd.stop()
        fails_in_time(store.read)
        fails_in_time(lambda: store.write(OTHER, written))
        etcd.start()
        assert comes_back(store) == written
        store.write(OTHER, written)


@needs_etcd
@pytest.mark.parametrize("kind", ["etcd3", "etcd"])
def test_a_write_whose_answer_was_lost_happened_or_not_and_never_happens_twice(
    tmp_path: Path, etcd: Etcd, kind: str
) -> None:
    with opened(tmp_path, {kind: {"host": etcd.host}}) as store:
        first = store.write(DOCUMENT, None)
        etcd.freeze()
        try:
            fails_in_time(lambda: store.write(OTHER, first))
        finally:
            etcd.thaw()
        found = comes_back(store)
        assert found is not None
        assert found.document in {DOCUMENT, OTHER}
        try:
            again = store.write(b'{"lsn":"0/5000000"}', found)
        except CasConflict:  # it happened only now
            found = store.read()
            assert found is not None
            assert found.document == OTHER
            again = store.write(b'{"lsn":"0/5000000"}', found)
        with pytest.raises(CasConflict):
            store.write(OTHER, first)
        assert store.read() == again


@needs_etcd
def test_a_store_behind_a_proxy_that_passes_nothing_on_fails_in_time_and_works_when_it_does(
    tmp_path: Path, etcd: Etcd
) -> None:
    with Proxy(etcd.port) as proxy:
        proxy.hold()
        section = {"etcd3": {"host": f"127.0.0.1:{proxy.port}", "use_proxies": True}}
        with opened(tmp_path, section) as store:
            fails_in_time(store.read)
            proxy.fix()
            assert comes_back(store) is None
            proxy.cut()
            fails_in_time(store.read)
            proxy.fix()
            assert comes_back(store) is None


@needs_etcd
def test_an_etcd_that_lost_everything_has_no_record(tmp_path: Path) -> None:
    with Etcd() as server, opened(tmp_path, {"etcd3": {"host": server.host}}) as store:
        first = store.write(DOCUMENT, None)
        server.kill()
        shutil.rmtree(server.directory / "data")
        server.start()
        assert comes_back(store) is None
        with pytest.raises(CasConflict):
            store.write(OTHER, first)
        store.write(OTHER, None)


@needs_etcd
def test_fifty_calls_to_a_frozen_etcd_leave_no_threads_behind(tmp_path: Path, etcd: Etcd) -> None:
    with opened(tmp_path, {"etcd3": {"host": etcd.host}}, timeout=0.2) as store:
        comes_back(store)
        before = threading.active_count()
        etcd.freeze()
        try:
            for _ in range(50):
                fails_in_time(store.read, 0.2)
            assert threading.active_count() == before
        finally:
            etcd.thaw()
        assert comes_back(store) is None
        assert threading.active_count() == before


@needs_etcd
@pytest.mark.parametrize("kind", ["etcd3", "etcd"])
def test_fifty_calls_to_an_etcd_that_never_was_leave_no_threads_behind(tmp_path: Path, kind: str) -> None:
    with opened(tmp_path, {kind: {"host": f"127.0.0.1:{free_port()}"}}, timeout=0.2) as store:
        fails_in_time(store.read, 0.2)
        before = threading.active_count()
        for _ in range(50):
            fails_in_time(store.read, 0.2)
        assert threading.active_count() == before


@needs_etcd
def test_an_outage_is_not_logged_by_the_libraries(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    with opened(tmp_path, {"etcd3": {"host": f"127.0.0.1:{free_port()}"}}) as store:
        for _ in range(3):
            fails_in_time(store.read)
    assert caplog.records == []
    assert capfd.readouterr() == ("", "")


@needs_etcd
def test_a_process_ends_while_its_call_hangs(tmp_path: Path, etcd: Etcd) -> None:
    file = tmp_path / "patroni.yml"
    file.write_text(json.dumps({"scope": next(_scopes), "name": "node1", "etcd3": {"host": etcd.host}}))
    program = (
        "import pathlib, sys\n"
        "from walkeeper.errors import DcsUnavailable\n"
        "from walkeeper.dcs.patroni import connect\n"
        "store = connect(pathlib.Path(sys.argv[1]), timeout=0.3)\n"
        "try:\n    store.read()\n"
        "except DcsUnavailable:\n    print('unavailable')\n"
        "store.close()\n"
    )
    etcd.freeze()
    try:
        result = subprocess.run(
            [sys.executable, "-c", program, str(file)], capture_output=True, text=True, timeout=60, check=False
        )
    finally:
        etcd.thaw()
    assert (result.returncode, result.stdout, result.stderr) == (0, "unavailable\n", "")


# -------------------------------------------------------------------------------------------------------- etcd says no


@needs_etcd
def test_wrong_credentials_are_an_error_with_a_hint_and_not_the_end_of_the_process(tmp_path: Path) -> None:
    with Etcd() as server:
        server.require_password("right")
        section = {"etcd3": {"host": server.host, "username": "root", "password": "wr0ng-secret"}}
        with opened(tmp_path, section, timeout=5) as store:
            for _ in range(2):
                with pytest.raises(DcsError, match=r"^etcd3: the credentials were refused$") as caught:
                    store.read()
                assert not isinstance(caught.value, DcsUnavailable)
                assert "credentials" in caught.value.hint
                assert "wr0ng-secret" not in str(caught.value) + caught.value.hint


@needs_etcd
def test_credentials_are_used_and_a_lost_token_is_renewed(tmp_path: Path) -> None:
    with Etcd() as server:
        server.require_password("right")
        section = {"etcd3": {"host": server.host, "username": "root", "password": "right"}}
        with opened(tmp_path, section, timeout=5) as store:
            first = store.write(DOCUMENT, None)
            assert store.read() == first
            server.restart()  # which forgets all tokens
            assert comes_back(store) == first
            server.restart()
            second = wait_until(lambda: _written(store, first), "a write")
            assert store.read() == second


def _written(store: RecordStore, expected: Versioned) -> Versioned | None:
    with contextlib.suppress(DcsUnavailable):
        return store.write(OTHER, expected)
    return None


@needs_etcd
def test_a_password_that_is_required_later_is_an_error_with_a_hint(tmp_path: Path) -> None:
    with Etcd() as server, opened(tmp_path, {"etcd3": {"host": server.host}}, timeout=5) as store:
        first = store.write(DOCUMENT, None)
        server.require_password("right")
        for call in (store.read, lambda: store.write(OTHER, first)):
            with pytest.raises(DcsError, match="not allowed") as caught:
                call()
            assert not isinstance(caught.value, DcsUnavailable)
            assert caught.value.hint


@needs_etcd
def test_a_user_who_may_only_read_reads_and_is_told_that_it_may_not_write(tmp_path: Path) -> None:
    with Etcd() as server:
        server.put("/service/readonly/walkeeper", DOCUMENT)
        server.require_password("right")
        server.add_user("reader", "pw", {"/service/readonly/": "READ"})
        section = {"etcd3": {"host": server.host, "username": "reader", "password": "pw"}}
        with opened(tmp_path, section, "readonly", timeout=5) as store:
            found = store.read()
            assert found is not None
            with pytest.raises(DcsError, match=r"^etcd3: not allowed: .*permission denied") as caught:
                store.write(OTHER, found)
            assert not isinstance(caught.value, DcsUnavailable)
            assert "to write walkeeper." in caught.value.hint
            assert store.read() == found


# ----------------------------------------------------------------------------------------------------------- ZooKeeper


@needs_zookeeper
def test_a_store_survives_a_frozen_and_a_restarted_zookeeper(tmp_path: Path) -> None:
    with ZooKeeperServer() as server, opened(tmp_path, {"zookeeper": {"hosts": [server.host]}}, timeout=2) as store:
        first = store.write(DOCUMENT, None)
        server.freeze()
        fails_in_time(store.read, 2)
        fails_in_time(store.topology, 2)
        server.thaw()
        assert comes_back(store) == first
        before = threading.active_count()
        server.stop()
        for _ in range(20):
            fails_in_time(store.read, 2)
        assert threading.active_count() <= before
        server.start()
        assert comes_back(store) == first
        assert takes_writes_again(store, OTHER)


@needs_zookeeper
def test_a_store_whose_zookeeper_is_down_at_the_start_fails_in_time_and_works_when_it_comes_up(tmp_path: Path) -> None:
    """Patroni's client gives up after 15 s; only then is there another attempt."""
    with ZooKeeperServer() as server:
        server.stop()
        with opened(tmp_path, {"zookeeper": {"hosts": [server.host]}}) as store:
            fails_in_time(store.read)
            fails_in_time(store.leader)
            server.start()
            assert comes_back(store, 40) is None
            assert takes_writes_again(store, DOCUMENT)


# -------------------------------------------------------------------------------------------------------------- Consul


@pytest.fixture(scope="module")
def consul() -> Iterator[ConsulServer]:
    with ConsulServer() as server:
        yield server


@needs_consul
def test_a_store_survives_a_frozen_and_a_restarted_consul(tmp_path: Path, consul: ConsulServer) -> None:
    scope = next(_scopes)
    section = {"consul": {"host": consul.host, "token": consul.token(scope, least_rights(scope))}}
    with opened(tmp_path, section, scope, timeout=2) as store:
        first = store.write(DOCUMENT, None)
        consul.freeze()
        try:
            fails_in_time(store.read, 2)
            fails_in_time(store.topology, 2)
        finally:
            consul.thaw()
        assert comes_back(store) == first
        consul.stop()
        try:
            fails_in_time(store.read, 2)
            fails_in_time(lambda: store.write(OTHER, first), 2)
        finally:
            consul.start()
        assert comes_back(store) == first
        assert takes_writes_again(store, OTHER)


@needs_consul
def test_the_policy_for_consul_is_enough_and_writes_nothing_else(tmp_path: Path, consul: ConsulServer) -> None:
    token = consul.token("example", least_rights("example"))
    consul.put("service/example/config", b"{}")
    consul.put("service/example/leader", b"node1")
    section = {"consul": {"host": consul.host, "token": token}}
    for key in (RECORD, BACKUP_JOB, PROOF_JOB, REMEMBERED):
        with opened(tmp_path, section, "example", timeout=5, key=key) as store:
            leader = store.leader()
            store.write(OTHER, store.write(DOCUMENT, None, leader), leader)
            assert store.topology().leader == leader
    for key in ("config", "leader", "walkeeper-other"):
        with opened(tmp_path, section, "example", timeout=5, key=key) as store:
            found = store.read()
            for guard in (None, leader):
                with pytest.raises(DcsError, match=r"^consul: not allowed: "):
                    store.write(DOCUMENT, found, guard)
    assert consul.get("service/example/config") == b"{}"


@needs_consul
@pytest.mark.parametrize("right", ["none", "another cluster's", "no such token"])
def test_a_consul_that_does_not_let_us_read_has_not_said_that_there_is_no_record(
    tmp_path: Path, consul: ConsulServer, right: str
) -> None:
    scope = next(_scopes)
    consul.put(f"service/{scope}/walkeeper", DOCUMENT)
    token = {
        "none": "",
        "another cluster's": consul.token(scope, patronis_rights("other")),
        "no such token": "2c1a6d4e-0000-4000-8000-000000000000",
    }[right]
    with opened(tmp_path, {"consul": {"host": consul.host, "token": token}}, scope, timeout=5) as store:
        for call in (store.read, store.leader, store.topology, lambda: store.write(DOCUMENT, None)):
            with pytest.raises(DcsError, match=r"^consul: not allowed: ") as caught:
                call()
            assert not isinstance(caught.value, DcsUnavailable)
            assert caught.value.hint


class Hanging:
    """Stands in for a backend: the first ones never answer, as a library may; no server can be made to do that to Patroni's."""

    def __init__(self, made: list[Hanging], hang: int, release: threading.Event) -> None:
        made.append(self)
        self.hangs = len(made) <= hang
        self.release = release

    def read(self) -> Versioned:
        if self.hangs:
            self.release.wait()
        return Versioned(DOCUMENT, "1")

    def close(self) -> None:
        """Nothing to let go of."""


@pytest.mark.parametrize("hang", [1, 3])
def test_a_call_that_never_returns_does_not_end_the_use_of_the_dcs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hang: int
) -> None:
    made: list[Hanging] = []
    release = threading.Event()
    monkeypatch.setattr(patroni, "ABANDON_SECONDS", 0.0)
    monkeypatch.setattr(patroni, "get_dcs", lambda _: None)
    monkeypatch.setattr(patroni, "_backend", lambda *_: Hanging(made, hang, release))
    with opened(tmp_path, {"etcd3": {"host": "127.0.0.1:1"}}, timeout=1) as store:
        for _ in range(hang):
            fails_in_time(store.read, 1)
        assert store.read() == Versioned(DOCUMENT, "1")
        assert len(made) == hang + 1
        release.set()


def test_of_connections_that_hang_there_are_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Hanging] = []
    release = threading.Event()
    monkeypatch.setattr(patroni, "ABANDON_SECONDS", 0.0)
    monkeypatch.setattr(patroni, "get_dcs", lambda _: None)
    monkeypatch.setattr(patroni, "_backend", lambda *_: Hanging(made, 1000, release))
    with opened(tmp_path, {"etcd3": {"host": "127.0.0.1:1"}}, timeout=0.05) as store:
        # On a busy machine a call may be over before it has begun, and hangs nowhere.
        wait_until(lambda: fails_in_time(store.read, 0.05) and len(made) > patroni.MAX_ABANDONED, "as many as may hang")
        for _ in range(3 * patroni.MAX_ABANDONED):
            fails_in_time(store.read, 0.05)
        assert len(made) == patroni.MAX_ABANDONED + 1
        release.set()
        wait_until(lambda: _answers(store), "an answer")


def _answers(store: RecordStore) -> bool:
    try:
        return store.read() is not None
    except DcsUnavailable:
        return False
