"""The configuration: what is taken, what is refused, and that every refusal says where."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from patroni.config import Config as PatroniConfig
from patroni.validator import schema

from walkeeper.config import Config, keys, load, overrides
from walkeeper.config.keys import all_keys
from walkeeper.config.reference import reference
from walkeeper.errors import ConfigError
from walkeeper.lib.units import Seconds, Size
from walkeeper.store.directory.keys import DirectorySettings
from walkeeper.store.s3.keys import S3Settings

ROOT = Path(__file__).parents[2]

PATRONI = """\
scope: demo
name: node1
etcd3: {host: 127.0.0.1:2379}
postgresql:
  listen: 10.0.0.1:5433
  data_dir: /var/lib/pg/data
  authentication:
    replication: {username: replicator, password: 12345, sslmode: require}
"""
DIRECTORY = "walkeeper:\n  store:\n    directory: /mnt/wal\n"
S3 = "walkeeper:\n  store:\n    s3:\n      bucket: wal\n"
AGE = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"

Write: TypeAlias = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str | bytes, name: str = "patroni.yml", mode: int = 0o644) -> Path:
        path = tmp_path / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        path.chmod(mode)
        return path

    return write


def refusal(path: Path, environ: Mapping[str, str] | None = None, *, for_agent: bool = False) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load(path, environ or {}, for_agent=for_agent)
    assert "\n" not in str(caught.value)
    assert str(caught.value).isprintable()
    assert caught.value.exit_code == 2
    return caught.value


def test_five_lines_are_enough_and_the_rest_has_defaults(write: Write) -> None:
    path = write(PATRONI + DIRECTORY)
    config = load(path, {}, for_agent=True)
    assert (config.scope, config.name, config.group, config.namespace) == ("demo", "node1", None, "service")
    assert (config.source, config.patroni_config) == (path, path)
    assert config.store == DirectorySettings(Path("/mnt/wal"))
    assert config.data_dir == Path("/var/lib/pg/data")
    assert config.spool_directory == Path("/var/lib/pg/data.walkeeper")
    assert (config.spool_limit, config.upload_workers, config.compression_level) == (1024**3, 2, 1)
    assert (config.hold_slot, config.bin_dir, config.restore_deadline) == ("walkeeper", None, 60.0)
    assert (config.encryption_recipients, config.identity_file) == ((), None)
    assert (config.agent.listen, config.agent.log_file, config.agent.log_level) == (("127.0.0.1", 8018), None, 20)
    assert (config.agent.poll_interval, config.agent.stop_timeout, config.agent.dcs_timeout) == (2.0, 10.0, 5.0)
    assert config.agent.start_from_callback is True
    server = config.postgresql
    assert (server.host, server.port, server.user, server.password) == ("10.0.0.1", 5433, "replicator", "12345")
    assert (server.dbname, server.options) == ("postgres", (("sslmode", "require"),))


def test_a_file_of_its_own_names_the_patroni_yml(write: Write) -> None:
    patroni = write(PATRONI)
    own = write(f"patroni_config: {patroni}\nstore: {{directory: /mnt/wal}}\nhold_slot: keep\n", "walkeeper.yml")
    config = load(own, {}, for_agent=True)
    assert (config.source, config.patroni_config, config.hold_slot, config.scope) == (own, patroni, "keep", "demo")


def test_two_configurations_of_walkeeper_are_refused(write: Write) -> None:
    patroni = write(PATRONI + DIRECTORY)
    own = write(f"patroni_config: {patroni}\nstore: {{directory: /mnt/wal}}\n", "walkeeper.yml")
    assert "configures walkeeper too" in str(refusal(own))


def test_every_setting_of_s3_is_taken(write: Write) -> None:
    secret = write("s3cret/+=\n", "secret")
    text = f"""{PATRONI}walkeeper:
  store:
    s3: {{bucket: our.wal, prefix: /a//b/, endpoint: "https://s3.example.com:9000/", region: eu, path_style: true,
         access_key_id: id, secret_access_key_file: {secret}, ca_file: /ca.pem, connect_timeout: 500ms,
         read_timeout: 2min, overwrite_guard: head}}
"""
    expected = S3Settings(
        bucket="our.wal", prefix="a/b", endpoint="https://s3.example.com:9000", region="eu", path_style=True,
        access_key_id="id", secret_access_key_file=secret, secret_access_key="s3cret/+=", ca_file=Path("/ca.pem"), connect_timeout=Seconds(0.5),
        read_timeout=Seconds(120), overwrite_guard="head",
    )  # fmt: skip
    config = load(write(text), {})
    assert config.store == expected
    assert "s3cret" not in repr(config)
    assert "12345" not in repr(config)


REFUSED: Mapping[str, tuple[str, str]] = {
    "unknown key": ("  store: {s3: {buckt: x}}", ":2: walkeeper.store.s3.buckt: unknown key"),
    "unknown key at the top": ("  stor: {directory: /x}", ":2: walkeeper.stor: unknown key"),
    "missing bucket": ("  store:\n    s3: {region: eu}", ":3: walkeeper.store.s3.bucket: missing"),
    "no store": ("  upload_workers: 2", ":1: walkeeper.store: missing"),
    "two stores": ("  store: {directory: /x, s3: {bucket: abc}}", ":2: walkeeper.store: both directory and s3"),
    "wrong type": (
        "  store: {directory: /x}\n  upload_workers: many",
        ":3: walkeeper.upload_workers: expected a whole",
    ),
    "text for a number": ('  store: {directory: /x}\n  upload_workers: "2"', ":3: walkeeper.upload_workers: expected"),
    "a flag for a number": (
        "  store: {directory: /x}\n  upload_workers: yes",
        ":3: walkeeper.upload_workers: expected",
    ),
    "too many": ("  store: {directory: /x}\n  upload_workers: 33", ":3: walkeeper.upload_workers: expected"),
    "zero": ("  store: {directory: /x}\n  upload_workers: 0", ":3: walkeeper.upload_workers: expected"),
    "negative": ("  store: {directory: /x}\n  compression_level: -1", ":3: walkeeper.compression_level: expected"),
    "not a number": (
        "  store: {directory: /x}\n  upload_workers: " + "9" * 5000,
        ":3: walkeeper.upload_workers: not a",
    ),
    "duplicate": ("  hold_slot: a\n  store: {directory: /x}\n  hold_slot: b", ":4: walkeeper.hold_slot: the key is"),
    "list": ("  - a", ":1: walkeeper: expected a mapping"),
    "scalar": ("  all of it", ":1: walkeeper: expected a mapping"),
    "list for a section": ("  store: [a]", ":2: walkeeper.store: expected a mapping"),
    "null for a section": ("  store:", ":2: walkeeper.store: missing"),
    "number as a key": ("  store: {directory: /x}\n  1: 2", ":3: walkeeper: a key that is not text"),
    "odd key": ('  store: {directory: /x}\n  "a\\nb": 2', ":3: walkeeper.'a\\nb': unknown key"),
    "unit": ("  store: {directory: /x}\n  spool: {limit: 1GX}", ":3: walkeeper.spool.limit: expected a size"),
    "small spool": ("  store: {directory: /x}\n  spool: {limit: 5}", ":3: walkeeper.spool.limit: less than 1MiB"),
    "duration": (
        "  store: {directory: /x}\n  restore: {deadline: soon}",
        ":3: walkeeper.restore.deadline: expected a dur",
    ),
    "no time": (
        "  store: {directory: /x}\n  restore: {deadline: 0}",
        ":3: walkeeper.restore.deadline: it must be above",
    ),
    "infinite": ("  store: {directory: /x}\n  restore: {deadline: .inf}", ":3: walkeeper.restore.deadline: expected"),
    "nan": ("  store: {directory: /x}\n  spool: {limit: .nan}", ":3: walkeeper.spool.limit: expected"),
    "relative path": ("  store: {directory: wal}", ":2: walkeeper.store.directory: 'wal' is not an absolute path"),
    "NUL in a path": ('  store: {directory: "/a\\0b"}', ":2: walkeeper.store.directory: '/a\\x00b' is not an absolute"),
    "slot name": ("  store: {directory: /x}\n  hold_slot: Keep", ":3: walkeeper.hold_slot: expected a to z"),
    "slot of a member": ("  store: {directory: /x}\n  hold_slot: node1", ":3: walkeeper.hold_slot: Patroni uses"),
    "unexpanded": ("  store: {directory: $HOME/wal}", ":2: walkeeper.store.directory: $HOME is a variable"),
    "unexpanded in a list": (
        "  store: {directory: /x}\n  encryption:\n    recipients:\n    - '${KEY}'",
        ":5: walkeeper.encryption.recipients[0]: ${KEY} is a variable",
    ),
    "recipient": (
        "  store: {directory: /x}\n  encryption: {recipients: [AGE-SECRET-KEY-1]}",
        ":3: walkeeper.encryption.recipients[0]: not an age public key",
    ),
    "listen": ("  store: {directory: /x}\n  agent: {listen: 8018}", ":3: walkeeper.agent.listen: expected text, got a"),
    "listen on": ("  store: {directory: /x}\n  agent: {listen: on}", ":3: walkeeper.agent.listen: expected HOST:PORT"),
    "log level": (
        "  store: {directory: /x}\n  agent: {log_level: loud}",
        ":3: walkeeper.agent.log_level: 'loud' is none of debug",
    ),
    "python object": ("  store: !!python/object:os.system {}", ":2: walkeeper.store: values of type"),
    "python name": (
        "  store: {directory: !!python/name:os.system ''}",
        ":2: walkeeper.store.directory: values of type",
    ),
    "binary": ("  store: {directory: !!binary aGVsbG8=}", ":2: walkeeper.store.directory: values of type"),
    "set": ("  store: !!set {directory}", ":2: walkeeper.store: values of type"),
    "private tag": ("  store: {directory: !vault abc}", ":2: walkeeper.store.directory: values of type"),
    "alias of nothing": ("  store: *store", ":2: found undefined alias"),
    "a password like an alias": ("  postgresql: {password: *hunter2}", ":2: found undefined alias"),
    "a password like a tag": (
        "  postgresql:\n    password: !hunter2 x",
        ":3: walkeeper.postgresql.password: values of type '!...'",
    ),
    "itself": ("  store: &s\n    s3: *s", "an alias that contains itself"),
    "tab": ("  store:\n\tdirectory: /x", ":3: found character '\\t'"),
    "unclosed": ("  store: {directory: /x", ": expected"),
    "control character": ("  store: {directory: /x\x07}", ":2: a character that YAML does not allow"),
    "spool in the data directory": (
        "  store: {directory: /x}\n  spool: {directory: /pg/data/../data/spool}",
        ":3: walkeeper.spool.directory: /pg/data/../data/spool and the data directory /pg/data lie in each other",
    ),
    "data directory in the spool": (
        "  store: {directory: /x}\n  spool: {directory: /pg}",
        ":3: walkeeper.spool.directory",
    ),
    "store in the data directory": (
        "  store: {directory: /pg/data/wal}",
        ":2: walkeeper.store.directory: /pg/data/wal",
    ),
    "proofs in the data directory": (
        "  store: {directory: /x}\n  backup: {verify_directory: /pg/data/scratch}",
        ":3: walkeeper.backup.verify_directory: /pg/data/scratch lies in the data directory /pg/data",
    ),
    "a schedule of proofs that is none": (
        "  store: {directory: /x}\n  backup: {verify_schedule: 0 0 30 2 *}",
        ":3: walkeeper.backup.verify_schedule: ",
    ),
    "an age without a unit": (
        "  store: {directory: /x}\n  backup: {keep: 14}",
        ":3: walkeeper.backup.keep: 14 has no unit",
    ),
    "an age in seconds": (
        "  store: {directory: /x}\n  backup: {full_every: 7s}",
        ":3: walkeeper.backup.full_every: less than a minute",
    ),
    "an age that is text": (
        "  store: {directory: /x}\n  backup: {keep: 1w}",
        ":3: walkeeper.backup.keep: expected a duration such as 14d",
    ),
    "bucket": ("  store: {s3: {bucket: a/b}}", ":2: walkeeper.store.s3.bucket: 'a/b' is not the name of a bucket"),
    "bucket with dots": ("  store: {s3: {bucket: a..b}}", ":2: walkeeper.store.s3.bucket: 'a..b' is not the name"),
    "prefix": ("  store: {s3: {bucket: abc, prefix: a/../b}}", ":2: walkeeper.store.s3.prefix: 'a/../b' cannot be"),
    "a space in the prefix": (
        "  store: {s3: {bucket: abc, prefix: a b}}",
        ":2: walkeeper.store.s3.prefix: 'a b' cannot",
    ),
    "a hidden prefix": ("  store: {s3: {bucket: abc, prefix: a/.b}}", ":2: walkeeper.store.s3.prefix: 'a/.b' cannot"),
    "a long prefix": (
        "  store: {s3: {bucket: abc, prefix: " + "x/" * 150 + "}}",
        ":2: walkeeper.store.s3.prefix: longer than 199 characters",
    ),
    "unicode prefix": ("  store: {s3: {bucket: abc, prefix: ü}}", ":2: walkeeper.store.s3.prefix: 'ü' cannot be"),
    "endpoint": ("  store: {s3: {bucket: abc, endpoint: s3.example.com}}", ":2: walkeeper.store.s3.endpoint: expected"),
    "endpoint port": (
        "  store: {s3: {bucket: abc, endpoint: 'http://a:99999'}}",
        ":2: walkeeper.store.s3.endpoint: exp",
    ),
    "id alone": ("  store: {s3: {bucket: abc, access_key_id: x}}", ":2: walkeeper.store.s3: access_key_id and secret"),
    "guard": (
        "  store: {s3: {bucket: abc, overwrite_guard: none}}",
        ":2: walkeeper.store.s3.overwrite_guard: 'none' is none",
    ),
    "secret file": (
        "  store: {s3: {bucket: abc, access_key_id: x, secret_access_key_file: /nowhere}}",
        ":2: walkeeper.store.s3.secret_access_key_file: /nowhere cannot be read: No such file or directory",
    ),
}


WITHOUT_HINT = ("not a number", "small spool", "itself", "control character")
"""They say it themselves."""


@pytest.mark.parametrize("case", REFUSED)
def test_a_mistake_in_the_section_is_refused_with_file_line_and_path(write: Write, case: str) -> None:
    section, expected = REFUSED[case]
    path = write(f"walkeeper:\n{section}\nscope: demo\nname: node1\npostgresql: {{data_dir: /pg/data}}\n")
    refused = refusal(path)
    text = str(refused)
    assert text.startswith(str(path))
    assert expected in text
    assert "hunter2" not in text + refused.hint
    assert (case in WITHOUT_HINT) == (refused.hint == "")
    assert "`" not in text + refused.hint


@pytest.mark.parametrize("source", [None, "class Keys(Sec", "class Keys:\0"])
def test_a_mistake_is_refused_under_a_package_that_is_being_replaced(
    write: Write, monkeypatch: pytest.MonkeyPatch, source: str | None
) -> None:
    """An agent that runs reads its configuration again: it must hear of the mistake, and only loses the words in the hint."""

    def getsource(_: object) -> str:
        if source is None:
            raise OSError("could not get source code")
        return source

    path = write(PATRONI + DIRECTORY + "  durable_in: x\n")
    assert refusal(path).hint.startswith("What it is: With stores")
    monkeypatch.setattr(keys, "getsource", getsource)
    monkeypatch.setattr(keys, "_said", keys._said.__wrapped__)
    refused = refusal(path)
    assert "walkeeper.durable_in: expected a whole number" in str(refused)
    assert refused.hint == ""


FILES: Mapping[str, tuple[bytes, str]] = {
    "empty": (b"", ": the file is empty"),
    "only a comment": (b"# nothing\n", ": the file is empty"),
    "a list": (b"- a\n", ":1: expected a mapping"),
    "a scalar": (b"hello\n", ":1: expected a mapping"),
    "two documents": (b"a: 1\n---\nb: 2\n", ":2: but found another document"),
    "UTF-8 with a mark": (b"\xef\xbb\xbfscope: x\n", ":1: it starts with a byte order mark"),
    "UTF-16": ("scope: x\n".encode("utf-16"), ":1: it starts with a byte order mark"),
    "Latin-1": (b"scope: demo\nname: caf\xe9\n", ":2: it is not UTF-8"),
    "ten megabytes": (b"a: 1\n" * 2_000_000, ": it is larger than 1048576 bytes"),
    "a long line": (b"a: 1\nb: " + b"x" * 70_000 + b"\n", ":2: the line is longer than 65536 bytes"),
    "nested deeply": (b"a: " + b"[" * 30_000 + b"\n", ": it is nested too deeply"),
    "no scope": (b"walkeeper: {store: {directory: /x}}\n", ": scope: missing"),
    "a scope that leaves": (b"scope: ../x\nwalkeeper: {store: {directory: /x}}\n", ":1: scope: '../x' cannot be part"),
    "a scope of two": (b"scope: [a]\nwalkeeper: {store: {directory: /x}}\n", ":1: scope: expected a single value"),
    "a scope that is a flag": (b"scope: yes\nwalkeeper: {store: {directory: /x}}\n", ":1: scope: expected text, got a"),
    "a section of patroni's": (b"scope: a\npostgresql: [x]\nwalkeeper: {}\n", ":2: postgresql: expected a mapping"),
    "two scopes": (b"scope: a\nwalkeeper: {store: {directory: /x}}\nscope: b\n", ":3: scope: the key is there twice"),
    "two sections": (
        b"walkeeper: {}\nscope: a\nwalkeeper: {store: {directory: /x}}\n",
        ":3: walkeeper: the key is there",
    ),
    "no section": (b"scope: demo\n", "walkeeper.store: missing"),
    "listen": (
        b"scope: a\npostgresql: {listen: 'x:y:z'}\nwalkeeper: {store: {directory: /x}}\n",
        ":2: postgresql.listen",
    ),
    "a relative data directory": (
        b"scope: a\npostgresql: {data_dir: data}\nwalkeeper: {store: {directory: /x}}\n",
        ":2: postgresql.data_dir: 'data' is not an absolute path",
    ),
    "a group": (
        b"scope: a\ncitus: {group: x}\nwalkeeper: {store: {directory: /x}}\n",
        ":2: citus.group: 'x' is not the number",
    ),
    "a relative patroni.yml": (
        b"patroni_config: patroni.yml\n",
        ":1: patroni_config: 'patroni.yml' is not an absolute",
    ),
    "an empty patroni.yml": (b"patroni_config: ''\n", "patroni_config: '' is not an absolute path"),
    "no patroni.yml": (b"patroni_config: /nowhere.yml\n", "/nowhere.yml: it cannot be read: No such file"),
}


@pytest.mark.parametrize("case", FILES)
def test_a_file_that_is_none_is_refused(write: Write, case: str) -> None:
    data, expected = FILES[case]
    refused = refusal(write(data))
    assert expected in str(refused)
    assert (case in ("a long line", "nested deeply", "a group")) == (refused.hint == "")


def test_aliases_that_multiply_are_refused_at_once(write: Write) -> None:
    levels = ["a0: &a0 [x,x,x,x,x,x,x,x,x,x]"]
    levels += [f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 20)]
    path = write(PATRONI + "\n".join(levels) + "\n" + DIRECTORY)
    began = time.monotonic()
    assert "more than 100000 values" in str(refusal(path))
    assert time.monotonic() - began < 20


def test_merges_that_multiply_are_refused(write: Write) -> None:
    levels = ["a0: &a0 {k: v}"]
    levels += [f"a{n}: &a{n} {{<<: [{','.join([f'*a{n - 1}'] * 10)}]}}" for n in range(1, 20)]
    assert "more than 100000 values" in str(refusal(write(PATRONI + "\n".join(levels) + "\nwalkeeper: {<<: *a19}\n")))


def test_anchors_and_merges_in_reason_are_fine_and_what_is_written_goes_before_what_is_merged(write: Write) -> None:
    text = "defaults: &d {upload_workers: 5, hold_slot: merged}\nwalkeeper:\n  <<: *d\n  hold_slot: own\n"
    config = load(write(PATRONI + text + "  store: {directory: /mnt/wal}\n"), {})
    assert (config.upload_workers, config.hold_slot) == (5, "own")


def test_what_other_sections_hold_is_none_of_our_business(write: Write) -> None:
    text = PATRONI + DIRECTORY + "tags: {a: 1, a: 2}\nrestapi: !custom [x]\nraw: $UNEXPANDED\n"
    assert load(write(text), {}, for_agent=True).scope == "demo"


def test_a_directory_a_fifo_and_what_cannot_be_read_are_refused_without_waiting(tmp_path: Path, write: Write) -> None:
    assert "it is a directory" in str(refusal(tmp_path))
    os.mkfifo(tmp_path / "fifo")
    assert "it is not a regular file" in str(refusal(tmp_path / "fifo"))
    assert "No such file" in str(refusal(tmp_path / "missing"))
    (tmp_path / "loop").symlink_to("loop")
    assert "it cannot be read" in str(refusal(tmp_path / "loop"))
    if os.geteuid() != 0:
        unreadable = refusal(write(PATRONI, mode=0o000))
        assert "Permission denied" in str(unreadable)
        assert f"uid {os.geteuid()}" in unreadable.hint


def test_an_unknown_key_is_told_what_was_meant(write: Write) -> None:
    error = refusal(write(PATRONI + "walkeeper:\n  store: {s3: {buckt: x}}\n"))
    assert error.hint == "Did you mean bucket?"


@pytest.mark.parametrize("place", ["store.s3.secret_access_key", "store.s3.session_token", "postgresql.password"])
def test_a_secret_in_a_file_that_others_may_read_is_refused_and_not_repeated(write: Write, place: str) -> None:
    s3 = {"bucket": "abc", "access_key_id": "id", "secret_access_key_file": str(write("x", "secret"))}
    tree: dict[str, Any] = {"store": {"s3": s3}, "postgresql": {}}
    *sections, key = place.split(".")
    part = tree
    for name in sections:
        part = part[name]
    part[key] = "hunter2"
    if key == "secret_access_key":
        del part["secret_access_key_file"]
    text = PATRONI + f"walkeeper: {tree}\n"
    error = refusal(write(text, mode=0o640))
    assert f"walkeeper.{place}: a secret in a file of mode 0640" in str(error)
    assert "hunter2" not in str(error) + error.hint
    assert "hunter2" not in repr(load(write(text, mode=0o600), {}))


def test_a_secret_from_the_environment_goes_before_its_file(write: Write) -> None:
    text = PATRONI + S3 + "      access_key_id: id\n      secret_access_key_file: /nowhere\n"
    store = load(write(text), {"WALKEEPER_STORE_S3_SECRET_ACCESS_KEY": "from-environment"}).store
    assert isinstance(store, S3Settings)
    assert store.secret_access_key == "from-environment"


def test_keys_for_authentication_are_read_in_order_and_do_not_show(write: Write) -> None:
    files = [write("k" * 64 + "\n", "new"), write("o" * 32, "old")]
    section = f'  authentication: {{key_files: [{files[0]}, {files[1]}], since: "00000002000000000000000A"}}\n'
    config = load(write(PATRONI + DIRECTORY + section), {})
    assert config.authentication_keys == ("k" * 64, "o" * 32)
    assert config.authentic_since == "00000002000000000000000A"
    assert "kkk" not in repr(config)


@pytest.mark.parametrize(
    ("key", "since", "expected"),
    [
        ("k" * 31, '"000000010000000000000000"', "holds 31 characters"),
        ("k" * 64, "null", "walkeeper.authentication.since: missing"),
        ("k" * 64, '"0000000100000000"', "is not the name of a segment"),
        ("two\nlines", '"000000010000000000000000"', "does not hold one line"),
        (None, '"000000010000000000000000"', "cannot be read"),
    ],
)
def test_a_mistake_about_authentication_is_refused(write: Write, key: str | None, since: str, expected: str) -> None:
    file = "/nowhere" if key is None else write(key, "key")
    error = refusal(write(PATRONI + DIRECTORY + f"  authentication: {{key_files: [{file}], since: {since}}}\n"))
    assert expected in str(error)
    assert "kkk" not in str(error) + error.hint


@pytest.mark.parametrize("content", [b"", b"\n", b"two\nlines\n", b"\xff\xfe", b"x" * 70_000])
def test_a_secret_file_that_holds_no_secret_is_refused(write: Write, content: bytes) -> None:
    secret = write(content, "secret")
    error = refusal(write(PATRONI + S3 + f"      access_key_id: id\n      secret_access_key_file: {secret}\n"))
    assert "walkeeper.store.s3.secret_access_key_file" in str(error)


def test_a_dollar_inside_a_secret_is_meant_but_a_variable_alone_is_not(write: Write) -> None:
    text = PATRONI + DIRECTORY + "  postgresql: {user: u, password: 'a$bc'}\n"
    assert load(write(text, mode=0o600), {}).postgresql.password == "a$bc"
    error = refusal(write(text.replace("a$bc", "$PASSWORD"), mode=0o600))
    assert "walkeeper.postgresql.password: a variable that nothing has expanded" in str(error)


ENVIRONMENT: Mapping[str, tuple[str, Callable[[Config], object], object]] = {
    "WALKEEPER_UPLOAD_WORKERS": ("7", lambda config: config.upload_workers, 7),
    "WALKEEPER_SPOOL_LIMIT": ("512MB", lambda config: config.spool_limit, 512 * 1024**2),
    "WALKEEPER_RESTORE_DEADLINE": ("2min", lambda config: config.restore_deadline, 120.0),
    "WALKEEPER_AGENT_START_FROM_CALLBACK": ("off", lambda config: config.agent.start_from_callback, False),
    "WALKEEPER_AGENT_LISTEN": ("[::1]:0", lambda config: config.agent.listen, ("::1", 0)),
    "WALKEEPER_ENCRYPTION_RECIPIENTS": (f"{AGE}, {AGE}", lambda config: config.encryption_recipients, (AGE, AGE)),
    "WALKEEPER_HOLD_SLOT": ("", lambda config: config.hold_slot, "walkeeper"),
    "WALKEEPER_POSTGRESQL_SSLMODE": (
        "verify-full",
        lambda config: config.postgresql.options,
        (("sslmode", "verify-full"),),
    ),
}


@pytest.mark.parametrize("name", ENVIRONMENT)
def test_the_environment_goes_before_the_file(write: Write, name: str) -> None:
    text, read, expected = ENVIRONMENT[name]
    assert read(load(write(PATRONI + DIRECTORY), {name: text})) == expected


def test_the_environment_alone_can_say_everything(write: Write) -> None:
    config = load(write("tags: {}\n"), {"WALKEEPER_STORE_DIRECTORY": "/mnt/wal", "PATRONI_SCOPE": "demo"})
    assert (config.scope, config.store) == ("demo", DirectorySettings(Path("/mnt/wal")))


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"WALKEEPER_UPLOAD_WORKER": "1"}, "WALKEEPER_UPLOAD_WORKER (environment variable): no such setting"),
        ({"WALKEEPER_UPLOAD_WORKERS": "x"}, "WALKEEPER_UPLOAD_WORKERS (environment variable): expected a whole number"),
        ({"WALKEEPER_UPLOAD_WORKERS": "99"}, "WALKEEPER_UPLOAD_WORKERS (environment variable): expected"),
        ({"WALKEEPER_AGENT_START_FROM_CALLBACK": "maybe"}, "expected true or false"),
        ({"WALKEEPER_SPOOL_LIMIT": "-1"}, "WALKEEPER_SPOOL_LIMIT (environment variable): expected a size"),
        (
            {"WALKEEPER_STORE_DIRECTORY": "wal"},
            "WALKEEPER_STORE_DIRECTORY (environment variable): 'wal' is not an absolute",
        ),
        ({"WALKEEPER_STORE_S3_BUCKET": "abc"}, "walkeeper.store: both directory and s3"),
        ({"WALKEEPER_STORE_S3_REGION": "eu"}, "walkeeper.store.s3.bucket: missing"),
    ],
)
def test_a_mistake_in_the_environment_names_the_variable(
    write: Write, environ: Mapping[str, str], expected: str
) -> None:
    assert expected in str(refusal(write(PATRONI + DIRECTORY), environ))


def test_variables_that_are_not_settings_are_left_alone(write: Write) -> None:
    environ = {
        **dict.fromkeys(overrides.NOT_KEYS, "x"),
        **dict.fromkeys(("WALKEEPER_SERVICE_HOST", "WALKEEPER_SERVICE_PORT", "WALKEEPER_PORT"), "x"),
        **dict.fromkeys(("WALKEEPER_PORT_8018_TCP_ADDR", "WALKEEPER_METRICS_SERVICE_PORT_HTTP"), "x"),
    }
    assert load(write(PATRONI + DIRECTORY), environ).upload_workers == 2
    assert (
        "Did you mean WALKEEPER_UPLOAD_WORKERS"
        in refusal(write(PATRONI + DIRECTORY), {"WALKEEPER_UPLOAD_WORKER": "1"}).hint
    )


def test_no_two_settings_share_a_variable() -> None:
    names = [overrides.variable(key) for key in all_keys()]
    assert sorted(set(names)) == sorted(names)
    assert not set(names) & set(overrides.NOT_KEYS)


def test_patronis_variables_go_before_its_file(write: Write) -> None:
    environ = {
        "PATRONI_SCOPE": "other", "PATRONI_NAME": "node9", "PATRONI_NAMESPACE": "/db/", "PATRONI_CITUS_GROUP": "3",
        "PATRONI_POSTGRESQL_DATA_DIR": "/data9", "PATRONI_POSTGRESQL_BIN_DIR": "/bin9",
        "PATRONI_POSTGRESQL_LISTEN": "[fd00::1]:6000", "PATRONI_REPLICATION_USERNAME": "rep",
        "PATRONI_REPLICATION_PASSWORD": "pw", "PATRONI_REPLICATION_SSLMODE": "prefer",
    }  # fmt: skip
    config = load(write(PATRONI + DIRECTORY), environ, for_agent=True)
    assert (config.scope, config.name, config.namespace, config.group) == ("other", "node9", "db", 3)
    assert (config.data_dir, config.bin_dir) == (Path("/data9"), Path("/bin9"))
    server = config.postgresql
    assert (server.host, server.port, server.user, server.password) == ("fd00::1", 6000, "rep", "pw")
    assert server.options == (("sslmode", "prefer"),)


@pytest.mark.parametrize(
    ("listen", "expected"),
    [
        ("10.0.0.1:5433", ("10.0.0.1", None, 5433)),
        ("10.0.0.1", ("10.0.0.1", None, 5432)),
        ("'*:5433'", ("localhost", "127.0.0.1", 5433)),
        ("0.0.0.0:5433", ("localhost", "127.0.0.1", 5433)),
        ("'[::]:5433'", ("::1", None, 5433)),
        ("'[fd00::1]:5433'", ("fd00::1", None, 5433)),
        ("10.0.0.1,127.0.0.1:5433", ("localhost", "127.0.0.1", 5433)),
        ("'10.0.0.1, localhost:5433'", ("localhost", None, 5433)),
        ("10.0.0.1,10.0.0.2:5433", ("10.0.0.1", None, 5433)),
        ("db.example.com:5433", ("db.example.com", None, 5433)),
    ],
)
def test_the_local_server_is_reached_where_it_listens_by_the_name_that_patroni_uses(
    write: Write, listen: str, expected: tuple[str, str | None, int]
) -> None:
    """.pgpass and certificates know that name."""
    config = load(write(PATRONI.replace("10.0.0.1:5433", listen) + DIRECTORY), {})
    assert (config.postgresql.host, config.postgresql.hostaddr, config.postgresql.port) == expected


def test_a_host_of_our_own_section_is_taken_as_it_is(write: Write) -> None:
    path = write(PATRONI.replace("10.0.0.1:5433", "'*'") + DIRECTORY + "  postgresql: {host: 127.0.0.1}\n")
    assert (load(path, {}).postgresql.host, load(path, {}).postgresql.hostaddr) == ("127.0.0.1", None)


REPL, WHERE = "  use_unix_socket_repl: true\n", "  parameters: {unix_socket_directories: '@x, /run/pg, /tmp'}\n"
DYNAMIC_WHERE = {"parameters": {"unix_socket_directories": "/run/dynamic"}}


@pytest.mark.parametrize(
    ("file", "dynamic", "expected"),
    [
        (REPL + WHERE, None, "/run/pg"),
        (REPL, None, ""),
        (REPL + "  parameters: {unix_socket_directories: '@x'}\n", None, "10.0.0.1"),
        (REPL, DYNAMIC_WHERE, "/run/dynamic"),
        (REPL + WHERE, DYNAMIC_WHERE, "/run/pg"),
        ("", {"use_unix_socket_repl": True} | DYNAMIC_WHERE, "/run/dynamic"),
        ("", {"use_unix_socket_repl": True}, ""),
        (WHERE, {"use_unix_socket_repl": True}, "/run/pg"),
        ("  use_unix_socket_repl: false\n", {"use_unix_socket_repl": True}, "10.0.0.1"),
        (WHERE, DYNAMIC_WHERE, "10.0.0.1"),
        (REPL, [1], ""),
        (REPL, {"parameters": 7}, ""),
    ],
)
def test_a_unix_socket_is_used_where_patroni_replicates_through_it(
    write: Write, tmp_path: Path, file: str, dynamic: object, expected: str
) -> None:
    """Both keys may stand in the dynamic configuration, of which Patroni keeps a copy beside the data."""
    if dynamic is not None:
        (tmp_path / "patroni.dynamic.json").write_text(json.dumps({"postgresql": dynamic}))
    patroni = PATRONI.replace("data_dir: /var/lib/pg/data", f"data_dir: {tmp_path}")
    assert str(tmp_path) in patroni
    config = load(write(patroni + file + DIRECTORY), {})
    assert (config.postgresql.host, config.postgresql.data_dir) == (expected, tmp_path)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"[" * 100_000, b'{"postgresql": []}'])
def test_a_damaged_copy_of_the_dynamic_configuration_says_nothing(write: Write, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "patroni.dynamic.json").write_bytes(content)
    patroni = PATRONI.replace("data_dir: /var/lib/pg/data", f"data_dir: {tmp_path}")
    assert load(write(patroni + REPL + DIRECTORY), {}).postgresql.host == ""


def test_the_pass_phrase_of_a_key_and_the_name_for_kerberos_are_patronis(write: Write) -> None:
    phrase = PATRONI.replace("username: replicator, ", "username: replicator, sslkey: /k, sslpassword: open sesame, ")
    config = load(write(phrase + "  krbsrvname: pg\n" + DIRECTORY), {})
    assert (config.postgresql.sslpassword, dict(config.postgresql.options)["krbsrvname"]) == ("open sesame", "pg")
    assert "sesame" not in repr(config)


def test_an_old_file_without_authentication_is_read_as_patroni_reads_it(write: Write) -> None:
    text = PATRONI.replace("  authentication:\n", "")
    assert text != PATRONI
    old = "\n".join(line.replace("    replication:", "  replication:") for line in text.splitlines()) + "\n"
    assert load(write(old + DIRECTORY), {}).postgresql.user == "replicator"


def test_another_user_does_not_get_the_replication_users_password(write: Write) -> None:
    config = load(write(PATRONI + DIRECTORY + "  postgresql: {user: archiver}\n"), {})
    assert (config.postgresql.user, config.postgresql.password) == ("archiver", None)


@pytest.mark.parametrize(
    ("without", "expected"),
    [
        ("name: node1\n", ": name: missing"),
        ("  data_dir: /var/lib/pg/data\n", ": postgresql.data_dir: missing"),
        ("username: replicator, ", ": postgresql.authentication.replication.username: missing"),
    ],
)
def test_what_only_the_agent_needs_is_missed_by_the_agent_only(write: Write, without: str, expected: str) -> None:
    path = write(PATRONI.replace(without, "") + DIRECTORY)
    assert load(path, {}).scope == "demo"
    assert expected in str(refusal(path, for_agent=True))


def test_restoring_needs_a_scope_and_a_store_only(write: Write) -> None:
    config = load(write("scope: demo\n" + DIRECTORY), {})
    assert (config.scope, config.group, config.restore_deadline) == ("demo", None, 60.0)
    with pytest.raises(ConfigError):
        _ = config.spool_directory


def test_off_needs_no_quotes(write: Write) -> None:
    for off in ("off", '"off"', "false"):
        assert load(write(PATRONI + DIRECTORY + f"  agent: {{listen: {off}}}\n"), {}).agent.listen is None


def test_a_name_that_looks_like_a_date_is_a_name(write: Write) -> None:
    store = load(write(PATRONI + S3 + "      prefix: 2026-01-31\n"), {}).store
    assert isinstance(store, S3Settings)
    assert store.prefix == "2026-01-31"


def test_a_relative_path_to_the_file_becomes_a_whole_one(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(PATRONI + DIRECTORY)
    monkeypatch.chdir(path.parent)
    assert load(Path("patroni.yml"), {}).source == path


def test_loading_brings_in_no_heavy_library() -> None:
    code = "import sys, walkeeper.config; print([m for m in ('boto3', 'botocore', 'psycopg', 'patroni') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1GiB", 1024**3),
        ("512MB", 512 * 1024**2),
        ("16 kB", 16384),
        (4096, 4096),
        ("1.5KiB", 1536),
        ("0", 0),
        ("9B", 9),
    ],
)
def test_sizes(text: object, expected: int) -> None:
    assert Size.parse(text) == expected


@pytest.mark.parametrize(
    "text", ["", "GiB", "1 GiB x", "-1", -1, None, True, "1e3", "0.3B", "9999999999TiB", [], "1 s"]
)
def test_what_is_no_size_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match=r"expected|whole"):
        Size.parse(text)


@pytest.mark.parametrize(("text", "expected"), [("5s", 5.0), ("500ms", 0.5), ("2min", 120.0), (1.5, 1.5), ("3", 3.0)])
def test_durations(text: object, expected: float) -> None:
    assert Seconds.parse(text) == expected


@pytest.mark.parametrize(
    "text", ["", "s", "-1s", 0, "0", None, True, "5 parsecs", "10000d", float("inf"), float("nan")]
)
def test_what_is_no_duration_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match=r"expected|above"):
        Seconds.parse(text)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.one_of(
        st.binary(max_size=200),
        st.text(alphabet="wal:keeper store\n -[]{}&*!<>|%@`'\"#,?\t$0123", max_size=120).map(str.encode),
        st.text(max_size=60).map(lambda text: (PATRONI + "walkeeper:\n  " + text).encode()),
    )
)
def test_whatever_the_file_holds_it_is_a_configuration_or_a_refusal(write: Write, data: bytes) -> None:
    path = write(data)
    try:
        load(path, {})
    except ConfigError as error:
        assert str(error).startswith(str(path))
        assert str(error).isprintable()


def test_the_reference_is_current() -> None:
    assert (ROOT / "docs" / "configuration.md").read_text() == reference(), (
        "python -m walkeeper.config.reference > docs/configuration.md"
    )


def test_every_key_stands_in_the_complete_example() -> None:
    text = (ROOT / "examples" / "patroni.yml").read_text()
    libpq = {key.name for key in all_keys() if key.section == ("postgresql",)} - {"dbname"}
    missing = [key.path for key in all_keys() if key.name not in text and key.name not in libpq]
    assert missing == []


@pytest.mark.parametrize("name", ["patroni.minimal.yml", "patroni.yml"])
def test_the_examples_load_and_patroni_finds_nothing_about_walkeeper_to_complain_of(name: str, write: Write) -> None:
    text = (ROOT / "examples" / name).read_text()
    text = text.replace("/etc/walkeeper/s3-secret", str(write("secret", "s3-secret")))
    path = write(text)
    assert load(path, {}, for_agent=True).scope == "demo"
    assert "walkeeper" not in _complaints_of_patroni(path)


def test_the_example_of_a_file_of_its_own_loads(write: Write) -> None:
    patroni = write(PATRONI)
    text = (ROOT / "examples" / "walkeeper.yml").read_text().replace("/etc/patroni.yml", str(patroni))
    assert load(write(text, "walkeeper.yml"), {}, for_agent=True).spool_limit == 4 * 1024**3


def _complaints_of_patroni(path: Path) -> str:
    output = io.StringIO()
    with redirect_stdout(output):
        problems = list(schema(PatroniConfig(str(path)).local_configuration))
    return output.getvalue() + "\n".join(str(problem) for problem in problems)


def test_a_section_whose_name_is_misspelt_is_not_passed_over(tmp_path: Path) -> None:
    """Patroni tolerates it, and would not say anything."""
    path = tmp_path / "patroni.yml"
    path.write_text("scope: demo\nname: n1\nwalkeper:\n  store: {directory: /x}\n")
    with pytest.raises(ConfigError) as raised:
        load(path, {})
    assert str(raised.value) == f"{path}:3: walkeper: no section of Patroni's"
    assert raised.value.hint == "Did you mean walkeeper?"


# ----------------------------------------------------------------------------------------------------- several stores

STORES = """\
scope: demo
name: a
postgresql: {data_dir: /nowhere/data, authentication: {replication: {username: r}}}
walkeeper:
  stores:
    - directory: /mnt/a
    - name: far
      s3:
        bucket: our-wal
        region: eu
"""


def test_several_stores_have_an_archive_each(write: Write) -> None:
    config = load(write(STORES), {})
    assert (config.stores, config.durable_in) == (("main", "far"), 2)
    assert config.store == DirectorySettings(Path("/mnt/a"))
    assert config.key("walkeeper") == "walkeeper", "as it was when there was one store"
    far = config.of_store("far")
    assert (far.stores, far.key("walkeeper"), far.key("walkeeper-remembered")) == (
        ("far", "main"),
        "walkeeper-far",
        "walkeeper-remembered-far",
    )
    assert far.spool_directory == config.spool_directory / "store-far"
    assert far.of_store("main").store == config.store
    with pytest.raises(ConfigError) as caught:
        config.of_store("near")
    assert "There are main, far" in caught.value.hint


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        ("name: far", "name: main", 7, "stores[1].name: main is the name of another one"),
        ("name: far", "name: remembered-far", 7, "stores[1].name: remembered-far is what another key of walkeeper's"),
        ("bucket:", "bukket:", 9, "stores[1].s3.bukket: unknown key"),
        ("name: far", "naem: far", 7, "stores[1].naem: unknown key"),
        ("name: far", "directory: /mnt/b", 7, "stores[1]: both directory and s3"),
        ("name: far", "name: Far", 7, "stores[1].name: "),
        (
            "region: eu",
            "secret_access_key: $X",
            10,
            "stores[1].s3.secret_access_key: a variable that nothing has expanded",
        ),
        ("region: eu", "secret_access_key: abc", 10, "stores[1].s3.secret_access_key: a secret in a file of mode 0644"),
        ("  stores:", "  durable_in: 3\n  stores:", 5, "durable_in: more than there are stores, 2"),
        ("  stores:", "  store: {directory: /mnt/x}\n  stores:", 6, "stores: there is store, too"),
        ("/mnt/a", "/nowhere/data/wal", 6, "stores[0].directory: /nowhere/data/wal lies in the data directory"),
        (
            "s3:\n        bucket: our-wal\n        region: eu",
            "directory: /mnt/a",
            7,
            "stores[1]: the same place as that of main",
        ),
    ],
)
def test_what_is_wrong_with_one_of_several_stores_is_said_with_its_line(
    write: Write, old: str, new: str, line: int, says: str
) -> None:
    assert f":{line}: walkeeper.{says}" in str(refusal(write(STORES.replace(old, new))))


def test_what_the_documentation_has_to_paste_is_a_configuration(write: Write) -> None:
    """And after the move the archive is still the one that it was."""
    both, moved = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "stores.md").read_text(), re.DOTALL)
    head = STORES.partition("walkeeper:")[0]
    config = load(write(head + both), {})
    assert (config.stores, config.durable_in) == (("main", "far"), 2)
    last = load(write(head + textwrap.dedent(moved)), {})
    far = config.of_store("far")
    assert (last.stores, last.store, last.key("walkeeper")) == (("far",), far.store, far.key("walkeeper"))
