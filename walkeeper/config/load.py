"""The configuration: a ``walkeeper:`` section in ``patroni.yml``, or a file of its own that names the ``patroni.yml``.

Every error is a ConfigError of one line: the file, the line, the path of the key, what is wrong.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeAlias

import msgspec

from walkeeper.config import overrides, patroni_yml, yaml_file
from walkeeper.config.keys import (
    AgentKeys,
    AuthenticationKeys,
    EncryptionKeys,
    Keys,
    NamedStoreKeys,
    PostgresqlKeys,
    all_sections,
)
from walkeeper.config.model import MAIN, AgentSettings, Config, NamedStore, Node, PostgresqlSettings
from walkeeper.config.patroni_yml import LIBPQ_OPTIONS, Patroni
from walkeeper.config.written import Written
from walkeeper.config.wrong import type_error
from walkeeper.errors import ConfigError
from walkeeper.lib import trust
from walkeeper.lib.near import nearest
from walkeeper.lib.section import Section, decode

Keypath: TypeAlias = tuple[str | int, ...]

_OTHER_KEYS: Final = ("backup", "proof", "remembered")
"""The record of a store has its name after ``walkeeper-``, as other keys in the DCS have these."""
_INSIDE: Final = "Patroni and pg_rewind remove what is in the data directory: choose a place outside it."
_SHORTEST_KEY: Final = 32
"""Characters of a key for authentication codes: 128 bits in hex."""


def load(path: Path, environ: Mapping[str, str], *, for_agent: bool = False) -> Config:
    """Read a configuration. Raises ConfigError; ``for_agent``, also for what only the agent needs.

    Call it before Patroni's own Config is built, which takes the ``PATRONI_…`` variables out of the environment.
    """
    path = _absolute(path)
    root = yaml_file.read(path)
    if "patroni_config" in root:
        patroni_root = _named_patroni(root)
        written = Written(root.places, (), root.status)
        tree = root.everything()
        del tree["patroni_config"]
    else:
        patroni_root = root
        _check_section_name(root)
        written = Written(root.places, ("walkeeper",), root.status)
        tree = root.plain("walkeeper")
    keys = _keys(tree, environ, written)
    patroni = patroni_yml.take(patroni_root, environ)
    config = _config(path, keys, written, patroni, patroni_root)
    config = replace(config, exposed=tuple(_exposed(root, patroni_root, written)))
    if for_agent:
        _ = config.name, config.data_dir, config.spool_directory, config.postgresql
    return config


def _exposed(root: yaml_file.Section, patroni_root: yaml_file.Section, written: Written) -> Iterator[trust.Exposure]:
    """Patroni's passwords, when they stand in its file, are the ones that are in clear in most."""
    us = trust.Us.here()
    passwords = patroni_yml.holds_password(patroni_root)
    for file in {root.places.file: root, patroni_root.places.file: patroni_root}.values():
        yield from trust.exposures(file.places.file, file.status, us, secret=passwords and file is patroni_root)
    yield from written.exposed


def _check_section_name(root: yaml_file.Section) -> None:
    """Patroni tolerates a section that is misspelt, and so nobody would say anything."""
    if "walkeeper" in root:
        return
    near = nearest("walkeeper", root.names(), cutoff=0.75)
    if near:
        root.plain(near[0])  # notes its line
        raise root.error(near[0], "no section of Patroni's", hint="Did you mean walkeeper?")


def _absolute(path: Path) -> Path:
    try:
        return path.absolute()
    except FileNotFoundError:
        raise ConfigError(f"{path}: the working directory is gone", hint="Name the file by its whole path.") from None


def _named_patroni(root: yaml_file.Section) -> yaml_file.Section:
    name = root.text("patroni_config") or ""
    path = Written(root.places, (), root.status).path(("patroni_config",), name)
    patroni = yaml_file.read(path or Path(name))
    if "walkeeper" in patroni:
        raise patroni.error(
            "walkeeper",
            f"{root.places.file} configures walkeeper too",
            hint="Keep one: this section, or a file of walkeeper's own.",
        )
    return patroni


def _keys(tree: Any, environ: Mapping[str, str], written: Written) -> Keys:
    """Types and names checked. A null counts as not written."""
    if tree is None:
        tree = {}
    if not isinstance(tree, dict):
        raise written.error((), "expected a mapping of keys to values", hint=yaml_file.MAPPING)
    overrides.apply(tree, environ, written.section, written.places)
    tree = _without_nulls(tree)
    _check_names(tree, written)
    _check_unexpanded(tree, (), written)
    try:
        return msgspec.convert(tree, Keys, strict=True, dec_hook=decode)
    except msgspec.ValidationError as error:
        raise type_error(error, written) from None


def _without_nulls(tree: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _without_nulls(value) if isinstance(value, dict) else value
        for key, value in tree.items()
        if value is not None
    }


def _check_names(tree: dict[str, Any], written: Written, kind: type[Section] = Keys, at: Keypath = ()) -> None:
    for path, section in all_sections(kind):
        part: Any = tree
        for name in path:
            part = part.get(name) if isinstance(part, dict) else None
        known = section.__struct_fields__
        for key in part if isinstance(part, dict) else ():
            if key not in known:
                raise _unknown_key((*at, *path, key), section, written)
    stores = tree.get("stores") if kind is Keys else None
    for index, store in enumerate(stores if isinstance(stores, list) else ()):
        if isinstance(store, dict):
            _check_names(store, written, NamedStoreKeys, ("stores", index))


def _unknown_key(path: Keypath, section: type[Section], written: Written) -> ConfigError:
    near = nearest(str(path[-1]), section.__struct_fields__, 2)
    wanted = near or sorted(section.__struct_fields__)
    hint = f"Did you mean {' or '.join(near)}?" if near else f"There are {', '.join(wanted)}."
    return written.error(path, "unknown key", hint=hint)


_VARIABLE: Final = re.compile(r"\$(\{\w+[^}]*\}|\(\w+\)|[A-Za-z_]\w*)")


def _check_unexpanded(value: Any, path: tuple[str | int, ...], written: Written) -> None:
    """``$BUCKET`` in a value: nothing here expands it. Within a secret it may be meant."""
    for key, inner in _items(value):
        _check_unexpanded(inner, (*path, key), written)
    if not isinstance(value, str):
        return
    secret = path[-1] in ("secret_access_key", "session_token", "password")
    match = _VARIABLE.fullmatch(value) if secret else _VARIABLE.search(value)
    if match:
        variable = overrides.PREFIX + "_".join(map(str, path)).upper()
        raise written.error(
            path,
            "a variable that nothing has expanded" if secret else f"{match[0]} is a variable that nothing has expanded",
            hint="Write the value." if path[0] == "stores" else f"Write the value, or set {variable} instead.",
        )


def _items(value: Any) -> Iterator[tuple[str | int, Any]]:
    if isinstance(value, dict):
        yield from value.items()
    elif isinstance(value, list):
        yield from enumerate(value)


def _config(path: Path, keys: Keys, written: Written, patroni: Patroni, root: yaml_file.Section) -> Config:
    store, *others = _stores(keys, written)
    spool = written.path(("spool", "directory"), keys.spool.directory)
    ready = written.path(("restore", "directory"), keys.restore.directory)
    _check_spool(spool, patroni, written)
    for index, each in enumerate((store, *others)):
        at: Keypath = ("stores", index) if keys.stores else ("store",)
        _check_outside((*at, "directory"), each.settings.local_directory, patroni, written)
    _check_outside(("restore", "directory"), ready, patroni, written)
    _check_keys(keys, patroni, written)
    return Config(
        source=path,
        patroni_config=patroni.file,
        scope=_scope(patroni, root),
        namespace=patroni.namespace,
        group=patroni.group,
        bin_dir=written.path(("postgresql", "bin_dir"), keys.postgresql.bin_dir) or patroni.bin_dir,
        store=store.settings,
        store_name=store.name,
        others=tuple(others),
        durable_in=keys.durable_in or 1 + len(others),
        compression_level=keys.compression_level,
        encryption_recipients=_recipients(keys.encryption, written),
        identity_file=written.secret_file(
            ("encryption", "identity_file"),
            written.path(("encryption", "identity_file"), keys.encryption.identity_file),
        ),
        plain_before=_segment(("encryption", "plain_before"), keys.encryption.plain_before, written),
        authentication_keys=_authentication_keys(keys.authentication, written),
        authentic_since=_segment(("authentication", "since"), keys.authentication.since, written),
        upload_workers=keys.upload_workers,
        hold_slot=keys.hold_slot,
        spool_limit=int(keys.spool.limit),
        spool_reserve=int(keys.spool.reserve),
        tail_interval=float(keys.tail.interval) or None,
        gap_patience=float(keys.gap.patience),
        backup_keep=float(keys.backup.keep) or None,
        backup_schedule=keys.backup.schedule or None,
        backup_full_every=float(keys.backup.full_every) or None,
        backup_source=keys.backup.source,
        backup_expire=_expire(keys.backup.expire, written, path),
        backup_verify_schedule=keys.backup.verify_schedule or None,
        backup_verify_directory=_scratch(keys.backup.verify_directory, patroni, written),
        backup_rate=int(keys.backup.max_rate) or None,
        restore_deadline=float(keys.restore.deadline),
        restore_workers=keys.restore.workers,
        restore_ahead=int(keys.restore.ahead),
        restore_directory=ready or (spool / "restore" if spool else None),
        agent=_agent(keys.agent, written),
        node=Node(
            name=patroni.name,
            data_dir=patroni.data_dir,
            spool_directory=spool,
            postgresql=_postgresql(keys.postgresql, patroni, written),
        ),
        archiver=keys.archiver,
        receiver="builtin" if keys.durability == "store" else keys.receiver,
        durability=keys.durability,
        waited_for=store.name if keys.durability == "store" else "",
        degrade_after=float(keys.degrade_after) or None,
    )


def _check_keys(keys: Keys, patroni: Patroni, written: Written) -> None:
    """What is right by itself and not beside the others."""
    if keys.spool.limit < 1024 * 1024:
        raise written.error(("spool", "limit"), "less than 1MiB, which no segment fits into")
    if patroni.name is not None and re.sub(r"[-. ]", "_", patroni.name.lower()) == keys.hold_slot:
        raise written.error(
            ("hold_slot",), f"Patroni uses that slot for the member {patroni.name}", hint="Choose another."
        )
    if keys.receiver == "builtin" and keys.archiver == "command":
        raise written.error(("receiver",), "archiver: command receives nothing", hint="Leave one of the two out.")
    if keys.durability == "store" and keys.archiver == "command":
        raise written.error(("durability",), "archiver: command receives nothing", hint="Leave one of the two out.")
    if keys.degrade_after and keys.durability == "local":
        raise written.error(
            ("degrade_after",), "only with durability: store does a commit wait", hint="Leave it out, or set that."
        )


def _stores(keys: Keys, written: Written) -> list[NamedStore]:
    """At least one, the first first."""
    if not keys.stores:
        stores = [NamedStore(MAIN, written.store(("store",), keys.store))]
    elif keys.store.given():
        raise written.error(("stores",), "there is store, too", hint="Move it into the list.")
    else:
        stores = [
            NamedStore(each.name, written.store(("stores", index), each)) for index, each in enumerate(keys.stores)
        ]
    for index, store in enumerate(stores):
        if store.name.partition("-")[0] in _OTHER_KEYS:
            raise written.error(
                ("stores", index, "name"),
                f"{store.name} is what another key of walkeeper's in the DCS has",
                hint="Choose another name.",
            )
        for before in stores[:index]:
            if before.name == store.name:
                raise written.error(
                    ("stores", index, "name"),
                    f"{store.name} is the name of another one, too",
                    hint="Give each a name of its own.",
                )
            if before.settings.listing_command() == store.settings.listing_command():
                raise written.error(
                    ("stores", index), f"the same place as that of {before.name}", hint="Two archives take two places."
                )
    if (keys.durable_in or 1) > len(stores):
        raise written.error(
            ("durable_in",),
            f"more than there are stores, {len(stores)}",
            hint="Lower it, or leave it out: all of them.",
        )
    return stores


def _expire(value: str | bool, written: Written, own: Path) -> Path | None:
    """The configuration that ``walkeeper expire`` is to have."""
    word = value.lower() if isinstance(value, str) else ("on" if value else "off")
    if word in ("on", "off"):
        return own if word == "on" else None
    return written.path(("backup", "expire"), str(value))


def _scratch(value: str, patroni: Patroni, written: Written) -> Path:
    at = ("backup", "verify_directory")
    path = Path(written.path(at, value) or value)
    _check_outside(at, path, patroni, written)
    return path


def _scope(patroni: Patroni, root: yaml_file.Section) -> str:
    """It names the archive's directory in the store."""
    scope = patroni.scope
    if scope is None:
        raise root.error(
            "scope", "missing", hint="It is the cluster's name in patroni.yml; PATRONI_SCOPE can say it too."
        )
    if not re.fullmatch(r"[A-Za-z0-9_.@=+-]{1,200}", scope) or scope.startswith("."):
        raise root.error(
            "scope",
            f"{scope!r} cannot be part of a key in the store",
            hint="It takes letters, digits and _.@=+- only, and no dot first.",
        )
    return scope


def _check_spool(spool: Path | None, patroni: Patroni, written: Written) -> None:
    """Nor may the data directory lie in it."""
    if patroni.data_dir and spool and (_inside(spool, patroni.data_dir) or _inside(patroni.data_dir, spool)):
        raise written.error(
            ("spool", "directory"),
            f"{spool} and the data directory {patroni.data_dir} lie in each other",
            hint=_INSIDE,
        )


def _check_outside(at: Keypath, path: Path | None, patroni: Patroni, written: Written) -> None:
    """Not in the data directory: Patroni, pg_rewind and a rebuild remove what is there."""
    if path and patroni.data_dir and _inside(path, patroni.data_dir):
        raise written.error(at, f"{path} lies in the data directory {patroni.data_dir}", hint=_INSIDE)


def _inside(path: Path, directory: Path) -> bool:
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(directory))


def _recipients(keys: EncryptionKeys, written: Written) -> tuple[str, ...]:
    for index, recipient in enumerate(keys.recipients):
        if not re.fullmatch(r"age1[0-9a-z]{58}", recipient):
            raise written.error(
                ("encryption", "recipients", index),
                "not an age public key",
                hint="age-keygen -y FILE prints it: age1 and 58 characters. A private key does not belong here.",
            )
    return keys.recipients


def _authentication_keys(keys: AuthenticationKeys, written: Written) -> tuple[str, ...]:
    at = ("authentication", "key_files")
    found = tuple(written.read_secret(at, written.path(at, file)) for file in keys.key_files)
    for file, key in zip(keys.key_files, found, strict=True):
        if len(key) < _SHORTEST_KEY:
            raise written.error(
                at,
                f"{file} holds {len(key)} characters, fewer than {_SHORTEST_KEY}",
                hint="Make one with: openssl rand -hex 32",
            )
    if found and keys.since is None:
        raise written.error(
            ("authentication", "since"),
            "missing",
            hint="Say from which segment on objects must have a code: one that is still to come (walkeeper status shows the "
            "frontier), or 000000010000000000000000 for a new archive.",
        )
    return found


def _segment(keys: tuple[str, ...], name: str | None, written: Written) -> str:
    if name is not None and not re.fullmatch(r"[0-9A-F]{24}", name):
        raise written.error(keys, f"{name!r} is not the name of a segment", hint="Write all 24 digits, and in quotes.")
    return name or ""


def _postgresql(keys: PostgresqlKeys, patroni: Patroni, written: Written) -> PostgresqlSettings | None:
    """Patroni's replication user and password, unless the section names another user, who then has a password of his own."""
    password = written.secret(("postgresql", "password"), keys.password, keys.password_file)
    user = keys.user or patroni.replication.user
    if user is None:
        return None
    if password is None and user == patroni.replication.user:
        password = patroni.replication.password
    options = dict(patroni.replication.options)
    options |= {name: value for name in LIBPQ_OPTIONS if (value := getattr(keys, name))}
    return PostgresqlSettings(
        host=keys.host or ("127.0.0.1" if patroni.host is None else patroni.host),
        hostaddr=None if keys.host else patroni.hostaddr,
        port=keys.port or patroni.port,
        user=user,
        password=password,
        dbname=keys.dbname,
        options=tuple(options.items()),
        require_auth=keys.require_auth,
        data_dir=patroni.data_dir,
        sslpassword=patroni.replication.sslpassword,
    )


def _agent(keys: AgentKeys, written: Written) -> AgentSettings:
    return AgentSettings(
        start_from_callback=keys.start_from_callback,
        poll_interval=float(keys.poll_interval),
        listen=written.address(("agent", "listen"), keys.listen),
        log_file=written.path(("agent", "log_file"), keys.log_file),
        log_level=logging.getLevelNamesMapping()[keys.log_level.upper()],
        stop_timeout=float(keys.stop_timeout),
        dcs_timeout=float(keys.dcs_timeout),
        read_back=float(keys.read_back) or None,
    )
