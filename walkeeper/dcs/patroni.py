"""The record through Patroni's own DCS objects, built from Patroni's own configuration file.

The only module that imports Patroni, which costs 0.3 s of CPU: import it where it is needed.

Patroni's objects hang for ever, end the process, and log each second. So each call runs behind a deadline of ours, each
of their errors becomes one of walkeeper's, and their logging goes nowhere.
"""

from __future__ import annotations

import functools
import logging
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from copy import deepcopy
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar
from urllib.parse import urlparse

import urllib3.util.connection
import yaml
from urllib3.exceptions import HTTPError

from walkeeper.dcs.base import RECORD, Leader, Member, RecordStore, Room, Topology, Versioned
from walkeeper.errors import ConfigError, DcsError, DcsUnavailable, WalkeeperError
from walkeeper.lib import events
from walkeeper.lib.deadline import Deadline, DeadlineExceeded, within
from walkeeper.lib.later import load_when_used

# Patroni's etcd clients ask the DNS themselves only where SRV records name the servers. dnspython is 3 MiB.
load_when_used("dns.resolver")

# When it is imported Patroni reads two thousand lines of YAML about PostgreSQL's parameters, which it looks into before it
# writes postgresql.conf, and nobody here does. Only meanwhile they are empty: it is 1 MiB, and 10 ms of CPU even with
# libyaml.
_AS_IT_WAS: Final = yaml.safe_load
yaml.safe_load = lambda stream: dict[str, Any]()  # noqa: ARG005 - so it is called
try:
    from patroni.config import Config
    from patroni.dcs import get_dcs, iter_dcs_classes
    from patroni.exceptions import PatroniException
    from patroni.request import PatroniRequest
    from patroni.utils import parse_bool
finally:
    yaml.safe_load = _AS_IT_WAS

T = TypeVar("T")

TIMEOUT: Final = 5.0
ABANDON_SECONDS: Final = 60.0
"""Seconds after which a hanging call is no longer waited for: twelve times what it may take."""
MAX_ABANDONED: Final = 4
_SHORTEST_SESSION: Final = 5
"""Seconds, of the session: ZooKeeper grants no less than two of its ticks (2 s each as delivered)."""
_CREATE_CONNECTION: Final = urllib3.util.connection.create_connection
_NOISY: Final = ("patroni", "urllib3", "kazoo", "etcd", "consul", "pysyncobj")
_THEIRS: Final = frozenset({"consul", "etcd", "http", "kazoo", "patroni", "pysyncobj", "requests", "urllib3"})
"""Packages whose exceptions say that the DCS did not answer as it should; others are a mistake of somebody's."""

_DENIED: Final = frozenset(
    {
        "ACLDisabled",
        "ACLPermissionDenied",
        "AuthFailed",
        "AuthFailedError",
        "EtcdInsufficientPermissions",
        "InvalidAuthToken",
        "NoAuthError",
        "PermissionDenied",
        "UserEmpty",
    }
)
_CHECK_CREDENTIALS: Final = (
    "Check the DCS credentials in Patroni's configuration, and the rights: to read the cluster's keys, and to write {}."
)
_CHECK_DCS: Final = "Check that the DCS is up and has a quorum, and the way to it from this node."


_LINEARIZABLE: Final = frozenset({"etcd", "etcd3", "consul", "zookeeper", "exhibitor", "raft"})


class Backend(Protocol):
    """A RecordStore's part that differs from DCS to DCS. It may hang and may raise whatever its library raises."""

    def read(self) -> Versioned | None: ...

    def leader(self) -> Leader | None: ...

    def write(self, document: bytes, expected: Versioned | None, guard: Leader | None) -> Versioned: ...

    def close(self) -> None: ...


def connect(patroni_config: Path, name: str | None = None, timeout: float = TIMEOUT, key: str = RECORD) -> RecordStore:
    """The record, or what else stands under a ``key`` of ours, of the cluster that this Patroni configuration is of.

    Nothing is asked of the network yet: the first call does that, and each one again until the DCS is there.
    ``name`` is the member's, where the file does not say it; ``timeout`` is in seconds and for each call.
    Raises ConfigError.
    """
    _silence()
    config = _read_config(patroni_config)
    if name or not config.get("name"):
        config["name"] = name or "walkeeper"
    if not config.get("scope"):
        raise ConfigError(
            f"{patroni_config}: it has no scope", hint="Name the file that Patroni itself is started with."
        )
    kind = next((kind for kind, _ in iter_dcs_classes(config)), None)
    if kind is None:
        raise ConfigError(
            f"{patroni_config}: it names no DCS that can be used here",
            hint="Its section (etcd3, etcd, consul, zookeeper, kubernetes…) must be there, and so must the Python "
            f"packages: {sys.executable} -m pip install 'patroni[etcd3]', for instance.",
        )
    # Patroni spends up to retry_timeout on one call: it should fail before the deadline does.
    retry_timeout, loop_wait = max(1.0, timeout * 0.9), max(1, int(timeout / 2))
    # A ZooKeeper that just starts may accept us and never answer; kazoo waits for the session's whole time then. Ours
    # holds nothing that ends with it.
    ttl = max(_SHORTEST_SESSION, math.ceil(2 * timeout))
    config |= {"patronictl": True, "retry_timeout": retry_timeout, "loop_wait": loop_wait, "ttl": ttl}
    return PatroniRecord(kind, config, timeout, key)


def way(patroni_config: Path) -> tuple[str, Any] | None:
    """How that configuration has its DCS reached: the section's name, and what it says. Raises ConfigError."""
    config = _read_config(patroni_config)
    return next(((kind, config.get(kind)) for kind, _ in iter_dcs_classes(config)), None)


class _Connection:
    """One of Patroni's DCS objects, built at the first call that can, and the thread on which all its calls run."""

    def __init__(self, kind: str, config: dict[str, Any], timeout: float, key: str) -> None:
        self.deadline = Deadline(kind)
        self.dcs: Any = None
        self.closed = False
        self._kind = kind
        self._config = config
        self._timeout = timeout
        self._key = key
        self._backend: Backend | None = None

    def backend(self) -> Backend:
        """On the deadline's thread."""
        if self._backend is None:
            if self._kind in {"etcd", "etcd3"}:
                _tame_etcd()
            try:
                dcs = get_dcs(deepcopy(self._config))
            finally:
                urllib3.util.connection.create_connection = _CREATE_CONNECTION
            self._backend, self.dcs = _backend(dcs, self._key, self._timeout), dcs
        if self.closed:
            self._backend.close()  # it came up when nobody was waiting
        return self._backend

    def close(self) -> None:
        """Raises what the library raises, and DeadlineExceeded."""
        self.closed = True
        try:
            if self._backend is not None and not self.deadline.stuck:
                self.deadline.call(self._backend.close, self._timeout)
        finally:
            self.deadline.close()


class PatroniRecord:
    """A RecordStore over Patroni's DCS objects.

    ``config`` is Patroni's effective configuration, ``kind`` the name of the section that names the DCS. A call that hangs
    longer than ABANDON_SECONDS is left to itself, and a new connection is built: at most MAX_ABANDONED hang at the same time.
    A write that is left so may still get through, as after every DcsUnavailable, and only if nobody wrote since.
    """

    def __init__(self, kind: str, config: dict[str, Any], timeout: float, key: str) -> None:
        self._kind = kind
        self._config = config
        self._timeout = timeout
        self._key = key
        self._lock = threading.Lock()
        self._connection = _Connection(kind, config, timeout, key)
        self._stuck_since: float | None = None
        self._abandoned: list[_Connection] = []

    def read(self) -> Versioned | None:
        return self._call(lambda connection: connection.backend().read())

    def leader(self) -> Leader | None:
        return self._call(lambda connection: connection.backend().leader())

    def write(self, document: bytes, expected: Versioned | None, guard: Leader | None = None) -> Versioned:
        document.decode()  # Patroni reads all keys below its own, and text is what it can read
        return self._call(lambda connection: connection.backend().write(document, expected, guard))

    def topology(self) -> Topology:
        def look(connection: _Connection) -> Topology:
            leader = connection.backend().leader()
            return _topology(connection.dcs.get_cluster(), leader)

        return self._call(look)

    def room(self) -> Room | None:
        """None where the DCS does not say it. Raises DcsError."""
        return self._call(lambda connection: getattr(connection.backend(), "room", lambda: None)())

    @property
    def reads_lag(self) -> bool:
        return self._kind not in _LINEARIZABLE

    def close(self) -> None:
        for connection in (self._connection, *self._abandoned):
            with suppress(Exception):  # it may raise whatever its library raises, and nobody needs it any longer
                connection.close()

    def _usable(self) -> _Connection:
        """The connection to ask; another one where a call on it has hung for too long."""
        with self._lock:
            if not self._connection.deadline.stuck:
                self._stuck_since = None
                return self._connection
            now = time.monotonic()
            self._stuck_since = now if self._stuck_since is None else self._stuck_since
            self._abandoned = [each for each in self._abandoned if each.deadline.stuck]
            if now - self._stuck_since >= ABANDON_SECONDS and len(self._abandoned) < MAX_ABANDONED:
                self._connection.deadline.close()  # its thread ends when the call returns, if ever
                self._abandoned.append(self._connection)
                self._connection = _Connection(self._kind, self._config, self._timeout, self._key)
                self._stuck_since = None
                events.warning(
                    "dcs_call_left", dcs=self._kind, hint="A call to the DCS hangs. A new connection is made."
                )
            return self._connection

    def _call(self, function: Callable[[_Connection], T]) -> T:
        """``function`` on the deadline's thread; what goes wrong becomes a DcsError."""
        connection = self._usable()
        try:
            return connection.deadline.call(lambda: function(connection), self._timeout)
        except DeadlineExceeded as problem:
            raise DcsUnavailable(str(problem), hint=_CHECK_DCS) from None
        except WalkeeperError:
            raise
        except SystemExit:
            raise DcsError(
                f"{self._kind}: the credentials were refused", hint=_CHECK_CREDENTIALS.format(self._key)
            ) from None
        except Exception as problem:
            raise self._translated(problem) from problem

    def _translated(self, problem: Exception) -> DcsError:
        kind = type(problem)
        text = " ".join(str(problem).split())[:300] or kind.__name__
        if kind.__name__ in _DENIED or "authentication is not possible" in text:
            return DcsError(f"{self._kind}: not allowed: {text}", hint=_CHECK_CREDENTIALS.format(self._key))
        if isinstance(problem, OSError) or kind.__module__.partition(".")[0] in _THEIRS:
            return DcsUnavailable(f"{self._kind}: {text}", hint=_CHECK_DCS)
        return DcsError(
            f"{self._kind}: {kind.__name__}: {text}",
            hint="This version of walkeeper may not know this version of Patroni or of the DCS. Please report it.",
        )


def _backend(dcs: Any, key: str, timeout: float) -> Backend:
    """The way to compare and set a key in this DCS. Each module needs its own DCS's client library."""
    request_timeout = timeout * 0.9
    kinds = {kind.__name__ for kind in type(dcs).__mro__}
    if "Etcd3" in kinds:
        from walkeeper.dcs.etcd3 import Etcd3  # noqa: PLC0415

        return Etcd3(dcs, key)
    if "Etcd" in kinds:
        from walkeeper.dcs.etcd2 import Etcd2  # noqa: PLC0415

        return Etcd2(dcs, key, request_timeout)
    if "ZooKeeper" in kinds:
        from walkeeper.dcs.zookeeper import ZooKeeper  # noqa: PLC0415

        return ZooKeeper(dcs, key, request_timeout)
    if "Consul" in kinds:
        from walkeeper.dcs.consul import Consul  # noqa: PLC0415

        return Consul(dcs, key)
    if "Raft" in kinds:
        from walkeeper.dcs.raft import Raft  # noqa: PLC0415

        return Raft(dcs, key)
    from walkeeper.dcs.generic import Generic  # noqa: PLC0415

    return Generic(dcs, key)


@functools.cache
def _tame_etcd() -> None:
    """Make Patroni's etcd clients fail where etcd is down, instead of trying for ever. Once for the process.

    While it tries, Patroni would leave its own ``create_connection`` to everybody who uses urllib3. Each attempt would
    also leave a thread behind, which looks up names for that ``create_connection`` only.
    """
    from patroni.dcs import etcd as patroni_etcd  # noqa: PLC0415 - needs python-etcd, which only this DCS does

    theirs = patroni_etcd.AbstractEtcd.get_etcd_client
    no_answer = patroni_etcd.etcd.EtcdException

    def get_etcd_client(dcs: Any, config: dict[str, Any], client_class: Callable[..., Any]) -> Any:
        def build(client_config: dict[str, Any], resolver: Any) -> Any:
            urllib3.util.connection.create_connection = _CREATE_CONNECTION
            try:
                client = client_class(client_config, resolver)
                _ = "use_proxies" in client_config and client.machines  # asked here, or Patroni would ask for ever
            except no_answer as problem:
                kind = type(dcs).__name__.lower()
                raise DcsUnavailable(f"{kind}: {problem}", hint=_CHECK_DCS) from problem
            return client

        return theirs(dcs, config, build)

    patroni_etcd.AbstractEtcd.get_etcd_client = get_etcd_client
    patroni_etcd.DnsCachingResolver.start = lambda _: None
    patroni_etcd.DnsCachingResolver.resolve_async = lambda *_: None


def _topology(cluster: Any, leader: Leader | None) -> Topology:
    dynamic = cluster.config.data if cluster.config and isinstance(cluster.config.data, dict) else {}
    standby = dynamic.get("standby_cluster")
    standby = standby if isinstance(standby, dict) else {}
    # The order and the old names are Patroni's: the first one that says anything counts.
    named = (dynamic.get(key) for key in ("permanent_replication_slots", "permanent_slots", "slots"))
    slots = next((each for each in named if each), None)
    return Topology(
        leader=leader,
        members=tuple(sorted((_member(member) for member in cluster.members), key=lambda member: member.name)),
        standby_cluster=any(standby.get(key) for key in ("host", "port", "restore_command")),
        paused=bool(parse_bool(dynamic.get("pause"))),
        slots=tuple(sorted(str(slot) for slot in slots)) if isinstance(slots, dict) else (),
        dynamic=deepcopy(dynamic),
    )


def _member(member: Any) -> Member:
    data = member.data
    host, port = _address(data.get("conn_url"))
    return Member(
        name=member.name,
        role=str(data.get("role") or ""),
        state=str(data.get("state") or ""),
        host=host,
        port=port,
        timeline=_number(data.get("timeline")),
        lsn=_number(data.get("xlog_location")),
        tags=data.get("tags") if isinstance(data.get("tags"), dict) else {},
        patroni_version=str(data["version"]) if data.get("version") else None,
        pending_restart=bool(data.get("pending_restart")),
        api_url=str(data["api_url"]) if data.get("api_url") else None,
        replication_state=str(data["replication_state"]) if data.get("replication_state") else None,
    )


def _address(conn_url: object) -> tuple[str | None, int | None]:
    """Host and port of ``postgres://host:port/postgres``."""
    if not isinstance(conn_url, str):
        return None, None
    try:
        url = urlparse(conn_url)
        port = url.port or 5432
    except ValueError:
        return None, None
    return url.hostname, port


def _number(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def settings(patroni_config: Path, dynamic: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What this node's configuration says by itself, and what Patroni makes of it and of ``dynamic``. Raises ConfigError."""
    config = _loaded(patroni_config)
    local: dict[str, Any] = deepcopy(config.local_configuration)
    config.set_dynamic_configuration(deepcopy(dict(dynamic)))
    effective: dict[str, Any] = config.copy()
    return local, effective


def change_dynamic(patroni_config: Path, api_url: str, change: Mapping[str, Any]) -> None:
    """Merge ``change`` into the dynamic configuration through Patroni's REST API, as a member serves it. Raises DcsError."""
    parts = urlparse(api_url)
    url = f"{parts.scheme}://{parts.netloc}/config"
    request = PatroniRequest(_read_config(patroni_config))
    try:
        answer = within(
            "REST API", lambda: request.request("PATCH", url, dict(change), timeout=TIMEOUT, retries=False), TIMEOUT
        )
    except DeadlineExceeded as problem:
        raise DcsUnavailable(f"{url}: {problem}") from None
    except HTTPError as problem:
        raise DcsUnavailable(f"{url}: {' '.join(str(problem).split())[:300]}", hint="Is Patroni up there?") from None
    if answer.status != 200:
        text = " ".join(answer.data.decode("utf-8", "replace").split())[:300]
        raise DcsError(
            f"{url}: {answer.status}: {text}",
            hint="The user and password are restapi.authentication's in Patroni's configuration.",
        )


def _read_config(path: Path) -> dict[str, Any]:
    """Patroni's effective configuration: the file, or a directory of files, and its environment variables."""
    found: dict[str, Any] = _loaded(path).copy()
    return found


def _loaded(path: Path) -> Config:
    if not path.exists():
        raise ConfigError(f"{path}: not found", hint="Name the file that Patroni itself is started with.")
    try:
        with _environment_kept():
            return Config(str(path), validator=None)
    except yaml.YAMLError as problem:  # its text may quote a password
        mark = getattr(problem, "problem_mark", None)
        where = f":{mark.line + 1}" if mark is not None else ""
        raise ConfigError(
            f"{path}{where}: it is not YAML", hint="patroni --validate-config says more about it."
        ) from None
    except (OSError, ValueError, TypeError, AttributeError, PatroniException) as problem:
        text = " ".join(str(problem).split())[:300]
        raise ConfigError(f"{path}: {text}", hint="patroni --validate-config says more about it.") from None


@contextmanager
def _environment_kept() -> Iterator[None]:
    """Patroni takes its variables out of the environment; the next one to read the configuration needs them as well."""
    theirs = {key: value for key, value in os.environ.items() if key.startswith("PATRONI_")}
    try:
        yield
    finally:
        os.environ.update(theirs)


def _silence() -> None:
    """Nobody sees what these libraries log: it repeats with each attempt, and one line holds etcd's token."""
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
