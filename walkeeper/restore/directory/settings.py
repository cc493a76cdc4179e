"""The settings of a restored server: those that tell PostgreSQL what to recover, and those that keep it to itself meanwhile.

The first go into ``postgresql.auto.conf``, which a server reads however it is started: none overshoots the target. The second
are a file of their own, ``walkeeper.conf``, for the start that the command prints: what the backup's files say, without what
only held on the host where they come from. So nothing has to be taken back before the server goes into production.
No I/O but reading the files that the backup's configuration includes, and how much memory there is.
"""

from __future__ import annotations

import errno
import os
import re
import shlex
import stat
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from walkeeper.core.lsn import MIB

AUTO_CONF: Final = "postgresql.auto.conf"
START_CONF: Final = "walkeeper.conf"
START_LOG: Final = "walkeeper.log"
HBA: Final = "walkeeper_hba.conf"
HBA_CONTENT: Final = b"local all all trust\n"
"""Only who owns the files gets to the socket. The backup's own may have no line for one, and nobody could end the recovery."""
_BEGIN: Final = "# --- walkeeper restore: what follows counts until this recovery has ended"
_END: Final = "# --- walkeeper restore: end"
_ASIDE: Final = "# set aside by walkeeper restore: "
_LINE: Final = re.compile(r"\s*([A-Za-z_][\w$.]*)\s*(?:=\s*)?(.*)", re.DOTALL)
_QUOTED: Final = re.compile(r"'((?:[^'\\]|''|\\.)*)'")
_LONGEST: Final = 1024 * 1024
"""Bytes that are read of one file."""
PORT: Final = "5432"
"""Of the socket's name; the server listens nowhere else."""
_SOCKET: Final = f"/.s.PGSQL.{PORT}"
_LONGEST_SOCKET: Final = 107
"""Bytes of a socket's path."""
_DEEPEST: Final = 10
"""Files that include each other, as in PostgreSQL."""
_MOST_FILES: Final = 200
"""Files that are read in all, one that is included twice counts twice: ten that include each other ten times are ten billion."""

_RECOVERY: Final = re.compile(
    r"restore_command|recovery_.*|primary_conninfo|primary_slot_name|archive_cleanup_command|promote_trigger_file"
)
_OF_A_HOST: Final = re.compile(
    r"data_directory|config_file|hba_file|ident_file|external_pid_file|listen_addresses|port|unix_socket_.*|bonjour.*|ssl.*|"
    r"krb_.*|archive_.*|summarize_wal|synchronous_standby_names|synchronized_standby_slots|cluster_name|log(ging)?_(collector|"
    r"directory|filename|destination)|syslog_.*|stats_temp_directory|lc_(messages|monetary|numeric|time)|max_slot_wal_keep_size|"
    r"idle_replication_slot_timeout|max_logical_replication_workers|include(_dir|_if_exists)?|"
    r"huge_page(s|_size)|min_dynamic_shared_memory|io_method|wal_keep_(size|segments)"
)
"""What holds on one host only, or acts on others: addresses, files by absolute path, archiving, waiting for standbys, WAL that is
kept for them, what its kernel has."""
_LIMIT: Final = Path("/sys/fs/cgroup/memory.max")
_BUFFERS: Final = "shared_buffers"
_AMOUNT: Final = re.compile(r"'?\s*([0-9]+(?:\.[0-9]+)?)\s*(B|kB|MB|GB|TB|)\s*'?\s*(?:#.*)?")
_UNITS: Final = {"B": 1, "": 8192, "kB": 1024, "MB": MIB, "GB": 1024 * MIB, "TB": MIB * MIB}
_LIMITS: Final = {
    "max_connections": ("max_connections setting", 1000),
    "max_worker_processes": ("max_worker_processes setting", 64),
    "max_wal_senders": ("max_wal_senders setting", 50),
    "max_prepared_transactions": ("max_prepared_xacts setting", 100),
    "max_locks_per_transaction": ("max_locks_per_xact setting", 256),
}
"""What a server that may be read while it recovers must have as the primary had it, as pg_controldata names it, and what it has
at least: where the primary was given more after the backup, the recovery pauses at that, and to people it looks as at the target.
"""


def auto_conf(original: bytes, recovery: Mapping[str, str], *, keep: bool = False) -> tuple[bytes, list[str]]:
    """The backup's ``postgresql.auto.conf`` with the recovery's settings at its end.

    Returned as well: the names of settings that would keep the server from starting here, or let it act on others. They are
    set aside as comments, since this file goes before every other. ``keep``: not for a replica, which has what its leader has.
    """
    lines, aside, within = [], [], False
    for line in _lines(original):
        if line in (_BEGIN, _END):
            within = line == _BEGIN
            continue
        name = _name(line)
        if within or (name and _RECOVERY.fullmatch(name)):
            continue
        if name and not keep and (_OF_A_HOST.fullmatch(name) or _is_too_large(name, line)):
            aside.append(name)
            lines.append(_ASIDE + line.strip())
        else:
            lines.append(line)
    lines += [_BEGIN, *(f"{name} = {quoted(value)}" for name, value in recovery.items()), _END, ""]
    return "\n".join(lines).encode("utf-8", "surrogateescape"), aside


def start_conf(directory: Path, control_data: str) -> bytes:
    """``walkeeper.conf``. ``control_data`` is what pg_controldata says of the backup, in English; empty where it is not known."""
    stated = dict(line.split(":", 1) for line in control_data.splitlines() if ":" in line)
    ours = {
        "data_directory": str(directory),
        "hba_file": str(directory / HBA),
        "listen_addresses": "",
        "port": PORT,
        "unix_socket_directories": str(sockets(directory)),
        "unix_socket_permissions": "0700",
        "max_logical_replication_workers": "0",
        "hot_standby": "on",
    }
    found = list(_flattened(directory / "postgresql.conf", 0, iter(range(_MOST_FILES, -1, -1))))
    ours |= _limits(stated, [*found, *_auto_conf(directory)])
    lines = [
        "# For the start that walkeeper restore has printed, and for nothing else: what the backup's postgresql.conf says,",
        "# without addresses, files, archiving and standbys of the host that it comes from.",
        *_room_for_wal(stated.get("Bytes per WAL segment", "")),
        *found,
        "",
        *(f"{name} = {quoted(value)}" for name, value in ours.items()),
        "",
    ]
    return "\n".join(lines).encode("utf-8", "surrogateescape")


def over_auto_conf(directory: Path) -> str:
    """Options of the server for limits that postgresql.auto.conf has, too: it goes before walkeeper.conf."""
    try:
        ours = _lines(_content(directory / START_CONF))
    except OSError:
        return ""
    wanted = _limits({}, ours)
    there = {_name(line) for line in _auto_conf(directory)}
    return "".join(f" -c {name}={value}" for name, value in wanted.items() if name in there)


def _auto_conf(directory: Path) -> list[str]:
    try:
        return _lines(_content(directory / AUTO_CONF))
    except OSError:
        return []


def _limits(stated: Mapping[str, str], lines: Iterable[str]) -> dict[str, str]:
    """The highest that anything says of each."""
    found = {name: least for name, (_, least) in _LIMITS.items()}
    told = [(name, stated[label]) for name, (label, _) in _LIMITS.items() if label in stated]
    told += [(_name(line), match[2]) for line in lines if (match := _LINE.match(line))]
    for name, value in told:
        number = re.match(r"[\s']*([0-9]{1,9})\b", value)
        if name in found and number:
            found[name] = max(found[name], int(number[1]))
    return {name: str(number) for name, number in found.items()}


def _room_for_wal(segment: str) -> list[str]:
    """With segments above 40 MiB PostgreSQL does not start with its own defaults, and initdb sets these in a postgresql.conf
    that a backup need not have. What it has counts, as it comes later."""
    twice = 2 * int(segment) // MIB if segment.strip().isdecimal() else 0
    least = {"min_wal_size": 80, "max_wal_size": 1024}
    return [f"{name} = '{twice}MB'" for name, default in least.items() if twice > default]


def max_wal_size(content: bytes) -> float | None:
    """What a file of the configuration sets it to at last, in bytes; None where it does not, or not to an amount."""
    found = None
    for line in _lines(content):
        if (match := _LINE.match(line)) and match[1].lower() == "max_wal_size":
            amount = _AMOUNT.fullmatch(match[2].strip())
            found = float(amount[1]) * (_UNITS[amount[2]] if amount[2] else MIB) if amount else found
    return found


def quoted(value: str) -> str:
    """A value for postgresql.conf (``GUC_scanstr`` in ``guc-file.l``)."""
    return "'" + value.replace("\\", "\\\\").replace("'", "''").replace("\n", "\\n") + "'"


def sockets(directory: Path) -> Path:
    """Where the server's socket is: in the data directory, which is its owner's alone; below /tmp if that path is too long."""
    path = os.fsencode(directory)
    if len(path) + len(_SOCKET) <= _LONGEST_SOCKET:
        return directory
    return Path(f"/tmp/walkeeper-{zlib.crc32(path):08x}")  # noqa: S108 - it counts only if it is ours alone


def restore_command(program: str, config: Path, scope: str | None) -> str:
    """PostgreSQL's, for a shell. ``program`` is walkeeper-restore-wal's path; ``scope``: another than the configuration's."""
    words = [program, "-c", str(config)]
    said = "" if scope is None else f"PATRONI_SCOPE={shlex.quote(scope)} "
    return said + shlex.join(words).replace("%", "%%") + " %f %p"


def start_command(pg_ctl: str, directory: Path, more: str = "") -> str:
    """For people to paste. ``more`` are options of the server."""
    options = f"-c config_file={shlex.quote(str(directory / START_CONF))}{more}"
    log = str(directory / START_LOG)
    return shlex.join([pg_ctl, "-D", str(directory), "-o", options, "-l", log, "-t", "86400", "start"])


def tablespace_map(places: Mapping[int, Path]) -> bytes:
    """For PostgreSQL, which makes the links again when it begins to recover (``read_tablespace_map`` in ``xlogrecovery.c``)."""
    escaped = {oid: re.sub(r"([\\\n\r])", r"\\\1", str(place)) for oid, place in sorted(places.items())}
    return "".join(f"{oid} {place}\n" for oid, place in escaped.items()).encode("utf-8", "surrogateescape")


def _content(path: Path) -> bytes:
    """Of a regular file, and not too much of it: whoever opens a named pipe waits for a writer. Raises OSError."""
    if "\0" in str(path):
        raise OSError(errno.EINVAL, "no file has such a name")
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
        return file.read(_LONGEST)


def _flattened(path: Path, depth: int, left: Iterator[int]) -> Iterator[str]:
    """The settings of a file, and of those that it includes, but for what only holds on its host. What cannot be read is said.

    ``left`` counts the files down.
    """
    number = next(left, None)
    if not number:
        if number == 0:
            yield f"# {path}: it is not read, nor is what comes later, as {_MOST_FILES} files were"
        return
    try:
        lines = _lines(_content(path))
    except OSError as problem:
        yield f"# {path}: {problem.strerror}"
        return
    for line in lines:
        name = _name(line)
        if not name:
            continue
        if name.startswith("include"):
            yield f"# {line.strip()}"
            if depth < _DEEPEST and name in ("include", "include_if_exists", "include_dir"):
                for inner in _included(path, name, line):
                    yield from _flattened(inner, depth + 1, left)
        elif _is_too_large(name, line):
            yield f"# {line.strip()}"
            yield f"{_BUFFERS} = '{_memory() // 4 // MIB}MB'"
        elif not _OF_A_HOST.fullmatch(name) and not _RECOVERY.fullmatch(name):
            yield line.strip()


def _is_too_large(name: str, line: str) -> bool:
    """Shared buffers of more than half of this host's memory: PostgreSQL does not start with them, or does not last."""
    if name != _BUFFERS:
        return False
    match = _LINE.match(line)
    amount = _AMOUNT.fullmatch(match[2].strip()) if match else None
    return amount is not None and float(amount[1]) * _UNITS[amount[2]] > _memory() / 2


def _memory() -> int:
    """Bytes, of this host, or of the container's limit."""
    found = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        return min(found, int(_LIMIT.read_text()))
    except (OSError, ValueError):  # not in a container, or "max"
        return found


def _included(path: Path, name: str, line: str) -> list[Path]:
    match = _LINE.match(line)
    value = match[2].strip() if match else ""
    in_quotes = _QUOTED.match(value)
    named = in_quotes[1].replace("''", "'") if in_quotes else value.partition("#")[0].strip()
    inner = path.parent / named
    if name != "include_dir":
        return [inner]
    try:
        return sorted(each for each in inner.iterdir() if each.name.endswith(".conf") and not each.name.startswith("."))
    except (OSError, ValueError):  # no directory has such a name
        return []


def _name(line: str) -> str:
    """The setting's, in lower case; empty for a comment or nothing."""
    match = _LINE.match(line)
    return match[1].lower() if match else ""


def _lines(content: bytes) -> list[str]:
    """As PostgreSQL has them: a form feed, for one, ends none."""
    return content.decode("utf-8", "surrogateescape").removesuffix("\n").split("\n") if content else []
