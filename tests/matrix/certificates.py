"""A certificate authority of the tests', and what it signed."""

from __future__ import annotations

import subprocess
from pathlib import Path


def authority(directory: Path, **clients: str) -> Path:
    """``ca.crt``, ``server.crt`` for 127.0.0.1, and one for each client, with its subject. Returns the directory."""
    directory.mkdir()
    _openssl(directory, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=tests", *_files("ca", "-out"))
    (directory / "server.ext").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    for name, subject in {"server": "/CN=127.0.0.1", **clients}.items():
        _openssl(
            directory, "req", "-newkey", "rsa:2048", "-nodes", "-subj", subject, "-keyout", f"{name}.key", "-out", "csr"
        )
        extension = ["-extfile", "server.ext"] if name == "server" else []
        _openssl(directory, "x509", "-req", "-in", "csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial",
                 "-out", f"{name}.crt", *extension)  # fmt: skip
        (directory / f"{name}.key").chmod(0o600)
    return directory


def _files(name: str, out: str) -> tuple[str, ...]:
    return ("-keyout", f"{name}.key", out, f"{name}.crt")


def _openssl(directory: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=directory, check=True, capture_output=True, timeout=60)
