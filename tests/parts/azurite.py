"""Microsoft's emulator of Azure's stores, on 127.0.0.1: Azurite, which tools/azurite installs with npm."""

from __future__ import annotations

import base64
import email.utils
import hashlib
import hmac
import shutil
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Final

from tests.parts.binaries import cache_folder
from tests.parts.processes import wait_until
from tests.parts.server import Server
from walkeeper.store.clouds.keys import AzureSettings

HOW: Final = "Azurite: not here; tools/azurite installs it"
ACCOUNT: Final = "devstoreaccount1"
KEY: Final = base64.b64encode(b"a key of the tests, known to all").decode()


def azurite_program() -> Path | None:
    """Its script, for Node.js; None where one of the two is not here."""
    script = cache_folder() / "azurite" / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"
    return script if script.exists() and shutil.which("node") else None


class Azurite(Server):
    """With a container ``wal``. ``stop``: for some seconds it has the names of objects in memory alone."""

    def __init__(self) -> None:
        super().__init__("azurite", azurite_program(), HOW)

    @property
    def endpoint(self) -> str:
        return f"http://{self.host}/{ACCOUNT}"

    def settings(self, prefix: str = "") -> AzureSettings:
        return AzureSettings(account=ACCOUNT, container="wal", prefix=prefix, endpoint=self.endpoint, account_key=KEY)

    def section(self, prefix: str, through: str = "") -> dict[str, Any]:
        """As a configuration says how to reach it, by a proxy with that endpoint or without one."""
        where = {"account": ACCOUNT, "container": "wal", "prefix": prefix, "account_key": KEY}
        return {"azure": {**where, "endpoint": f"{through}/{ACCOUNT}" if through else self.endpoint}}

    def start(self) -> None:
        """Start what does not run, and wait until it answers."""
        if self._process is not None and self._process.alive:
            return
        # fmt: off
        self._process = self._host.start([
            "node", self._program, "--silent", "--disableTelemetry", "--location", self.directory / "data",
            "--blobHost", "127.0.0.1", "--blobPort", str(self.port),
        ], env={"AZURITE_ACCOUNTS": f"{ACCOUNT}:{KEY}"})
        # fmt: on
        wait_until(self._has_container, "Azurite", 60, logs=[self._process.log])

    def _has_container(self) -> bool:
        """https://learn.microsoft.com/en-us/rest/api/storageservices/authorize-with-shared-key"""
        headers = {"x-ms-date": email.utils.formatdate(usegmt=True), "x-ms-version": "2021-08-06"}
        told = "".join(f"{name}:{value}\n" for name, value in headers.items())
        signed = f"PUT{12 * chr(10)}{told}/{ACCOUNT}/{ACCOUNT}/wal\nrestype:container"
        mac = hmac.new(base64.b64decode(KEY), signed.encode(), hashlib.sha256)
        headers["Authorization"] = f"SharedKey {ACCOUNT}:{base64.b64encode(mac.digest()).decode()}"
        request = urllib.request.Request(f"{self.endpoint}/wal?restype=container", method="PUT", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=5):
                return True
        except urllib.error.HTTPError as error:
            return error.code == 409
        except OSError:
            return False
