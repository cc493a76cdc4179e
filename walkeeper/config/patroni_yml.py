"""What Patroni knows already and is therefore not asked twice: taken from its file and its environment variables.

Patroni takes its ``PATRONI_…`` variables out of the environment as soon as it reads them: look before it does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from walkeeper.config import yaml_file
from walkeeper.errors import ConfigError

DEFAULT_PORT: Final = 5432
DEFAULT_NAMESPACE: Final = "service"

LIBPQ_OPTIONS: Final = (
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "sslcrl",
    "sslcrldir",
    "sslnegotiation",
    "gssencmode",
    "channel_binding",
)
"""Of what Patroni's ``authentication`` may hold, all but the secrets, which must not show in a command line."""
MAX_DYNAMIC_BYTES: Final = 1024 * 1024

_LOCAL: Final = ("*", "0.0.0.0", "127.0.0.1", "localhost")  # noqa: S104 - compared with, not bound to


@dataclass(frozen=True, slots=True)
class Credentials:
    """One role of Patroni's ``authentication``."""

    user: str | None
    password: str | None = field(repr=False)
    sslpassword: str | None = field(repr=False)
    options: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Patroni:
    """What was found; None where neither the file nor the environment says it."""

    file: Path
    scope: str | None
    name: str | None
    namespace: str
    group: int | None
    data_dir: Path | None
    bin_dir: Path | None
    host: str | None
    """Where the local server answers: a name or an address, or the directory of its Unix socket; "" is where that server says
    that it has one."""
    hostaddr: str | None
    """The address that goes with a name; None: it is looked up."""
    port: int
    replication: Credentials


def take(root: yaml_file.Section, environ: Mapping[str, str]) -> Patroni:
    """Read the keys that concern us. Raises ConfigError; what other sections hold is not looked at."""
    postgresql = root.section("postgresql")
    data_dir = _directory(root, "data_dir", _value(postgresql, "data_dir", environ, "PATRONI_POSTGRESQL_DATA_DIR"))
    listen = _value(postgresql, "listen", environ, "PATRONI_POSTGRESQL_LISTEN")
    host, hostaddr, port = _address(root, listen) if listen else (None, None, DEFAULT_PORT)
    socket_directory = _socket_directory(postgresql, data_dir)
    return Patroni(
        file=root.places.file,
        scope=_value(root, "scope", environ, "PATRONI_SCOPE"),
        name=_value(root, "name", environ, "PATRONI_NAME"),
        namespace=(_value(root, "namespace", environ, "PATRONI_NAMESPACE") or DEFAULT_NAMESPACE).strip("/"),
        group=_group(root, environ),
        data_dir=data_dir,
        bin_dir=_directory(root, "bin_dir", _value(postgresql, "bin_dir", environ, "PATRONI_POSTGRESQL_BIN_DIR")),
        host=host if socket_directory is None else socket_directory,
        hostaddr=hostaddr if socket_directory is None else None,
        port=port,
        replication=_credentials(postgresql, "replication", environ),
    )


def holds_password(root: yaml_file.Section) -> bool:
    """Whether the file itself says one, or the pass phrase of a key, and not the environment."""
    postgresql = root.section("postgresql")
    roles = [_credentials(postgresql, role, {}) for role in ("replication", "superuser", "rewind")]
    return any(role.password is not None or role.sslpassword is not None for role in roles)


def _value(section: yaml_file.Section | None, key: str, environ: Mapping[str, str], variable: str) -> str | None:
    """The environment goes before the file, and an empty variable is none: as in Patroni."""
    return environ.get(variable) or (section.text(key) if section else None)


def _directory(root: yaml_file.Section, key: str, value: str | None) -> Path | None:
    if value is None:
        return None
    if not value.startswith("/") or "\0" in value:
        raise root.places.error(
            ("postgresql", key),
            f"{value!r} is not an absolute path",
            hint="walkeeper's commands run in other directories than Patroni; write the whole path.",
        )
    return Path(value)


def _group(root: yaml_file.Section, environ: Mapping[str, str]) -> int | None:
    value = _value(root.section("citus"), "group", environ, "PATRONI_CITUS_GROUP")
    if value is None:
        return None
    if not value.isdecimal() or not value.isascii() or len(value) > 9:
        raise root.places.error(("citus", "group"), f"{value!r} is not the number of a group")
    return int(value)


def _address(root: yaml_file.Section, listen: str) -> tuple[str, str | None, int]:
    """Where to connect to a server with that ``listen``: name, address, port. Locally if it can be, as Patroni itself does.

    Patroni says ``localhost`` then, and so do people's .pgpass and certificates; the address is the one that pg_hba.conf mostly
    lets in, whatever the machine takes for ``localhost`` first.
    """
    try:
        hosts, port = _split(listen)
    except ValueError:
        raise _bad_listen(root, listen) from None
    names = [name.strip() for name in hosts.split(",") if name.strip()]
    if not names:
        raise _bad_listen(root, listen)
    for name in names:
        if name.lower() in _LOCAL:
            return "localhost", None if name.lower() == "localhost" else "127.0.0.1", port
    return ("::1" if names[0] == "::" else names[0]), None, port


def _split(listen: str) -> tuple[str, int]:
    """``host,host:port``; an IPv6 address stands in brackets where a port follows, or has at least two colons and none."""
    hosts, colon, port = listen.rpartition(":")
    if not colon:
        return listen, DEFAULT_PORT
    if ":" in hosts:
        hosts = ",".join(host.strip().strip("[]") for host in hosts.split(","))
    number = int(port)
    if not 0 < number < 65536:
        raise ValueError(port)
    return hosts, number


def _bad_listen(root: yaml_file.Section, listen: str) -> ConfigError:
    return root.places.error(
        ("postgresql", "listen"), f"{listen!r} is not HOST:PORT", hint="Patroni takes no other, as in 127.0.0.1:5432."
    )


def _socket_directory(postgresql: yaml_file.Section | None, data_dir: Path | None) -> str | None:
    """Where Patroni itself replicates through a Unix socket; "" where nothing says in which directory, None where it does not.

    Both keys may stand in the dynamic configuration instead. A list without an absolute path is none, as for Patroni.
    """
    if postgresql is None:
        return None
    dynamic = _dynamic(data_dir) if "use_unix_socket_repl" not in postgresql else {}
    if not (postgresql.flag("use_unix_socket_repl") or dynamic.get("use_unix_socket_repl")):
        return None
    parameters = postgresql.section("parameters")
    directories = parameters.text("unix_socket_directories") if parameters else None
    if directories is None:
        said = (dynamic or _dynamic(data_dir)).get("parameters")
        directories = said.get("unix_socket_directories") if isinstance(said, dict) else None
    if not isinstance(directories, str):
        return ""
    return next((name.strip() for name in directories.split(",") if name.strip().startswith("/")), None)


def _dynamic(data_dir: Path | None) -> dict[str, Any]:
    """``postgresql`` of the dynamic configuration, of which Patroni keeps a copy beside the data; empty where there is none."""
    if data_dir is None:
        return {}
    try:
        with (data_dir / "patroni.dynamic.json").open("rb") as file:
            found = json.loads(file.read(MAX_DYNAMIC_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    section = found.get("postgresql") if isinstance(found, dict) else None
    return section if isinstance(section, dict) else {}


def _credentials(postgresql: yaml_file.Section | None, role: str, environ: Mapping[str, str]) -> Credentials:
    """Old files have the roles without ``authentication`` around them, which Patroni takes as well."""
    authentication = postgresql.section("authentication") if postgresql else None
    around = authentication or postgresql
    section = around.section(role) if around is not None else None

    def value(key: str) -> str | None:
        return _value(section, key, environ, f"PATRONI_{role.upper()}_{key.upper()}")

    options = [(key, found) for key in LIBPQ_OPTIONS if (found := value(key))]
    if postgresql is not None and (name := postgresql.text("krbsrvname")):
        options.append(("krbsrvname", name))
    return Credentials(value("username"), value("password"), value("sslpassword"), tuple(options))
