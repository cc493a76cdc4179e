"""One suite over every record store: the twin in memory, and Patroni's DCS objects over real servers.

Leader, members and garbage are written by the other side (tests/twins/other_sides.py), past the record store.
"""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable, Iterator
from importlib import util
from pathlib import Path
from typing import Any, Final

import pytest

from tests.parts.consul import HOW as CONSUL_HOW
from tests.parts.consul import ConsulServer, consul_program, least_rights
from tests.parts.processes import free_port
from tests.parts.zookeeper import HOW as ZOOKEEPER_HOW
from tests.parts.zookeeper import ZooKeeperServer, zookeeper_found
from tests.twins.memory_record import MemoryDcs, MemoryRecord
from tests.twins.other_sides import (
    ConsulSide,
    Etcd2Side,
    Etcd3Side,
    MemorySide,
    OtherSide,
    RaftSide,
    ZooKeeperSide,
    patroni_file,
)
from walkeeper.dcs.base import BACKUP_JOB, RECORD, Leader, Member, RecordStore, Versioned
from walkeeper.dcs.generic import Generic
from walkeeper.dcs.patroni import connect
from walkeeper.errors import CasConflict, DcsUnavailable

DOCUMENT: Final = b'{"lsn":"0/3000000"}'
OTHER: Final = b'{"lsn":"0/4000000"}'
BACKENDS: Final = ("memory", "etcd3", "etcd", "zookeeper", "consul", "generic-etcd3", "generic-etcd", "raft")
"""``generic-…`` is what Kubernetes gets, over servers that can be had here."""

_scopes = (f"suite{number}" for number in itertools.count(1))


class Backend:
    """One DCS with one cluster in it. ``open`` makes one more record store of that cluster."""

    def __init__(self, name: str, other_side: OtherSide, open_store: Callable[[str, str], RecordStore]) -> None:
        self.name = name
        self.set = other_side.set
        self._open = open_store
        self._opened: list[RecordStore] = []

    @property
    def guards(self) -> bool:
        return self.name in {"memory", "etcd3", "consul"}

    def open(self, member: str = "node1", key: str = RECORD) -> RecordStore:
        store = self._open(member, key)
        self._opened.append(store)
        return store

    def close(self) -> None:
        for store in self._opened:
            store.close()


# ------------------------------------------------------------------------------------------------- servers and backends


@pytest.fixture(scope="module")
def zookeeper() -> Iterator[tuple[ZooKeeperServer, Any]]:
    if not zookeeper_found():
        pytest.skip(ZOOKEEPER_HOW)
    from kazoo.client import KazooClient  # noqa: PLC0415 - it comes with patroni[zookeeper]

    with ZooKeeperServer() as server:
        client = KazooClient(server.host)
        client.start()
        yield server, client
        client.stop()
        client.close()


@pytest.fixture(scope="module")
def consul() -> Iterator[ConsulServer]:
    if consul_program() is None:
        pytest.skip(CONSUL_HOW)
    with ConsulServer() as server:
        yield server


@pytest.fixture(scope="module")
def raft(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Any]]:
    """Patroni's own raft of one node, as Patroni would run it; every cluster needs one, so all tests have one scope."""
    if util.find_spec("pysyncobj") is None:
        pytest.skip("raft: pysyncobj is not here; pip install 'patroni[raft]'")
    from patroni.dcs import get_dcs  # noqa: PLC0415 - as the server, not as what is tested

    address = f"127.0.0.1:{free_port()}"
    data = str(tmp_path_factory.mktemp("raft"))
    config = {"scope": "raft", "name": "server", "loop_wait": 10, "ttl": 30, "retry_timeout": 10}
    dcs = get_dcs({**config, "raft": {"self_addr": address, "data_dir": data}})
    yield address, dcs
    dcs._sync_obj.destroy()


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Backend]:
    scope = next(_scopes)
    if request.param.startswith("generic"):
        monkeypatch.setattr("walkeeper.dcs.patroni._backend", lambda dcs, key, _: Generic(dcs, key))
    made = _backend(request, request.param, scope, tmp_path)
    yield made
    made.close()


def _backend(request: pytest.FixtureRequest, name: str, scope: str, directory: Path) -> Backend:
    kind = name.removeprefix("generic-")
    side: OtherSide
    if kind == "memory":
        dcs = MemoryDcs()
        return Backend(name, MemorySide(dcs), lambda _, key: MemoryRecord(dcs, key))
    if kind == "zookeeper":
        server, client = request.getfixturevalue("zookeeper")
        section: dict[str, Any] = {"zookeeper": {"hosts": [server.host]}}
        side = ZooKeeperSide(client, scope)
    elif kind == "consul":
        consul = request.getfixturevalue("consul")
        token = consul.token(scope, least_rights(scope))
        section, side = {"consul": {"host": consul.host, "token": token}}, ConsulSide(consul, scope)
    elif kind == "raft":
        address, raft_dcs = request.getfixturevalue("raft")
        raft_dcs.delete_cluster()
        scope, section, side = "raft", {"raft": {"partner_addrs": [address]}}, RaftSide(raft_dcs)
    else:
        etcd = request.getfixturevalue("etcd")
        section = {kind: {"host": etcd.host}}
        side = Etcd3Side(etcd, scope) if kind == "etcd3" else Etcd2Side(etcd, scope)
    file = patroni_file(directory, scope, section)
    return Backend(name, side, lambda member, key: connect(file, member, 10, key))


@pytest.fixture
def store(backend: Backend) -> RecordStore:
    return backend.open()


def only(*names: str) -> pytest.MarkDecorator:
    """Not for every backend: a comment beside it says why."""
    return pytest.mark.parametrize("backend", names, indirect=True)


def but(*names: str) -> pytest.MarkDecorator:
    return only(*(name for name in BACKENDS if name not in names))


def reads(store: RecordStore, document: bytes | None) -> None:
    """Reads are linearizable."""
    found = store.read()
    assert (found and found.document) == document


# ---------------------------------------------------------------------------------------------------- reading, writing


def test_there_is_no_record_before_the_first_write(store: RecordStore) -> None:
    assert store.read() is None


def test_what_was_written_is_read_with_the_version_that_the_write_returned(store: RecordStore) -> None:
    written = store.write(DOCUMENT, None)
    found = store.read()
    assert found is not None
    assert written.document == DOCUMENT
    assert json.loads(found.document) == json.loads(DOCUMENT)
    assert found.version == written.version


def test_another_key_is_another_document(backend: Backend, store: RecordStore) -> None:
    job = backend.open(key=BACKUP_JOB)
    written = job.write(OTHER, None)
    reads(store, None)
    first = store.write(DOCUMENT, None)
    with pytest.raises(CasConflict):
        job.write(DOCUMENT, first)
    job.write(DOCUMENT, written)
    reads(backend.open(key=BACKUP_JOB), DOCUMENT)
    assert json.loads(getattr(store.read(), "document", b"")) == json.loads(DOCUMENT)
    assert store.topology().slots == ()


def test_a_record_is_replaced_by_whoever_names_its_version(store: RecordStore) -> None:
    first = store.write(DOCUMENT, None)
    second = store.write(OTHER, first)
    third = store.write(DOCUMENT, second)
    assert len({first.version, second.version, third.version}) == 3
    found = store.read()
    assert found is not None
    assert found.version == third.version


@but("consul")  # the next one
def test_writing_the_same_document_again_changes_the_version(backend: Backend, store: RecordStore) -> None:
    first = store.write(DOCUMENT, None)
    second = store.write(DOCUMENT, first)
    assert second.version != first.version
    with pytest.raises(CasConflict):
        store.write(OTHER, first)


@only("consul")
def test_writing_the_same_document_again_is_no_write_to_consul(store: RecordStore) -> None:
    """Whoever writes it is who wrote it: a record names its owner's session. Its index is never that of another document."""
    first = store.write(DOCUMENT, None)
    assert store.write(DOCUMENT, first) == first
    second = store.write(OTHER, first)
    back = store.write(DOCUMENT, second)
    assert back.version not in {first.version, second.version}
    with pytest.raises(CasConflict):
        store.write(OTHER, first)


def test_creating_a_record_that_is_there_is_a_conflict_and_changes_nothing(store: RecordStore) -> None:
    first = store.write(DOCUMENT, None)
    with pytest.raises(CasConflict, match=r"^record in the DCS: somebody else wrote it"):
        store.write(OTHER, None)
    found = store.read()
    assert found is not None
    assert found.version == first.version


def test_a_stale_version_is_a_conflict_and_changes_nothing(store: RecordStore) -> None:
    first = store.write(DOCUMENT, None)
    second = store.write(OTHER, first)
    with pytest.raises(CasConflict):
        store.write(DOCUMENT, first)
    found = store.read()
    assert found is not None
    assert found.version == second.version


def test_replacing_a_record_that_was_removed_is_a_conflict(backend: Backend, store: RecordStore) -> None:
    first = store.write(DOCUMENT, None)
    backend.set("walkeeper", None)
    with pytest.raises(CasConflict):
        store.write(OTHER, first)
    reads(store, None)


def test_a_removed_record_is_none_and_can_be_created_again(backend: Backend, store: RecordStore) -> None:
    store.write(DOCUMENT, None)
    backend.set("walkeeper", None)
    reads(store, None)
    store.write(OTHER, None)
    reads(store, OTHER)


def test_a_record_that_was_created_again_is_not_taken_for_the_old_one(backend: Backend, store: RecordStore) -> None:
    first = store.write(DOCUMENT, None)
    backend.set("walkeeper", None)
    again = backend.open("node2").write(DOCUMENT, None)
    assert again.version != first.version
    with pytest.raises(CasConflict):
        store.write(OTHER, first)


def test_two_nodes_see_one_record_and_one_of_them_loses(backend: Backend) -> None:
    ours, theirs = backend.open("node1"), backend.open("node2")
    first = ours.write(DOCUMENT, None)
    reads(theirs, DOCUMENT)
    second = theirs.write(OTHER, first)
    with pytest.raises(CasConflict):
        ours.write(b'{"lsn":"0/5000000"}', first)
    reads(ours, OTHER)
    found = ours.read()
    assert found is not None
    assert found.version == second.version


def race(count: int, write: Callable[[int], Versioned]) -> list[Versioned]:
    """The writes that succeeded of ``count`` at once; the others must have been conflicts."""
    start, won, lost = threading.Barrier(count), list[Versioned](), list[BaseException]()

    def run(number: int) -> None:
        start.wait(30)
        try:
            won.append(write(number))
        except BaseException as problem:  # noqa: BLE001 - looked at below
            lost.append(problem)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [type(problem) for problem in lost] == [CasConflict] * (count - 1)
    return won


@but("generic-etcd", "generic-etcd3")  # Patroni creates unconditionally there: not used there
def test_of_eight_nodes_that_create_the_record_at_once_one_wins(backend: Backend) -> None:
    stores = [backend.open(f"node{number}") for number in range(8)]
    for store in stores:
        assert store.read() is None
    won = race(8, lambda number: stores[number].write(b'{"owner":"%d"}' % number, None))
    assert len(won) == 1
    reads(stores[0], won[0].document)


def test_of_eight_nodes_that_replace_the_record_at_once_one_wins(backend: Backend) -> None:
    stores = [backend.open(f"node{number}") for number in range(8)]
    first = stores[0].write(DOCUMENT, None)
    for store in stores:
        reads(store, DOCUMENT)
    won = race(8, lambda number: stores[number].write(b'{"owner":"%d"}' % number, first))
    assert len(won) == 1
    reads(stores[0], won[0].document)


@but("generic-etcd", "generic-etcd3")  # the next but one
@pytest.mark.parametrize(
    "document",
    [b"not JSON", b"[1, 2]", b'{"n": NaN}', b"x" * 500_000],  # more is too much for Consul
    ids=["no-json", "list", "nan", "500kB"],
)
def test_garbage_is_read_as_it_is_and_can_be_replaced(backend: Backend, document: bytes) -> None:
    store = backend.open()
    backend.set("walkeeper", document)
    reads(store, document)
    found = store.read()
    assert found is not None
    store.write(DOCUMENT, found)
    reads(store, DOCUMENT)


@only("memory", "etcd3", "zookeeper")  # the others keep text only
@pytest.mark.parametrize("document", [b"", b"\xff\xfe\x00"], ids=["empty", "no-utf8"])
def test_bytes_that_are_no_text_are_read_as_they_are_and_can_be_replaced(backend: Backend, document: bytes) -> None:
    store = backend.open()
    backend.set("walkeeper", document)
    found = store.read()
    assert found is not None
    assert found.document == document
    store.write(DOCUMENT, found)
    reads(store, DOCUMENT)


@only("generic-etcd3", "generic-etcd")
@pytest.mark.parametrize("document", [b"", b"not JSON", b"[1, 2]"])
def test_garbage_by_the_generic_way_is_an_empty_document_and_can_be_replaced(backend: Backend, document: bytes) -> None:
    store = backend.open()
    backend.set("walkeeper", document)
    found = store.read()
    assert found is not None
    assert found.document == b"{}"
    store.write(DOCUMENT, found)
    reads(store, DOCUMENT)


def test_a_document_that_patroni_could_not_read_is_never_written(store: RecordStore) -> None:
    with pytest.raises(UnicodeDecodeError):
        store.write(b"\xff", None)
    assert store.read() is None


def test_text_beyond_ascii_is_read_as_it_was_written(backend: Backend, store: RecordStore) -> None:
    document = '{"owner":"Knötchen-€"}'.encode()
    store.write(document, None)
    found = store.read()
    assert found is not None
    assert json.loads(found.document) == json.loads(document)


# ------------------------------------------------------------------------------------------------------------- leaders


def test_nobody_leads_a_cluster_without_a_leader_key(store: RecordStore) -> None:
    assert store.leader() is None


def test_the_leader_is_who_holds_the_leader_key_now(backend: Backend, store: RecordStore) -> None:
    backend.set("leader", b"node1")
    leader = leads(store, "node1")
    assert bool(leader.epoch) == backend.guards
    backend.set("leader", b"node2")
    leads(store, "node2")
    backend.set("leader", None)
    assert store.leader() is None


def leads(store: RecordStore, name: str) -> Leader:
    leader = store.leader()
    assert leader is not None
    assert leader.name == name
    return leader


def test_the_leader_may_write_under_its_own_guard(backend: Backend, store: RecordStore) -> None:
    backend.set("leader", b"node1")
    leader = leads(store, "node1")
    written = store.write(DOCUMENT, None, leader)
    written = store.write(OTHER, written, leader)
    reads(store, OTHER)


def test_a_write_under_the_guard_of_a_member_that_does_not_lead_is_refused(backend: Backend) -> None:
    store = backend.open()
    backend.set("leader", b"node1")
    guard = leads(store, "node1")
    backend.set("leader", b"node2")
    _refused_where_it_can_be_guarded(backend, store, guard)


def test_a_write_under_the_guard_of_an_earlier_leadership_of_the_same_member_is_refused(backend: Backend) -> None:
    store = backend.open()
    backend.set("leader", b"node1")
    guard = leads(store, "node1")
    backend.set("leader", None)
    backend.set("leader", b"node1")
    _refused_where_it_can_be_guarded(backend, store, guard)


def test_a_write_under_a_guard_is_refused_when_nobody_leads(backend: Backend) -> None:
    _refused_where_it_can_be_guarded(backend, backend.open(), Leader("node1", "1"))


def _refused_where_it_can_be_guarded(backend: Backend, store: RecordStore, guard: Leader) -> None:
    first = store.write(DOCUMENT, None)
    if not backend.guards:
        assert store.write(OTHER, first, guard).document == OTHER
        return
    with pytest.raises(CasConflict, match=r"^leader key in the DCS: node1 no longer holds it$"):
        store.write(OTHER, first, guard)
    assert store.read() == first


@but("memory")  # its other side makes a new leadership each time
def test_a_leadership_lasts_while_patroni_renews_its_key(backend: Backend, store: RecordStore) -> None:
    backend.set("leader", b"node1")
    before = leads(store, "node1")
    backend.set("leader", b"node1")
    assert leads(store, "node1") == before
    store.write(DOCUMENT, None, before)


# ------------------------------------------------------------------------------------------------------------ topology


def test_the_topology_of_an_empty_dcs_is_empty(store: RecordStore) -> None:
    topology = store.topology()
    assert topology.leader is None
    assert topology.members == ()
    assert (topology.standby_cluster, topology.paused, topology.slots) == (False, False, ())


def test_the_topology_is_what_patroni_wrote(backend: Backend, store: RecordStore) -> None:
    node1 = {
        "conn_url": "postgres://10.0.0.1:5433/postgres",
        "api_url": "http://10.0.0.1:8008/patroni",
        "role": "primary",
        "state": "running",
        "timeline": 3,
        "xlog_location": 50331648,
    }
    config = {
        "pause": True,
        "slots": {"walkeeper": {"type": "physical"}, "other": {"type": "physical"}},
        "standby_cluster": {"host": "10.1.0.1", "port": 5432},
    }
    backend.set("leader", b"node1")
    backend.set("members/node1", json.dumps(node1).encode())
    backend.set("members/node2", json.dumps({"role": "replica", "state": "starting"}).encode())
    backend.set("config", json.dumps(config).encode())
    store.write(DOCUMENT, None)
    leads(store, "node1")
    topology = store.topology()
    assert topology.leader == store.leader()
    assert topology.members == (
        Member("node1", "primary", "running", "10.0.0.1", 5433, 3, 50331648, api_url="http://10.0.0.1:8008/patroni"),
        Member("node2", "replica", "starting", None, None, None, None),
    )
    assert (topology.standby_cluster, topology.paused, topology.slots) == (True, True, ("other", "walkeeper"))


@but("memory")  # it keeps no text
@pytest.mark.parametrize("value", [b"garbage", b"[]", b'{"conn_url": 5, "timeline": "x", "xlog_location": null}'])
def test_garbage_in_patronis_keys_is_a_topology_without_facts(backend: Backend, value: bytes) -> None:
    store = backend.open()
    backend.set("members/node1", value)
    backend.set("config", value)
    backend.set("walkeeper", DOCUMENT)
    reads(store, DOCUMENT)
    topology = store.topology()
    assert topology.members == (Member("node1", "", "", None, None, None, None),)
    assert (topology.standby_cluster, topology.paused, topology.slots) == (False, False, ())


@only("etcd3")  # the same code for all
@pytest.mark.parametrize(
    ("config", "standby", "paused", "slots"),
    [
        ({"standby_cluster": None, "pause": "off", "slots": None}, False, False, ()),
        ({"standby_cluster": {"create_replica_methods": []}, "pause": "on", "slots": []}, False, True, ()),
        ({"standby_cluster": {"restore_command": "x"}, "permanent_slots": {"old": None}}, True, False, ("old",)),
    ],
)
def test_the_dynamic_configuration_is_read_as_patroni_reads_it(
    backend: Backend, config: dict[str, Any], standby: bool, paused: bool, slots: tuple[str, ...]
) -> None:
    backend.set("config", json.dumps(config).encode())
    topology = backend.open().topology()
    assert (topology.standby_cluster, topology.paused, topology.slots) == (standby, paused, slots)


@but("memory")  # it has nothing to close
def test_a_closed_store_answers_no_more(backend: Backend) -> None:
    store = backend.open()
    store.read()
    store.close()
    store.close()
    with pytest.raises(DcsUnavailable, match="closed"):
        store.read()
