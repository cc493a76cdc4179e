"""pgBackRest as it is set up to be fast: asynchronous, two processes, zstd; all its paths in a directory of ours."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from benchmarks.material import LEVEL, StorePlace

PROCESSES: Final = 2
STANZA: Final = "bench"


def program() -> str | None:
    """None where it is not installed."""
    return shutil.which("pgbackrest")


def version() -> str:
    return subprocess.run(["pgbackrest", "version"], capture_output=True, text=True, check=True).stdout.strip()


def has_blocks() -> bool:
    """Whether incremental by block is more than an experiment: from 2.46 on."""
    return tuple(int(number) for number in version().split()[-1].split(".")[:2]) >= (2, 46)


class PgBackRest:
    """One repository and one configuration. ``pg_path`` is a data directory of the cluster: its pg_control is read."""

    def __init__(self, directory: Path, place: StorePlace, repository: str, pg_path: Path) -> None:
        self.directory = directory
        self._config = directory / "pgbackrest.conf"
        for name in ("spool", "lock", "log"):
            (directory / name).mkdir(parents=True, exist_ok=True)
        settings = {
            "archive-async": "y",
            "process-max": str(PROCESSES),
            "compress-type": "zst",
            "compress-level": str(LEVEL),
            "spool-path": f"{directory}/spool",
            "lock-path": f"{directory}/lock",
            "log-path": f"{directory}/log",
            "log-level-file": "off",
            "log-level-console": "off",
            "log-level-stderr": "warn",
            **_repository(place, repository),
        }
        lines = [
            "[global]",
            *(f"{key}={value}" for key, value in settings.items()),
            f"[{STANZA}]",
            f"pg1-path={pg_path}",
        ]
        self._config.touch(mode=0o600)
        self._config.write_text("\n".join([*lines, ""]))
        self._run("stanza-create", "--no-online")

    def command(self, verb: str, arguments: str, data: Path) -> str:
        """For restore_command or archive_command of the server in ``data``."""
        return f"pgbackrest --config={self._config} --stanza={STANZA} --pg1-path={data} {verb} {arguments}"

    def push(self, segments: Iterable[Path]) -> None:
        """Store them, one after the other."""
        for segment in segments:
            self._run("archive-push", "--no-archive-async", str(segment))

    def clear_spool(self) -> None:
        shutil.rmtree(self.directory / "spool")
        (self.directory / "spool").mkdir()

    def _run(self, *arguments: str) -> None:
        command = ["pgbackrest", f"--config={self._config}", f"--stanza={STANZA}", *arguments]
        result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        if result.returncode:
            raise RuntimeError(f"{' '.join(command)}: {result.stdout}{result.stderr}")


def _repository(place: StorePlace, name: str) -> dict[str, str]:
    if place.server is None:
        return {"repo1-type": "posix", "repo1-path": f"{place.directory}/{name}"}
    return {
        "repo1-type": "s3",
        "repo1-path": f"/{place.directory.name}/{name}",
        "repo1-s3-bucket": place.server.bucket,
        "repo1-s3-endpoint": "127.0.0.1",
        "repo1-storage-port": str(place.port),
        "repo1-storage-ca-file": str(place.server.certificate),
        "repo1-s3-region": place.server.region,
        "repo1-s3-key": place.server.access_key,
        "repo1-s3-key-secret": place.server.secret_key,
        "repo1-s3-uri-style": "path",
    }
