"""A real ZooKeeper, standalone, on 127.0.0.1: Java and the jar of Debian's package ``zookeeper``."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path
from typing import Final

from tests.parts.processes import wait_until
from tests.parts.server import Server

JAR: Final = Path("/usr/share/java/zookeeper.jar")
HOW: Final = "ZooKeeper: no Java, or no /usr/share/java/zookeeper.jar here; apt-get install zookeeper brings both"


def zookeeper_found() -> bool:
    return JAR.exists() and shutil.which("java") is not None


class ZooKeeperServer(Server):
    def __init__(self) -> None:
        super().__init__("zookeeper", Path(shutil.which("java") or "java") if zookeeper_found() else None, HOW)
        (self.directory / "zoo.cfg").write_text(
            f"dataDir={self.directory}/data\n"
            f"clientPort={self.port}\n"
            "clientPortAddress=127.0.0.1\n"
            "tickTime=500\n"
            "maxClientCnxns=0\n"
            "admin.enableServer=false\n"
            "4lw.commands.whitelist=srvr\n"
        )

    def start(self) -> None:
        main = "org.apache.zookeeper.server.quorum.QuorumPeerMain"
        options = ["-Xmx96m", "-XX:+UseSerialGC", "-Dzookeeper.forceSync=no", "-cp", str(JAR)]
        self._process = self._host.start([self._program, *options, main, self.directory / "zoo.cfg"])
        wait_until(self._answers, "ZooKeeper", 60, logs=[self._process.log])

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 2) as connection:
                connection.sendall(b"srvr")
                return b"Mode:" in connection.recv(4096)
        except OSError:
            return False
