"""A real Consul of one server, on 127.0.0.1: the program of Debian's package ``consul``. Nobody may do anything without a token."""

from __future__ import annotations

import base64
import json
import re
import shutil
import urllib.error
import urllib.parse
import urllib.request
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

from tests.parts.binaries import cache_folder
from tests.parts.processes import CHECKOUT, free_port, wait_until
from tests.parts.server import Server

HOW: Final = "Consul: no server here; tools/postgres-from-debian consul fetches one"
_MASTER: Final = "5f0e6c1c-6f0a-4b6e-9d8e-0d0b7c7a1f01"


def consul_program() -> Path | None:
    """Where the server is: on PATH, or where tools/postgres-from-debian unpacks it; None when there is none."""
    unpacked = cache_folder() / "consul" / "root" / "usr" / "bin" / "consul"
    found = shutil.which("consul") or (unpacked if unpacked.exists() else None)
    return Path(found) if found else None


def least_rights(scope: str) -> str:
    """The rules of examples/dcs/consul-policy.hcl, for that cluster."""
    rules = (CHECKOUT / "examples" / "dcs" / "consul-policy.hcl").read_text()
    assert rules.count('"service/demo/') == 5
    return rules.replace('"service/demo/', f'"service/{scope}/')


def patronis_rights(scope: str) -> str:
    """What Patroni itself needs."""
    return f'key_prefix "service/{scope}/" {{ policy = "write" }}\nsession_prefix "" {{ policy = "write" }}\n'


class ConsulServer(Server):
    def __init__(self) -> None:
        super().__init__("consul", consul_program(), HOW)
        peers = {"serf_lan": free_port(), "serf_wan": -1, "server": free_port(), "dns": -1, "grpc": -1}
        config = {
            "server": True,
            "bootstrap_expect": 1,
            "data_dir": str(self.directory / "data"),
            "bind_addr": "127.0.0.1",
            "client_addr": "127.0.0.1",
            "ports": {"http": self.port, **peers},
            "performance": {"raft_multiplier": 1},
            "disable_update_check": True,
            "acl": {"enabled": True, "default_policy": "deny", "tokens": {"master": _MASTER}},
        }
        (self.directory / "consul.json").write_text(json.dumps(config))

    def start(self) -> None:
        """Start it and wait until it has a leader and its tokens count."""
        self._process = self._host.start([self._program, "agent", "-config-file", self.directory / "consul.json"])
        wait_until(self._settled, "Consul", 60, logs=[self._process.log])

    def put(self, key: str, value: bytes) -> None:
        self._call("PUT", f"kv/{urllib.parse.quote(key)}", value)

    def get(self, key: str) -> bytes | None:
        try:
            return base64.b64decode(self._call("GET", f"kv/{urllib.parse.quote(key)}?consistent")[0]["Value"] or "")
        except urllib.error.HTTPError as error:
            if error.code != HTTPStatus.NOT_FOUND:
                raise
            return None

    def delete(self, key: str) -> None:
        self._call("DELETE", f"kv/{urllib.parse.quote(key)}")

    def token(self, name: str, rules: str) -> str:
        """A new token that may do what these rules say."""
        name = re.sub(r"[^\w-]", "-", name)
        policy = self._call("PUT", "acl/policy", json.dumps({"Name": name, "Rules": rules}).encode())
        token = self._call("PUT", "acl/token", json.dumps({"Policies": [{"ID": policy["ID"]}]}).encode())
        return str(token["SecretID"])

    def _settled(self) -> bool:
        if not self.running.alive:
            raise RuntimeError(f"Consul: ended with {self.running.returncode}; see {self.running.log}")
        try:
            return bool(self._call("GET", "acl/token/self")["Policies"]) and bool(self._call("GET", "status/leader"))
        except (OSError, ValueError):
            return False

    def _call(self, method: str, path: str, body: bytes | None = None) -> Any:
        url = f"http://127.0.0.1:{self.port}/v1/{path}"
        request = urllib.request.Request(url, body, {"X-Consul-Token": _MASTER}, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)
