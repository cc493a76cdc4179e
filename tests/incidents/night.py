"""The cluster of the night, its screens, and what they said when."""

from __future__ import annotations

import contextlib
import html
import os
import re
import subprocess
import sys
import tempfile
import time
import traceback
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

import psycopg

from tests.parts.binaries import postgres_bin
from tests.parts.cluster import Cluster, Node
from tests.parts.ledger import Ledger
from tests.parts.processes import CHECKOUT, Host, new_directory, wait_until
from tests.parts.seaweedfs import LEAST_ACTIONS, SeaweedFS
from walkeeper.core.record import Record, decode_record
from walkeeper.errors import BadRecord

MAJOR: Final = 15
"""What the night begins with: the upgrade goes to a newer one, and back."""
SEGMENT_MB: Final = 4
BUCKET: Final = "wal"
SCREENS: Final = ("status", "doctor", "page", "health", "metrics")
WELL: Final = "All well."


@dataclass(slots=True)
class Told:
    """What became of one incident. Times in seconds: until a screen said it, and from the fix until all was well."""

    name: str
    title: str
    said: dict[str, float] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    fixed: str = ""
    well: float | None = None
    failed: str = ""


class Night:
    """A context manager: a cluster of three that is archived into a bucket, under a small load, from an operator's chair."""

    def __init__(self, screens: Path, disks: Path | None) -> None:
        """``disks`` has a small file system for each node, as 1, 2 and 3; None: nobody could make them."""
        self.screens = screens
        self.disks = disks
        self.told: list[Told] = []
        self.bucket = SeaweedFS(actions=LEAST_ACTIONS, others={"owner": ("Admin", "Read", "Write", "List", "Tagging")})
        self.secret = new_directory("k") / "secret"
        self.write_secret(self.bucket.secret_key)
        self.cluster = self.make_cluster(new_directory("c"))
        if disks is not None:
            for number, node in enumerate(self.cluster.nodes, 1):
                move(node, Path(tempfile.mkdtemp(dir=disks / str(number))))
        self.ledger = Ledger(self.cluster.conninfo(), writers=1, ballast=4 * 1024, pause=1.0)
        self._chair = Host("operator", new_directory("o"))
        self._begun = self._fix_begun = 0.0
        self._open = contextlib.ExitStack()
        self._serial = 0

    def make_cluster(self, directory: Path, *, scope: str = "demo", nodes: int = 3) -> Cluster:
        """One with this configuration; its own etcd comes with it."""
        section = {
            "store": {
                "s3": {
                    "bucket": BUCKET,
                    "endpoint": self.bucket.endpoint,
                    "region": self.bucket.region,
                    "path_style": True,
                    "access_key_id": self.bucket.access_key,
                    "secret_access_key_file": str(self.secret),
                }
            },
            "agent": {"listen": "127.0.0.1:{metrics_port}", "log_file": "{directory}/agent.log"},
        }
        return Cluster(
            directory, nodes, scope=scope, bin_dir=postgres_bin(MAJOR), segment_size_mb=SEGMENT_MB,
            walkeeper_config=section,
        )  # fmt: skip

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.bucket)
            stack.callback(self.cluster.stop)
            self.cluster.start(timeout=180)
            wait_until(self.record, "the record", 120, logs=[self.log(node) for node in self.cluster.nodes])
            stack.enter_context(self.ledger)
            self._begun = time.monotonic()
            self.wait_well()
            self._open = stack.pop_all()
        self.say("note", f"all well; {self.cluster.wait_leader().name} leads")
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()
        self._chair.kill9()

    # ----------------------------------------------------------------------------------------------------- one incident

    def play(self, name: str, incident: Callable[[Night], str]) -> None:
        """Its docstring is its title; what it returns, the fix. One that fails is noted, and the night goes on."""
        title = (incident.__doc__ or name).partition("\n")[0].rstrip(".")
        self.told.append(Told(name, title))
        print(f"\n=== {name}: {title}", flush=True)
        self.begin()
        try:
            self.told[-1].fixed = incident(self)
        except Exception as error:  # noqa: BLE001 - the others are told all the same
            self.told[-1].failed = f"{type(error).__name__}: {error}".partition("\n")[0]
            traceback.print_exc()
            self.look_everywhere("failed-")

    def begin(self) -> None:
        """Now it happens: times count from here."""
        self._begun = time.monotonic()

    def say(self, kind: str, text: str) -> None:
        print(f"{time.monotonic() - self._begun:7.1f} s  {kind:<7} {text}", flush=True)

    def wait_told(self, node: Node, pattern: str, screens: tuple[str, ...], timeout: float = 120) -> dict[str, str]:
        """Until each of the screens of that node shows it; the screens. Which never do is a failure, once others have spoken."""
        wanted, shown = list(screens), {}
        deadline = time.monotonic() + timeout
        while wanted and time.monotonic() < deadline:
            for screen in list(wanted):
                text = self.look(node, screen)
                if found := re.search(pattern, " ".join(text.split())):
                    wanted.remove(screen)
                    shown[screen] = text
                    after = time.monotonic() - self._begun
                    self.told[-1].said.setdefault(screen, after)
                    self.say(screen, f"on {node.name}: {found[0]}")
            time.sleep(0.5)
        if wanted:
            self.look_everywhere("silent-")
            raise AssertionError(f"{', '.join(wanted)} of {node.name} never said {pattern!r} within {timeout:g} s")
        for other in self.cluster.nodes:
            self.look(other, "status", "told-")
        return shown

    def fix(self, what: str) -> None:
        """What the operator does now; the clock for "all well" starts."""
        self._fix_begun = time.monotonic()
        self.say("fix", what)

    def wait_well(self, timeout: float = 240) -> None:
        """Until status on every node says so."""

        def well() -> bool:
            return all(WELL in self.look(node, "status") for node in self.cluster.nodes)

        try:
            wait_until(well, "all well on each node", timeout, interval=1)
        except TimeoutError:
            self.look_everywhere("unwell-")
            raise
        if self.told:
            self.told[-1].well = time.monotonic() - self._fix_begun
            self.say("well", f"{self.told[-1].well:.0f} s after the fix")

    def look_everywhere(self, moment: str) -> None:
        """All screens of all nodes, to be read."""
        for node in self.cluster.nodes:
            for screen in SCREENS:
                self.look(node, screen, moment)

    # ---------------------------------------------------------------------------------------------------------- screens

    def look(self, node: Node, screen: str, moment: str = "") -> str:
        """One screen's text; each that is new is kept."""
        text = (
            self._page(node)
            if screen == "page"
            else self._get(node, screen)
            if screen in ("health", "metrics")
            else None
        )
        if text is None:
            done = self.command(node, f"walkeeper {screen} -c {node.config}")
            text = f"{done.stdout}{done.stderr}[exit {done.returncode}]\n"
        after = time.monotonic() - self._begun
        name = self.told[-1].name if self.told else "start"
        self._serial += 1
        path = self.screens / f"{len(self.told)}-{name}-{self._serial:05}-{after:.0f}s-{node.name}-{moment}{screen}.txt"
        path.write_text(text)
        return text

    def command(self, node: Node | None, line: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """A line that the operator types on that node, as PostgreSQL's user, with walkeeper and patronictl on the path."""
        env = self._chair.environment(node.env if node is not None else None)
        env["PATH"] = os.pathsep.join([str(self._bin()), str(Path(sys.executable).parent), env.get("PATH", "")])
        return subprocess.run(
            ["bash", "-c", line], env=env, cwd=self._chair.directory, stdin=subprocess.DEVNULL, capture_output=True,
            text=True, timeout=timeout, check=False,
        )  # fmt: skip

    def type(self, node: Node, line: str, timeout: float = 120) -> str:
        """The same, and it must go well."""
        line = line.replace("/etc/patroni.yml", str(node.config))
        done = self.command(node, line, timeout)
        self.say("typed", f"{node.name}$ {line} [exit {done.returncode}]")
        for shown in (done.stdout + done.stderr).splitlines()[-12:]:
            print(f"            | {shown}", flush=True)
        if done.returncode:
            raise AssertionError(f"{line}: exit {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout

    def _bin(self) -> Path:
        place = self._chair.directory / "bin"
        if not place.exists():
            place.mkdir()
            script = place / "walkeeper"
            script.write_text(f'#!/bin/sh\nPYTHONPATH={CHECKOUT} exec {sys.executable} -m walkeeper "$@"\n')
            script.chmod(0o755)
        return place

    def _get(self, node: Node, path: str) -> str:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{node.metrics_port}/{path}", timeout=10) as answer:
                return f"{answer.status} {answer.read().decode()}"
        except urllib.error.HTTPError as refusal:
            with refusal:
                return f"{refusal.code} {refusal.read().decode()}"
        except OSError as problem:
            return f"no answer: {problem}"

    def _page(self, node: Node) -> str:
        text = re.sub(r"(?s)<(style|script|svg).*?</\1>", "", self._get(node, ""))
        return "\n".join(
            filter(None, (line.strip() for line in html.unescape(re.sub(r"<[^>]+>", "\n", text)).splitlines()))
        )

    # ---------------------------------------------------------------------------------------------------------- the rest

    def record(self) -> Record | None:
        try:
            document = self.cluster.etcd.get("/service/demo/walkeeper")
            return None if document is None else decode_record(document)
        except (OSError, ValueError, BadRecord):
            return None

    def log(self, node: Node) -> Path:
        return node.directory / "agent.log"

    def write_secret(self, secret: str) -> None:
        self.secret.touch(mode=0o600)
        self.secret.write_text(secret)

    def write_wal(self, megabytes: int, *, node: Node | None = None, switch: bool = False) -> str:
        """So many of WAL on the leader; where it ends."""
        leader = node or self.cluster.wait_leader()
        with leader.connect() as connection:
            for _ in range(megabytes):
                connection.execute("SELECT pg_logical_emit_message(false, 'bulk', repeat('x', 1024 * 1024))")
            if switch:
                connection.execute("SELECT pg_switch_wal()")
            row = connection.execute("SELECT pg_walfile_name(pg_current_wal_lsn())").fetchone()
            assert row is not None
            return str(row[0])

    def checkpoint(self) -> None:
        """Twice on each member: what may be recycled is."""
        for node in [self.cluster.wait_leader(), *self.cluster.replicas()]:
            with contextlib.suppress(psycopg.Error):
                node.execute("CHECKPOINT")
                node.execute("CHECKPOINT")

    def wait_archived(self, timeout: float = 120) -> None:
        """Until what was written so far is below the frontier."""
        leader = self.cluster.wait_leader()
        target = str(leader.value("SELECT pg_current_wal_lsn()::text"))

        def there() -> bool:
            record = self.record()
            return record is not None and bool(
                leader.value("SELECT %s::pg_lsn >= %s::pg_lsn", [str(record.lsn), target])
            )

        wait_until(there, f"the frontier at {target}", timeout, interval=0.2, logs=[self.log(leader)])

    def table(self) -> str:
        """As Markdown."""
        rows = ["| incident | " + " | ".join(SCREENS) + " | fix | well |", "|---" * (len(SCREENS) + 3) + "|"]
        for each in self.told:
            said = (f"{each.said[screen]:.0f} s" if screen in each.said else "" for screen in SCREENS)
            well = each.failed or ("" if each.well is None else f"{each.well:.0f} s")
            rows.append(f"| {each.title} | {' | '.join(said)} | {each.fixed} | {well} |")
        return "\n".join(rows)


def move(node: Node, directory: Path) -> None:
    """Before it was started: all that it has is there."""
    node.data, node.config, node.log = directory / "data", directory / "patroni.yml", directory / "patroni.log"
    node.directory, node.host = directory, Host(node.name, directory)
    node.env["WALKEEPER_RUN_DIR"] = str(directory)
