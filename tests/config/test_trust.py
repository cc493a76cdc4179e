"""Who else may change or read what a node goes by: what is refused, what is said, and what is neither."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from walkeeper.agent.process import run
from walkeeper.config import load
from walkeeper.errors import ConfigError
from walkeeper.lib import events, trust
from walkeeper.lib.trust import Us

US = Us(uid=26, gid=26)
CONFIG = "scope: demo\nwalkeeper:\n  store: {directory: /mnt/wal}\n"
WITH_PASSWORD = CONFIG + "postgresql: {authentication: {replication: {username: rep, password: hunter2}}}\n"


def status(mode: int, uid: int = 26, gid: int = 26) -> os.stat_result:
    return os.stat_result((stat.S_IFREG | mode, 1, 1, 1, uid, gid, 10, 0, 0, 0))


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        (status(0o600), None),
        (status(0o644), None),
        (status(0o644, uid=0, gid=0), None),  # a Kubernetes secret
        (status(0o440, uid=0, gid=2000), None),  # the same with an fsGroup
        (status(0o664), None),  # a umask of 002
        (status(0o660, uid=0, gid=0), None),
        (status(0o600, uid=1000), "it belongs to uid 1000"),
        (status(0o646), "every user may write it"),
        (status(0o666, uid=0, gid=0), "every user may write it"),
        (status(0o664, gid=100), "group 100 may write it"),
    ],
)
def test_what_others_may_write_is_refused(file: os.stat_result, expected: str | None) -> None:
    refused = trust.refusal(Path("/etc/patroni.yml"), file, US)
    assert (refused is None) if expected is None else (refused is not None and expected in refused.text)
    assert refused is None or "/etc/patroni.yml" in refused.hint


def test_root_may_look_for_another_user_but_not_believe_what_everybody_writes() -> None:
    root = Us(uid=0, gid=0)
    assert trust.refusal(Path("/x"), status(0o600), root) is None
    assert trust.refusal(Path("/x"), status(0o664, gid=100), root) is None
    assert trust.refusal(Path("/x"), status(0o602), root) is not None


@pytest.mark.parametrize(
    ("file", "secret", "expected"),
    [
        (status(0o600), True, []),
        (status(0o640), True, []),
        (status(0o644), False, []),
        (status(0o644), True, ["/nowhere/x: every user may read the secret in it: mode 0644"]),
        (status(0o660), True, ["/nowhere/x: group 26 may write it: mode 0660"]),
    ],
)
def test_what_others_may_read_is_said(file: os.stat_result, secret: bool, expected: list[str]) -> None:
    found = list(trust.exposures(Path("/nowhere/x"), file, US, secret=secret))
    assert [each.text for each in found] == expected
    assert all(each.hint for each in found)


def test_a_directory_on_the_way_that_others_may_write_is_said_and_a_sticky_one_is_not(tmp_path: Path) -> None:
    file = tmp_path / "between" / "x"
    file.parent.mkdir()
    file.touch(mode=0o600)

    def said() -> list[str]:
        return [each.text for each in trust.exposures(file, file.stat(), Us.here(), secret=True)]

    assert said() == []
    file.parent.chmod(0o777)
    assert len(said()) == 1
    assert f"others may replace it, because they may write {file.parent}" in said()[0]
    file.parent.chmod(0o1777)
    assert said() == []


def test_a_link_is_followed_to_the_directory_that_the_file_lies_in(tmp_path: Path) -> None:
    """Kubernetes mounts a secret as a link into a directory of its own."""
    real, link = tmp_path / "real" / "x", tmp_path / "x"
    real.parent.mkdir()
    real.touch(mode=0o600)
    real.parent.chmod(0o777)
    link.symlink_to(real)
    assert len(list(trust.exposures(link, link.stat(), Us.here(), secret=True))) == 1


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str, int], Path]:
    def write(name: str, text: str, mode: int) -> Path:
        path = tmp_path / name
        path.write_text(text)
        path.chmod(mode)
        return path

    return write


Write = Callable[[str, str, int], Path]


def test_a_configuration_that_everybody_may_write_is_refused(write: Write) -> None:
    path = write("patroni.yml", CONFIG, 0o666)
    with pytest.raises(ConfigError, match=r"patroni\.yml: every user may write it: mode 0666") as caught:
        load(path, {})
    assert f"chmod go-w {path}" in caught.value.hint


def test_so_is_a_patroni_yml_that_a_file_of_its_own_names(write: Write) -> None:
    patroni = write("patroni.yml", "scope: demo\n", 0o602)
    own = write("walkeeper.yml", f"patroni_config: {patroni}\nstore: {{directory: /mnt/wal}}\n", 0o600)
    with pytest.raises(ConfigError, match=r"patroni\.yml: every user may write it"):
        load(own, {})


def test_a_patroni_yml_with_a_password_that_everybody_may_read_is_taken_and_said(write: Write) -> None:
    config = load(write("patroni.yml", WITH_PASSWORD, 0o644), {})
    assert [each.text for each in config.exposed if "may read the secret" in each.text] != []
    assert "hunter2" not in repr(config.exposed)
    assert load(write("patroni.yml", WITH_PASSWORD, 0o640), {}).exposed == ()


def test_a_configuration_without_a_secret_may_be_read_by_everybody(write: Write) -> None:
    path = write("patroni.yml", CONFIG, 0o644)
    assert load(path, {}).exposed == ()
    assert load(path, {"PATRONI_REPLICATION_PASSWORD": "hunter2"}).exposed == ()


def test_an_agent_says_all_of_it_with_its_fix(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[dict[str, object]] = []
    monkeypatch.setattr(events, "warning", lambda word, **facts: said.append({"word": word, **facts}))
    run._say_what_is_exposed(load(write("patroni.yml", WITH_PASSWORD, 0o644), {}))
    (line,) = said
    assert line["word"] == "config_exposed"
    assert str(line["hint"]).startswith("chmod o-rwx ")


SECTIONS = {
    "postgresql.password_file": "  postgresql: {{user: rep, password_file: {file}}}\n",
    "encryption.identity_file": "  encryption: {{identity_file: {file}}}\n",
    "store.s3.secret_access_key_file": "      access_key_id: id\n      secret_access_key_file: {file}\n",
    "store.s3.credentials_file": "      credentials_file: {file}\n",
    "store.gcs.service_account_file": "      service_account_file: {file}\n",
    "store.azure.sas_token_file": "      account: ours\n      container: wal\n      sas_token_file: {file}\n",
}


@pytest.mark.parametrize("key", SECTIONS)
def test_a_secret_in_a_file_of_its_own_is_held_to_the_same_rule(write: Write, key: str) -> None:
    kind = key.split(".")[1] if key.startswith("store.") else ""
    bucket = "" if kind == "azure" else "      bucket: wal\n"
    store = f"  store:\n    {kind}:\n{bucket}" if kind else "  store: {directory: /mnt/wal}\n"
    secret = write("secret", "hunter2\n", 0o600)
    path = write("patroni.yml", f"scope: demo\nwalkeeper:\n{store}{SECTIONS[key].format(file=secret)}", 0o600)
    assert load(path, {}).exposed == ()
    secret.chmod(0o644)
    assert [each.text for each in load(path, {}).exposed] == [
        f"{secret}: every user may read the secret in it: mode 0644"
    ]
    secret.chmod(0o622)
    with pytest.raises(ConfigError, match=rf"walkeeper\.{key}: .*/secret: every user may write it: mode 0622"):
        load(path, {})


@pytest.mark.parametrize(
    ("endpoint", "said"),
    [
        ("http://minio:9000", True),
        ("http://10.0.0.1", True),
        ("https://minio", False),
        ("http://127.0.0.1:9000", False),
        ("http://localhost", False),
        ("http://[::1]:9000", False),
    ],
)
def test_an_endpoint_without_tls_is_said(write: Write, endpoint: str, said: bool) -> None:
    text = f"scope: demo\nwalkeeper:\n  store:\n    s3:\n      bucket: wal\n      endpoint: '{endpoint}'\n"
    path = write("patroni.yml", text, 0o600)
    found = [each.text for each in load(path, {}).exposed]
    assert len(found) == said
    assert all(f"{path}:6: walkeeper.store.s3.endpoint: WAL goes over the network in clear" in text for text in found)


def test_a_key_that_is_not_there_yet_is_not_the_configurations_business(write: Write) -> None:
    path = write("patroni.yml", CONFIG + "  encryption: {identity_file: /nowhere}\n", 0o600)
    assert load(path, {}).exposed == ()
