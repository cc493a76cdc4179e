"""What the story is played on: etcd, three Patroni nodes, walkeeper wired as a user wires it, and a store that can be slow.

Next to it, for comparison, PostgreSQL's own archiver with an ordinary archive_command and an archive of its own.
"""

from __future__ import annotations

import json
import shutil
import sys
import urllib.request
from pathlib import Path
from typing import Any, Final, Literal, Protocol
from urllib.parse import urlsplit

import yaml
from patroni.version import __version__ as patroni_version

from tests.parts.binaries import origin_of
from tests.parts.cluster import CALLBACKS, Cluster, Node
from tests.parts.processes import CHECKOUT, new_directory, tail
from tests.parts.proxy import CHUNK, Proxy
from tests.parts.seaweedfs import SeaweedFS
from walkeeper import __version__
from walkeeper.archive.codec import Codec
from walkeeper.archive.layout import Layout
from walkeeper.archive.write import Archive
from walkeeper.core.lsn import MIB, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.core.record import Record, decode_record
from walkeeper.store.base import Store
from walkeeper.store.directory import DirectoryStore
from walkeeper.store.s3.driver import S3Store

StoreKind = Literal["directory", "s3"]

SCOPE: Final = "demo"
SEGMENT_MB: Final = 1
SEGMENT_SIZE: Final = SegmentSize(SEGMENT_MB * MIB)
SLOW_STORE: Final = Path(__file__).with_name("slow_store")


class ShownStore(Protocol):
    """A store as the demo sees it: how walkeeper is told of it, how it is made slow, and a way around the slowness."""

    store: Store
    section: dict[str, Any]
    how_slow: str

    def start(self) -> None: ...

    def slow(self, seconds: float) -> None: ...


class Directory:
    """A directory; the slowness is in slow_store/sitecustomize.py."""

    how_slow = (
        "each object waits that long in the agent before it is written (examples/demo/slow_store on PYTHONPATH): a "
        "directory on this disk would never be slow on its own"
    )

    def __init__(self, place: Path) -> None:
        place.mkdir()
        self.store: Store = DirectoryStore(place)
        self.section: dict[str, Any] = {"directory": str(place)}

    def start(self) -> None:
        """Nothing to do."""

    def slow(self, seconds: float) -> None:
        """Nothing to do: the agents read the file with the delay."""


class S3:
    """SeaweedFS behind a proxy that can be slow. The demo itself looks past the proxy."""

    how_slow = "the way from the nodes to the S3 server leads through a TCP proxy, which is slow now"

    def __init__(self, directory: Path) -> None:
        self._server = SeaweedFS()
        self._proxy = Proxy(urlsplit(self._server.endpoint).port or 80)
        secret = directory / "s3-secret"
        secret.touch(mode=0o600)
        secret.write_text(self._server.secret_key)
        self.store: Store = S3Store(self._server.settings())
        self.section: dict[str, Any] = {
            "s3": {
                "bucket": self._server.bucket,
                "endpoint": f"http://127.0.0.1:{self._proxy.port}",
                "region": self._server.region,
                "path_style": True,
                "access_key_id": self._server.access_key,
                "secret_access_key_file": str(secret),
            }
        }

    def start(self) -> None:
        self._server.start()

    def slow(self, seconds: float) -> None:
        """``seconds`` for a segment that does not compress."""
        self._proxy.delay = seconds * CHUNK / SEGMENT_SIZE


class Stage:
    """Made, but not started. Everything lies in ``directory``, which goes when the run ends (``end_run``)."""

    def __init__(self, kind: StoreKind) -> None:
        self.directory = new_directory("demo")
        self._delay = self.directory / "delay"
        self._delay.write_text("0")
        self.shown: ShownStore = Directory(self.directory / "archive") if kind == "directory" else S3(self.directory)
        self.ordinary = self.directory / "ordinary"
        self.ordinary.mkdir()
        self.archive_command = f"sleep $(cat {self._delay}) && cd {self.ordinary} && cp $OLDPWD/%p .%f && mv .%f %f"
        self.cluster = Cluster(
            self.directory,
            scope=SCOPE,
            segment_size_mb=SEGMENT_MB,
            walkeeper_config={"store": self.shown.section, "agent": {"listen": "127.0.0.1:{metrics_port}"}},
            callbacks={event: f"{CHECKOUT}/patroni_callbacks/{event} {{config}}" for event in CALLBACKS},
            restore_command=f"{restore_wal_command()} -c {{config}} %f %p",
            settings={"archive_mode": "on", "archive_command": self.archive_command},
        )
        for node in self.cluster.nodes:
            node.env |= self._environment()

    def _environment(self) -> dict[str, str]:
        """Three nodes on one machine: each has a run directory of its own. The rest is for slow_store."""
        return {
            "WALKEEPER_RUN_DIR": str(new_directory("r")),
            "WALKEEPER_PYTHON": sys.executable,
            "DEMO_STORE_DELAY": str(self._delay),
            "PYTHONPATH": f"{CHECKOUT}:{SLOW_STORE}",
        }

    def slow(self, seconds: float) -> None:
        """Both archives take that much longer for each segment from now on."""
        new = self._delay.with_suffix(".new")
        new.write_text(f"{seconds:g}")
        new.rename(self._delay)
        self.shown.slow(seconds)

    # -------------------------------------------------------------------------------------------------------- looking

    def record(self) -> Record | None:
        """The record, as etcd has it."""
        document = self.cluster.etcd.get(f"/service/{SCOPE}/walkeeper")
        return decode_record(document) if document else None

    def archive(self) -> Archive:
        """What walkeeper has archived. There is a record by now."""
        record = self.record()
        assert record is not None
        return Archive(self.shown.store, Layout(SCOPE, None, int(record.system_identifier)), record.size, Codec())

    def archived(self) -> set[Segment]:
        """The segments that walkeeper's archive has at this moment, listed in the store itself."""
        return set(self.archive().contents.segments())

    def ordinarily_archived(self) -> set[str]:
        """The file names in the ordinary archive."""
        return {path.name for path in self.ordinary.iterdir() if not path.name.startswith(".")}

    def last_words(self) -> str:
        """The ends of all logs, for when something did not come about."""
        said = []
        for node in self.cluster.nodes:
            start_logs = Path(node.env["WALKEEPER_RUN_DIR"]).glob("*.start.log")
            said += [tail(log, 12) for log in (agent_log_path(node), *start_logs)]
            lines = node.log.read_text(errors="replace").splitlines() if node.log.exists() else []
            said += [f"--- {node.log}", *[line for line in lines if "INFO: no action" not in line][-12:]]
        return "\n".join(said)

    def versions(self) -> str:
        with urllib.request.urlopen(f"{self.cluster.etcd.url}/version", timeout=5) as answer:
            etcd = json.load(answer)["etcdserver"]
        where = origin_of(self.cluster.bin_dir)
        return f"PostgreSQL {self.cluster.major} ({where}), Patroni {patroni_version}, etcd {etcd}, walkeeper {__version__}"

    def wiring(self) -> str:
        """What a user writes into patroni.yml for walkeeper, taken from node1's."""
        whole = yaml.safe_load(self.cluster.nodes[0].config.read_text())
        first, *others = CALLBACKS
        section = yaml.safe_dump({"walkeeper": whole["walkeeper"]}, sort_keys=False, width=1000)
        slots = yaml.safe_dump(whole["bootstrap"]["dcs"]["slots"], default_flow_style=True).strip()
        return (
            f"{section}"
            f"bootstrap:\n"
            f"  dcs:\n"
            f"    slots: {slots}\n"
            f"postgresql:\n"
            f"  callbacks:\n"
            f"    {first}: {whole['postgresql']['callbacks'][first]}\n"
            f"    # {', '.join(others)}: likewise\n"
            f"  recovery_conf:\n"
            f"    restore_command: {whole['postgresql']['recovery_conf']['restore_command']}\n"
        )

    def shorter(self) -> dict[str, str]:
        """Paths and what stands for them on the screen."""
        return {
            str(self.directory): "$DEMO",
            walkeeper_command(): "walkeeper",
            f"{self.cluster.bin_dir}/": "",
            f"{CHECKOUT}/": "",
        }


def walkeeper_command() -> str:
    """How a user calls walkeeper: the console script where it is installed, else the module."""
    script = Path(sys.executable).with_name("walkeeper")
    return str(script) if script.exists() else f"{sys.executable} -m walkeeper"


def restore_wal_command() -> str:
    """The same for the restore_command, which is a shell script where it is installed."""
    script = Path(sys.executable).with_name("walkeeper-restore-wal")
    return str(script) if script.exists() else f"{walkeeper_command()} restore-wal"


def spooled(node: Node) -> set[str]:
    """The names of the complete segments in a node's spool."""
    spool = node.data.with_name("data.walkeeper") / "wal"
    return {path.name for path in spool.iterdir() if len(path.name) == 24}  # an open one is .partial


def to_do(node: Node) -> list[str]:
    """The complete segments that the node's archive_command has still to do: PostgreSQL's own list."""
    status = node.data / "pg_wal" / "archive_status"
    return sorted(path.stem for path in status.glob("*.ready") if len(path.stem) == 24)


def agent_log_path(node: Node) -> Path:
    return node.data.with_name("data.walkeeper") / "agent.log"


def event(node: Node, *words: str, after: str = "") -> tuple[str, dict[str, str]] | None:
    """The newest line of the node's agent that begins with one of these words, and its facts.

    With ``after`` the first such line since the newest one that begins with that word.
    """
    log = agent_log_path(node)
    lines = [line.split(" ") for line in (log.read_text().splitlines() if log.exists() else [])]
    lines = [fields for fields in lines if len(fields) > 3]
    if after:
        marks = [number for number, fields in enumerate(lines) if fields[3] == after]
        lines = lines[marks[-1] :][::-1] if marks else []
    for fields in reversed(lines):
        if fields[3] in words:
            return " ".join(fields), dict(field.split("=", 1) for field in fields[4:] if "=" in field)
    return None


def lose_disk(node: Node) -> None:
    """The machine is gone with all that was on it."""
    for path in (node.data, node.data.with_name("data.walkeeper")):
        shutil.rmtree(path, ignore_errors=True)
