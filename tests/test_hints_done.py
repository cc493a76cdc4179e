"""What hints tell a person to type or to write is done as it is printed, and helps.

``DONE`` says which test does so for which hint; the tests of the other rooms are where their faults are made.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from patroni.ctl import apply_config_changes

from tests.doctor.fixes import Person
from tests.hints import OPEN, every_test, whole
from walkeeper.cli import main
from walkeeper.cli.main import parser
from walkeeper.config import load
from walkeeper.config.keys import all_keys
from walkeeper.core.hold_slot import how_to_make_safe
from walkeeper.errors import ConfigError, WrongSetting
from walkeeper.store.s3.keys import S3Settings

PATRONI: Final = (
    "scope: demo\nname: n1\netcd3: {host: '127.0.0.1:9'}\n"
    "postgresql: {data_dir: /var/lib/pg/data, authentication: {replication: {username: replicator, password: p}}}\n"
)
STORE: Final = "walkeeper:\n  store: {directory: /mnt/wal}\n"
S3: Final = "walkeeper:\n  store: {s3: {bucket: our-wal, access_key_id: id, secret_access_key: SECRET}}\n"
PROSE: Final = frozenset(
    ["again", "creates", "did", "does", "from", "goes", "leaves", "looks", "may", "more", "running", "waits"]
)
"""What follows the program's name where it is no command."""
VALUES: Final = {"gap": "0/1", "backup": "20261128T020000Z-00000003-1a2b3c4d"}
"""What is taken where a hint fills something in."""


def commands() -> Mapping[str, argparse.ArgumentParser]:
    (found,) = [each for each in parser()._actions if isinstance(each, argparse._SubParsersAction)]
    return dict(found.choices)


def mentioned() -> Iterator[tuple[str, str, list[str]]]:
    """Each command that a hint names: the hint, the command, and the words after it that are arguments."""
    for text in whole():
        for name, words in re.findall(
            r"walkeeper ([a-z-]+)((?: (?:--[a-z-]+|[A-Z]{2,}|pg_wal/[A-Z]+|accept|forget|…))*)", text
        ):
            yield text, name, [word.replace(OPEN, VALUES.get(name, "1")) for word in words.split()]


def test_each_command_that_a_hint_names_is_there_and_takes_what_is_printed() -> None:
    there = commands()
    for text, name, words in mentioned():
        if name in PROSE:
            continue
        assert name in there, text
        if name != "restore":  # of which a hint prints the beginning
            there[name].parse_args(words)


def test_each_key_that_a_hint_says_to_set_is_there() -> None:
    keys = {".".join(each.path) for each in all_keys()}
    last = {key.rpartition(".")[2] for key in keys}
    patronis = {"postgresql.bin_dir"}
    for text in whole():
        for name in re.findall(r"\b(?:set|lower|raise) ([a-z]+[._][a-z_.]*[a-z])", text, re.IGNORECASE):
            key = name.removeprefix("walkeeper.")
            assert key in keys | patronis or ("." not in key and key in last), text


# ----------------------------------------------------------------------------------------------------------- inventory

ROOT: Final = Person("root alone can become another user")
PROGRAM: Final = Person("a program is to be installed")
ROOM: Final = Person("memory, a disk or a right is to be given")
WORDS: Final = Person("another value is to be chosen; which is up to the person")
ELSEWHERE: Final = Person("objects are to be put back or moved away by hand, with the store's own tools")

TO_DO: Final = re.compile(
    r"walkeeper (takeover --accept|gap accept|member forget|expire --revoke|backup( --resume|$| now)|verify --re|archive-push|fetch|pins --)"
    r"|patronictl (switchover|reinit|edit-config|remove)|--(to|delta|tablespace|data-dir|timeline|system-identifier|fix|retain)\b"
    r"|\bch(mod|own)\b|pip install|openssl|age-keygen|systemctl|ALTER ROLE|CHECKPOINT|recovery_target|[A-Z]{6,}_[A-Z_]+|sudo"
    r"|\b[sS]et [a-z]+[a-z_.]*[._][a-z]+|Did you mean|Write|plain_before|: head|pg_wal/"
)
"""A hint that names something to type, or something to write into a file."""

CORRECTED: Final = "test_a_configuration_that_is_corrected_as_the_hint_says_is_taken"
AS_PRINTED: Final = "test_to_the_position_that_the_hint_names_can_be_restored"

DONE: Final[tuple[tuple[str, str | Person], ...]] = (
    # A piece of the hint (the first that is found counts), and the test.
    ("Did you mean", CORRECTED),
    ("chmod 600 the file, or", CORRECTED),
    ("Write the value.", CORRECTED),
    ("Write the value, or set", CORRECTED),
    ("openssl rand", CORRECTED),
    ("age-keygen", CORRECTED),
    ("PATRONI_SCOPE", CORRECTED),
    ("Write the whole path", CORRECTED),
    ("for hours.", CORRECTED),
    ("Write all 24 digits", WORDS),
    ("--config or WALKEEPER_CONFIG", "test_a_command_takes_the_configuration_that_the_hint_says"),
    ("WALKEEPER_RUN_DIR", "test_a_command_takes_the_configuration_that_the_hint_says"),
    ("Set backup.keep", "test_p15_too_few_backups_and_no_setting_are_refused_with_exit_1"),
    ("Set encryption.identity_file", "test_an_encrypted_file_wants_its_identity"),
    ("encryption.plain_before", WORDS),
    ("overwrite_guard: head", "test_the_probe_finds_a_store_that_overwrites"),
    ("STANDARD_IA", "test_a_storage_class_that_a_hint_names_is_taken"),
    ("walkeeper.agent.listen", WORDS),
    ("walkeeper.postgresql.user to a role that may connect", WORDS),
    ("restore.directory", WORDS),
    ("set tail.interval to off", WORDS),
    ("chown and chmod it", "test_p10_what_it_lacks_is_said_with_a_hint_and_it_recovers_when_that_is_fixed"),
    ("pip install", PROGRAM),
    ("bin_dir", PROGRAM),
    ("sudo -u postgres", ROOT),
    ("systemctl restart", Person("a service manager is asked; walkeeper agent --restart has a test of its own")),
    ("patronictl remove", Person("it removes a cluster")),
    ("patronictl edit-config", "test_a_slot_that_status_says_to_declare_is_declared"),
    ("patronictl reinit", "test_a_member_is_built_again_and_another_promoted_as_it_is_printed"),
    ("takeover --accept", "test_after_a_major_upgrade_a_new_archive_begins_when_a_person_says_so_and_the_old_one_goes_on_after_a_rollback"),
    ("member forget", "test_a_member_that_is_gone_for_good_is_forgotten_as_the_hint_says"),
    ("gap accept", "test_a_slot_that_was_limited_costs_a_recorded_gap_and_no_more"),
    ("archive-push pg_wal/", "test_an_object_that_somebody_deleted_is_handed_in_as_the_hint_says"),
    ("ALTER ROLE", "test_a_role_that_may_not_replicate_is_told_so"),
    ("CHECKPOINT", Person("a replica from before a shutdown is needed, and it is SQL of one word")),
    ("backup --resume", "test_p14_a_piece_that_the_store_does_not_list_is_missed"),
    ("verify --rebuild", "test_p11_a_record_that_cannot_be_read_is_replaced"),
    ("verify --restore does it now", "test_what_a_schedule_lacks_is_done_as_it_is_printed"),
    ("verify --restore DIRECTORY", WORDS),
    ("walkeeper fetch FILE DIRECTORY", "test_one_file_of_any_kind"),
    ("--retain ID --until", "test_p15_a_retained_backup_stays_below_the_start_with_its_own_wal"),
    ("--fix --yes", "test_fix_shows_asks_mends_and_has_nothing_to_do_the_second_time"),
    ("expire --revoke", "test_p15_a_floor_can_be_revoked_until_its_grace_is_over"),
    ("--system-identifier", "test_of_two_archives_one_is_chosen_by_the_record_or_by_hand"),
    ("recovery_target_lsn", "test_the_target_that_the_line_names_is_reached"),
    ("restores up to there", AS_PRINTED),
    ("the same command with --backup", "test_p14_damage_in_one_store_is_met_noted_and_restored_around_from_the_other"),
    ("restore it again with --delta", "test_at_the_target_it_is_looked_at_ended_stopped_and_restored_anew"),
    ("--delta", "test_delta_fetches_only_what_differs"),
    ("--tablespace OLD=NEW", "test_p14_what_is_restored_is_what_postgresql_sent"),
    ("--data-dir", "test_p14_what_is_restored_is_what_postgresql_sent"),
    ("--timeline", WORDS),
    ("Say which is meant: --to", "test_a_time_of_the_hour_in_which_clocks_are_changed_says_which_it_is"),
    ("with --to", WORDS),
    ("walkeeper backup", "test_what_a_schedule_lacks_is_done_as_it_is_printed"),
)  # fmt: skip


def to_do() -> Iterator[str]:
    return (text for text in whole() if TO_DO.search(text))


def test_each_hint_that_names_what_to_type_or_to_write_has_a_test_that_does_so() -> None:
    assert [text for text in to_do() if not any(piece in text for piece, _ in DONE)] == []
    first = {next(piece for piece, _ in DONE if piece in text) for text in to_do()}
    assert [piece for piece, _ in DONE if piece not in first] == []


def test_those_tests_are_there() -> None:
    assert {who for _, who in DONE if isinstance(who, str)} - every_test() == set()


# ------------------------------------------------------------------------------------------------------- configuration


Edit = Callable[[str, str, Path], tuple[str, dict[str, str]]]
"""Of the text, the hint and a directory: the text as it is then, and the environment."""


def renamed(wrong: str) -> Edit:
    return lambda text, hint, _: (text.replace(wrong, between(hint, "Did you mean ", "?")), {})


def variable(text: str, hint: str, _: Path) -> tuple[str, dict[str, str]]:
    return text, {between(hint, "set ", " instead"): "our-value"}


def made(command: str, secret: str) -> Edit:
    """What the command prints, in place of that."""

    def edit(text: str, hint: str, directory: Path) -> tuple[str, dict[str, str]]:
        assert command in hint
        return text.replace(secret, shell(command.replace("FILE", str(directory / "age-key")))), {}

    return edit


def between(text: str, before: str, after: str) -> str:
    found = re.search(f"{re.escape(before)}(.+?){re.escape(after)}", text)
    assert found, text
    return found[1]


def shell(line: str) -> str:
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True, timeout=30).stdout.strip()


def protected(text: str, hint: str, directory: Path) -> tuple[str, dict[str, str]]:
    shell(f"{between(hint, '', ' the file')} {directory / 'patroni.yml'}")
    return text, {}


def longer(text: str, hint: str, directory: Path) -> tuple[str, dict[str, str]]:
    (directory / "key").write_text(shell(hint.removeprefix("Make one with: ")))
    return text, {}


CODES: Final = '  authentication: {key_files: [KEY], since: "000000010000000000000000"}\n'
SINCE: Final = "  authentication: {key_files: [KEY]}\n"


@pytest.mark.parametrize(
    ("text", "edit"),
    [
        (PATRONI + STORE.replace("walkeeper", "walkeper"), renamed("walkeper")),
        (PATRONI + "walkeeper:\n  store: {s3: {buckt: our-wal}}\n", renamed("buckt")),
        (PATRONI + S3, protected),
        (PATRONI + S3, variable),
        (PATRONI + "walkeeper:\n  store: {s3: {bucket: $BUCKET}}\n", variable),
        (PATRONI + STORE + CODES, longer),
        (PATRONI + STORE + "  encryption: {recipients: [AGE-SECRET-KEY-1]}\n", made("age-keygen -y FILE", "AGE-SECRET-KEY-1")),
        (PATRONI.replace("scope: demo\n", "") + STORE, lambda text, hint, _: (text, {between(hint, "; ", " can say"): "demo"})),
        (PATRONI + STORE.replace("/mnt/wal}", "/mnt/wal}\n  spool: {directory: spool}"), lambda text, _, there: (text.replace("directory: spool", f"directory: {there}/spool"), {})),
        (PATRONI + STORE + "  agent: {log_level: warn}\n", renamed("warn")),
        (PATRONI + STORE + "  backup: {keep: 14}\n", lambda text, hint, _: (text.replace("14", between(hint, "Write ", " for days")), {})),
        (PATRONI + STORE + "  backup: {schedule: 22:30}\n", lambda text, hint, _: (text.replace("22:30", between(hint, "day: ", ".")), {})),
    ],
)  # fmt: skip
def test_a_configuration_that_is_corrected_as_the_hint_says_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, edit: Edit
) -> None:
    path = tmp_path / "patroni.yml"
    (tmp_path / "key").write_text("short")
    (tmp_path / "key").chmod(0o600)
    if "AGE" in text:
        if shutil.which("age-keygen") is None:
            pytest.skip("no age-keygen here")
        shell(f"age-keygen -o {tmp_path / 'age-key'}")
    text = text.replace("KEY]", f"{tmp_path / 'key'}]") if "key_files" in text else text
    path.write_text(text)
    path.chmod(0o644)
    with pytest.raises(ConfigError) as refused:
        load(path, {}, for_agent=True)
    text, environ = edit(text, refused.value.hint, tmp_path)
    path.write_text(text)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)  # Patroni's own variables are read by Patroni
    assert load(path, os.environ, for_agent=True).scope == "demo"


def test_a_variable_that_is_named_as_the_hint_says_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "patroni.yml"
    path.write_text(PATRONI + STORE)
    with pytest.raises(ConfigError) as refused:
        load(path, {"WALKEEPER_UPLOAD_WORKER": "3"})
    nearest = between(refused.value.hint, "Did you mean ", " or ")
    assert load(path, {nearest: "3"}).upload_workers == 3


def test_a_command_takes_the_configuration_that_the_hint_says(
    short_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And an agent the directory for its socket."""
    path = short_path / "patroni.yml"
    path.write_text(PATRONI + STORE)
    monkeypatch.setattr(main, "PLACES", ("/nowhere/walkeeper.yml",))
    assert main.main(["agent", "--stop"]) != 0
    told = capsys.readouterr().err
    run = short_path / "run"
    run.mkdir(mode=0o700)
    monkeypatch.setenv("WALKEEPER_RUN_DIR", str(run))
    for option, environ in (
        ([re.findall("--[a-z]+", told)[-1], str(path)], {}),
        ([], {re.findall("WALKEEPER_[A-Z]+", told)[-1]: str(path)}),
    ):
        with monkeypatch.context() as patch:
            for name, value in environ.items():
                patch.setenv(name, value)
            assert main.main(["agent", "--stop", *option]) == 0
        assert capsys.readouterr().out == "No agent runs on this node.\n"


@pytest.mark.parametrize(
    ("wrong", "key"),
    [({"bucket": "s3://our-wal/a"}, "bucket"), ({"bucket": "http://minio:9000/our-wal"}, "bucket"), ({"bucket": "our-wal", "storage_class": "cold"}, "storage_class"), ({"bucket": "our-wal", "storage_class": "DEEP_ARCHIVE"}, "storage_class")],
)  # fmt: skip
def test_a_storage_class_that_a_hint_names_is_taken(wrong: dict[str, Any], key: str) -> None:
    """And a bucket that is written as it says."""
    with pytest.raises(WrongSetting) as refused:
        S3Settings(**wrong).checked()
    hint = refused.value.hint
    if key == "bucket":
        written = (
            yaml.safe_load("{" + between(hint, "Write ", ".") + "}")
            if "," not in hint
            else yaml.safe_load("{" + hint.removeprefix("Write ").removesuffix(".") + "}")
        )
        S3Settings(**written).checked()
    else:
        classes = re.findall(r"\b[A-Z]+_[A-Z]+\b", hint)
        assert classes
        for each in classes:
            S3Settings(**{**wrong, "storage_class": each}).checked()


def test_a_slot_that_status_says_to_declare_is_declared() -> None:
    """Patroni's own code reads the line."""
    words = how_to_make_safe(None, "walkeeper", declared=False).split()
    pair = words[words.index("--set") + 1]
    assert apply_config_changes("", {"ttl": 30}, [pair])[1] == {"ttl": 30, "slots": {"walkeeper": {"type": "physical"}}}
    words = how_to_make_safe(None, "walkeeper", declared=True, slots_off=True).split()
    pair = words[words.index("--set") + 1]
    assert apply_config_changes("", {"ttl": 30}, [pair])[1] == {"ttl": 30, "postgresql": {"use_slots": True}}
