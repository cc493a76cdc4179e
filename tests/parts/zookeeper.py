"""A real ZooKeeper, standalone, on 127.0.0.1: Java and the jar of Debian's package ``zookeeper``."""

from __future__ import annotations

import shutil
import signal
import socket
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tests.parts.processes import Host, Process, free_port, new_directory, wait_until

JAR: Final = Path("/usr/share/java/zookeeper.jar")
HOW: Final = "ZooKeeper: no Java, or no /usr/share/java/zookeeper.jar here; apt-get install zookeeper brings both"


def zookeeper_found() -> bool:
    return JAR.exists() and shutil.which("java") is not None


class ZooKeeperServer:
    """A ZooKeeper that keeps its port and its data over ``stop`` and ``start``. As a context manager: started, then killed."""

    def __init__(self, name: str = "zookeeper") -> None:
        if not zookeeper_found():
            raise FileNotFoundError(HOW)
        self.directory = new_directory(name)
        self.port = free_port()
        self._host = Host(name, self.directory)
        self._process: Process | None = None
        (self.directory / "zoo.cfg").write_text(
            f"dataDir={self.directory}/data\n"
            f"clientPort={self.port}\n"
            "clientPortAddress=127.0.0.1\n"
            "tickTime=500\n"
            "maxClientCnxns=0\n"
            "admin.enableServer=false\n"
            "4lw.commands.whitelist=srvr\n"
        )

    @property
    def host(self) -> str:
        """As Patroni's configuration wants it."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        java = shutil.which("java") or "java"
        main = "org.apache.zookeeper.server.quorum.QuorumPeerMain"
        options = ["-Xmx96m", "-XX:+UseSerialGC", "-Dzookeeper.forceSync=no", "-cp", str(JAR)]
        self._process = self._host.start([java, *options, main, self.directory / "zoo.cfg"])
        wait_until(self._answers, "ZooKeeper", 60, logs=[self._process.log])

    def stop(self) -> None:
        if self._process is not None:
            self._process.resume()
            self._process.stop(signal.SIGTERM)

    def freeze(self) -> None:
        """SIGSTOP: it accepts connections and answers nothing."""
        assert self._process is not None
        self._process.pause()

    def thaw(self) -> None:
        assert self._process is not None
        self._process.resume()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._host.kill9()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 2) as connection:
                connection.sendall(b"srvr")
                return b"Mode:" in connection.recv(4096)
        except OSError:
            return False
