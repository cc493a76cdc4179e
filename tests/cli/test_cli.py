"""The command line: one line and a hint for every mistake, and exits that PostgreSQL cannot misread."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any, Final

import pytest

from walkeeper import __version__
from walkeeper.cli import main as cli
from walkeeper.cli.arguments import ELSEWHERE
from walkeeper.config import Config
from walkeeper.errors import StoreUnavailable
from walkeeper.verify import command, fetch_command, list_command

ROOT: Final = Path(__file__).parents[2]
CONFIG: Final = "scope: demo\nwalkeeper: {store: {directory: /mnt/wal}}\n"


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith(("WALKEEPER_", "PATRONI_")):
            monkeypatch.delenv(name)
    monkeypatch.setattr(cli, "PLACES", ("/nowhere/walkeeper.yml", "/nowhere/patroni.yml"))


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "patroni.yml"
    path.write_text(CONFIG)
    return path


def stand_in(monkeypatch: pytest.MonkeyPatch, module: str, main: Any) -> None:
    """Put a function in the place of a command's module, which is imported only when the command runs."""
    parent, _, name = module.rpartition(".")
    fake = types.ModuleType(module)
    fake.main = main  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module, fake)
    monkeypatch.setattr(__import__(parent, fromlist=["x"]), name, fake, raising=False)


def walkeeper(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "walkeeper", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=60, check=False, **options,
    )  # fmt: skip


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"walkeeper {__version__}\n"


def test_help_names_every_command_and_each_has_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    for name in ("agent", "callback", "archive-push", "restore-wal", "status", "verify", "list", "fetch"):
        assert name in text
        assert cli.main([name, "--help"]) == 0
        told = capsys.readouterr().out
        assert f"walkeeper {name}" in told
        assert "%%" not in told


@pytest.mark.parametrize(
    "arguments", [[], ["frobnicate"], ["status", "--jso"], ["agent", "x"], ["callback", "on_start"]]
)
def test_a_wrong_call_is_told_how_and_exits_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == 2
    assert "usage: walkeeper" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["expire", "--keep-number", "0"], "argument --keep-number: expected a whole number above 0, not '0'"),
        (["expire", "--grace", "5s"], "argument --grace: expected a duration of 1h or more, such as 1d, not '5s'"),
        (["expire", "--grace", "long"], "argument --grace: expected a duration of 1h or more, such as 1d, not 'long'"),
        (["expire", "--until", "2027"], "argument --until: expected a day such as 2027-11-28, a duration such as 365d, or forever, not '2027'"),
        (["backup", "--max-rate", "1"], "argument --max-rate: expected a size from 32kB to 1GB, such as 50MB, or off, not '1'"),
        (["backup", "--resume", "nosuch"], "argument --resume: expected the id of an attempt, as walkeeper backups lists them, not 'nosuch'"),
        (["status", "--interval", "x"], "argument --interval: expected seconds, from 0.1 to 3600, not 'x'"),
        (["verify", "--timeline", "-"], "argument --timeline: expected a whole number above 0, not '-'"),
        (["restore", "--timeline", "0"], "argument --timeline: expected a timeline's number, or latest, not '0'"),
        (["gap", "accept", "x"], "argument FROM: expected a position such as 0/3000000, or a segment's name, not 'x'"),
    ],
)  # fmt: skip
def test_a_value_that_cannot_be_used_is_told_with_what_can_and_exits_with_2(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    command = " ".join(arguments[: 2 if arguments[0] == "gap" else 1])
    assert lines[-2:] == [f"walkeeper: {told}", f"HINT: walkeeper {command} --help says what it takes."]


@pytest.mark.parametrize(
    ("arguments", "told", "hint"),
    [
        (["status", "--foo", "x"], "--foo x", "walkeeper status --help says what it takes."),
        (["status", "--wach"], "--wach", "Did you mean --watch? walkeeper status --help says what it takes."),
        (["gap", "list", "--foo"], "--foo", "walkeeper gap list --help says what it takes."),
    ],
)
def test_an_option_that_is_not_there_is_told_by_the_command_itself(
    arguments: list[str], told: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == 2
    usage, *_, said, hinted = capsys.readouterr().err.splitlines()
    assert usage.startswith(f"usage: walkeeper {arguments[0]}")
    assert (said, hinted) == (f"walkeeper: unrecognized arguments: {told}", f"HINT: {hint}")


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("info", "What others call info: walkeeper status and walkeeper backups."),
        ("keep", "What others call keep: walkeeper expire --retain."),
        ("statsu", "Did you mean status?"),
        ("frobnicate", "walkeeper --help says what it takes."),
    ],
)
def test_the_commands_of_other_tools_are_told_what_does_that_here(
    word: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([word]) == 2
    assert capsys.readouterr().err.splitlines()[-2:] == [
        f"walkeeper: there is no command {word}",
        f"HINT: {hint}",
    ]


def test_what_does_here_what_others_call_otherwise_is_there_and_in_the_document() -> None:
    there = subcommands(cli.parser())
    document = (ROOT / "docs" / "coming-from.md").read_text()
    for theirs, ours in ELSEWHERE:
        assert not {*theirs.split()} & {*there}
        words, here = ", ".join(f"`{each}`" for each in theirs.split()), ", ".join(f"`{each}`" for each in ours)
        assert f"| {words} | {here} |\n" in document
        for each in ours:
            name, *options = each.split()
            assert all(option in there[name].format_help() for option in options)


@pytest.mark.parametrize(
    "arguments", [["--to", ""], ["--to", "2026-11-29"], ["--to", "lsn:zz"], ["--exclusive"], ["--action", "pause"]]
)
def test_an_option_of_restore_that_cannot_be_used_exits_with_2(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    uid = os.geteuid() or 1000
    monkeypatch.setattr("os.geteuid", lambda: uid)
    monkeypatch.setattr("walkeeper.restore.directory.command.restore_script", lambda: "/usr/bin/walkeeper-restore-wal")
    assert cli.main(["restore", "-c", str(config), *arguments]) == 2
    assert f"walkeeper: {arguments[0]}" in capsys.readouterr().err


def test_a_takeover_that_finds_no_agent_exits_with_2(
    config: Path, short_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """1 is that it refuses one."""
    monkeypatch.setenv("WALKEEPER_RUN_DIR", str(short_path))
    uid = os.geteuid() or 1000
    monkeypatch.setattr("os.geteuid", lambda: uid)
    assert cli.main(["takeover", "-c", str(config)]) == 2
    assert "HINT: Start the agent" in capsys.readouterr().err


def test_an_error_is_one_line_and_a_hint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status", "-c", str(tmp_path / "missing.yml")]) == 2
    assert capsys.readouterr().err == (
        f"walkeeper: {tmp_path}/missing.yml: it cannot be read: No such file or directory\n"
        "HINT: Name the file with --config or WALKEEPER_CONFIG.\n"
    )


def test_status_gets_the_configuration(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, bool]] = []

    def main(config: Any, *, json: bool) -> int:
        seen.append((config.scope, json))
        return 3

    stand_in(monkeypatch, "walkeeper.status.command", main)
    assert cli.main(["status", "--config", str(config)]) == 3
    assert cli.main(["--config", str(config), "status", "--json"]) == 3
    assert seen == [("demo", False), ("demo", True)]


def test_verify_list_and_fetch_get_what_was_asked_for(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def main(config: Any, *arguments: Any, **options: Any) -> int:
        seen.append((config.scope, *arguments, options))
        return 2

    for module in (command, list_command, fetch_command):
        monkeypatch.setattr(module, "main", main)
    named = ["-c", str(config)]
    assert cli.main(["verify", *named]) == 2
    assert cli.main(["verify", *named, "--from", "0/5000028", "--timeline", "3", "--deep", "--json"]) == 2
    assert cli.main(["verify", *named, "--rebuild", "--system-identifier", "7"]) == 2
    assert cli.main(["list", *named, "--timeline", "3"]) == 2
    assert cli.main(["fetch", *named, "00000002.history", "there"]) == 2
    assert seen == [
        ("demo", command.Request(), {}),
        ("demo", command.Request(begin="0/5000028", timeline=3, deep=True, json=True), {}),
        ("demo", command.Request(rebuild=True, system_identifier=7), {}),
        ("demo", {"timeline": 3, "system_identifier": None, "json": False}),
        ("demo", "00000002.history", Path("there"), {"system_identifier": None}),
    ]
    for wrong in (["--timeline", "0"], ["--timeline", "x"], ["--timeline", "-1"], ["--deep", "--rebuild"], ["more"]):
        assert cli.main(["verify", *named, *wrong]) == 2
    assert len(seen) == 5


def test_one_of_several_stores_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "patroni.yml"
    config.write_text("scope: demo\nwalkeeper: {stores: [{directory: /mnt/a}, {name: far, directory: /mnt/b}]}\n")
    seen: list[tuple[str, ...]] = []

    def main(config: Config, *_: Any, **__: Any) -> int:
        seen.append(config.stores)
        return 0

    verbs: list[tuple[Any, ...]] = []

    def ask(_: str, *asked: Any, **facts: Any) -> dict[str, object]:
        verbs.append((*asked, facts))
        return {}

    named = ["-c", str(config)]
    commands = {
        "verify.command": ["verify"], "verify.list_command": ["list"], "verify.fetch_command": ["fetch", "x", "y"],
        "proof.command": ["verify", "--restore"], "gap.command": ["gap", "list"], "backup.command": ["backup"],
        "backup.list_command": ["backups"], "restore.directory.command": ["restore"], "expire.command": ["expire"],
        "restore.directory.check": ["doctor", "--restore"],
    }  # fmt: skip
    for module, words in commands.items():
        monkeypatch.setattr(f"walkeeper.{module}.main", main)
        assert cli.main([*words, *named]) == 0
        assert cli.main([*words, *named, "--store", "far"]) == 0
        assert seen == [("main", "far"), ("far",)], words
        seen.clear()
    assert cli.main(["verify", *named, "--store", "near"]) == 2
    assert "HINT: There are main, far." in capsys.readouterr().err
    assert cli.main(["doctor", *named, "--store", "far"]) == 2
    monkeypatch.setattr("walkeeper.control.client.ask", ask)
    assert cli.main(["takeover", *named]) == 0
    assert cli.main(["takeover", *named, "--accept", "--store", "far"]) == 0
    assert verbs == [
        ("takeover", 10.0, {"accept": False, "store": None}),
        ("takeover", 10.0, {"accept": True, "store": "far"}),
    ]


def test_gap_gets_what_was_asked_for(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[bool, str | None, bool]] = []

    def command(_: Config, *, accept: bool, start: str | None, as_json: bool) -> int:
        calls.append((accept, start, as_json))
        return 1

    monkeypatch.setattr("walkeeper.gap.command.main", command)
    assert cli.main(["gap", "-c", str(config), "list", "--json"]) == 1
    assert cli.main(["gap", "-c", str(config), "accept", "0/3000000"]) == 1
    assert cli.main(["gap", "accept", "-c", str(config), "0/3000000"]) == 1
    assert cli.main(["-c", str(config), "gap", "--json", "accept"]) == 1
    assert calls == [
        (False, None, True),
        (True, "0/3000000", False),
        (True, "0/3000000", False),
        (True, None, True),
    ]
    for wrong in (["list", "0/3000000"], []):
        assert cli.main(["gap", "-c", str(config), *wrong]) == 2


def test_member_forget_gets_the_name(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []

    def forget(_: Config, name: str) -> int:
        names.append(name)
        return 0

    monkeypatch.setattr("walkeeper.gap.forget.main", forget)
    assert cli.main(["member", "-c", str(config), "forget", "node3"]) == 0
    assert cli.main(["member", "forget", "node 3", "-c", str(config)]) == 0
    assert names == ["node3", "node 3"]
    for wrong in ([], ["forget"], ["forget", "a", "b"], ["node3"]):
        assert cli.main(["member", "-c", str(config), *wrong]) == 2


def test_the_agent_needs_more_of_the_configuration(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[tuple[str, bool, bool]] = []

    def main(config: Any, *, detach: bool, from_callback: bool) -> int:
        seen.append((config.name, detach, from_callback))
        return 0

    stand_in(monkeypatch, "walkeeper.agent.process.run", main)
    assert cli.main(["agent", "-c", str(config)]) == 2
    assert "name: missing" in capsys.readouterr().err
    config.write_text(
        CONFIG + "name: n1\npostgresql: {data_dir: /pg, authentication: {replication: {username: r, password: p}}}\n"
    )
    assert cli.main(["agent", "-c", str(config)]) == 0
    assert cli.main(["agent", "--from-callback", "--config", str(config)]) == 0
    assert cli.main(["-c", str(config), "agent", "--detach"]) == 0
    assert seen == [("n1", False, False), ("n1", False, True), ("n1", True, False)]


def test_an_error_of_a_command_decides_the_exit(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def main(_: Any, *, json: bool) -> int:
        raise StoreUnavailable(f"s3://wal: no answer, json={json}", hint="Wait.")

    stand_in(monkeypatch, "walkeeper.status.command", main)
    assert cli.main(["status", "-c", str(config)]) == 1
    assert capsys.readouterr().err == "walkeeper: s3://wal: no answer, json=False\nHINT: Wait.\n"


def test_an_interrupt_is_130(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def main(_: Any, *, json: bool) -> int:
        raise KeyboardInterrupt(json)

    stand_in(monkeypatch, "walkeeper.status.command", main)
    assert cli.main(["status", "-c", str(config)]) == 130


def test_the_configuration_is_the_one_named_else_the_variables_else_the_first_usual_one(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[Path] = []

    def main(config: Any, *, json: bool) -> int:
        seen.append(config.source)
        return int(json)

    stand_in(monkeypatch, "walkeeper.status.command", main)
    assert cli.main(["status"]) == 2
    assert "no configuration: none of /nowhere/walkeeper.yml" in capsys.readouterr().err
    usual = tmp_path / "usual.yml"
    usual.write_text(CONFIG)
    monkeypatch.setattr(cli, "PLACES", ("/nowhere/walkeeper.yml", str(usual)))
    assert cli.main(["status"]) == 0
    variable = tmp_path / "variable.yml"
    variable.write_text(CONFIG)
    monkeypatch.setenv("WALKEEPER_CONFIG", str(variable))
    assert cli.main(["status"]) == 0
    assert cli.main(["status", "-c", str(config)]) == 0
    assert seen == [usual, variable, config]


def test_a_callback_is_dispatched_with_its_configuration(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []

    def main(arguments: list[str]) -> int:
        seen.append(arguments)
        return 0

    stand_in(monkeypatch, "walkeeper.control.callback", main)
    monkeypatch.setenv("WALKEEPER_CONFIG", str(config))
    event = ["on_start", "replica", "demo"]
    for arguments in (["callback", "-c", str(config)], ["callback", "--config", str(config)], ["callback"]):
        assert cli.main([*arguments, *event]) == 0
    assert cli.main(["-c", str(config), "callback", *event]) == 0
    assert seen == [[str(config), *event]] * 4


# ------------------------------------------------------------------------------------------------------- restore-wal


def test_restore_wal_is_given_the_path_and_not_what_is_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Path, str, str]] = []

    def main(config_path: Path, name: str, destination: str) -> int:
        seen.append((config_path, name, destination))
        return 255

    stand_in(monkeypatch, "walkeeper.restore.command", main)
    broken = tmp_path / "broken.yml"
    broken.write_text("- nonsense")
    assert cli.main(["restore-wal", "-c", str(broken), "0" * 24, "pg_wal/RECOVERYXLOG"]) == 255
    assert seen == [(broken, "0" * 24, "pg_wal/RECOVERYXLOG")]


def _signals(directory: Path, names: tuple[str, ...]) -> None:
    for name in names:
        (directory / name).touch()


@pytest.mark.parametrize(
    ("signals", "expected"),
    [((), 2), (("recovery.signal",), 255), (("standby.signal",), 2), (("recovery.signal", "standby.signal"), 2)],
)
@pytest.mark.parametrize(
    "arguments",
    [
        ["restore-wal"],
        ["restore-wal", "a"],
        ["restore-wal", "a", "b", "c"],
        ["restore-wal", "--frobnicate", "a", "b"],
        ["restore-wall", "a", "b"],
        ["restore-wal", "a", "b"],
    ],
)
def test_a_wrong_call_of_restore_wal_never_ends_a_recovery(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    signals: tuple[str, ...],
    expected: int,
    arguments: list[str],
) -> None:
    """The last one is right, but there is no configuration."""
    _signals(tmp_path, signals)
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == expected


@pytest.mark.parametrize(
    "problem", [MemoryError(), KeyboardInterrupt(), SystemExit(1), ImportError("broken"), OSError(5)]
)
def test_whatever_breaks_in_restore_wal_never_ends_a_recovery(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, problem: BaseException
) -> None:
    def main(_config_path: Path, _name: str, _destination: str) -> int:
        raise problem

    stand_in(monkeypatch, "walkeeper.restore.command", main)
    _signals(tmp_path, ("recovery.signal",))
    monkeypatch.chdir(tmp_path)
    assert cli.main(["restore-wal", "-c", str(config), "0" * 24, "pg_wal/RECOVERYXLOG"]) == 255


# ---------------------------------------------------------------------------------------------------- whole processes


def test_a_reader_that_leaves_is_no_traceback() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "walkeeper", "--help"],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""


def test_the_command_line_works_as_a_module(tmp_path: Path) -> None:
    done = walkeeper("status", "-c", "missing.yml", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"walkeeper: {tmp_path}/missing.yml: it cannot be read")
    assert "Traceback" not in done.stderr


def test_a_run_directory_that_is_not_usable_is_a_line_and_a_hint(config: Path) -> None:
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "WALKEEPER_RUN_DIR": "relative"}
    done = subprocess.run(
        [sys.executable, "-m", "walkeeper", "callback", "-c", str(config), "on_start", "replica", "demo"],
        env=environ, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0
    assert "WALKEEPER_RUN_DIR: 'relative' is not an absolute path" in done.stderr


def test_a_callback_through_the_command_line_loads_no_argparse_and_no_json(config: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from walkeeper.cli import main as cli; before = set(sys.modules)\n"
        "print(cli.main(['callback', '-c', sys.argv[1], 'on_start', '', 'demo']))\n"
        "print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(config)],
        cwd=ROOT, env={**os.environ, "WALKEEPER_RUN_DIR": str(tmp_path)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    code_line, modules = done.stdout.splitlines()
    assert code_line == "2"
    assert {"argparse", "json", "logging", "yaml"} & set(modules.split()) == set()


def test_the_help_shows_percents_as_postgresql_takes_them() -> None:
    texts = [cli.parser().format_help(), *(each.format_help() for each in subcommands(cli.parser()).values())]
    assert any("archive_command: walkeeper archive-push %p" in text for text in texts)
    assert [text for text in texts if "%%" in text] == []


def subcommands(top: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    (found,) = [each for each in top._actions if isinstance(each, argparse._SubParsersAction)]
    return dict(found.choices)


def test_restore_wal_by_hand_names_fetch(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """It is PostgreSQL's, and runs in a data directory."""
    config.write_text(f"scope: demo\nwalkeeper: {{store: {{directory: {tmp_path}}}, restore: {{deadline: 1s}}}}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WALKEEPER_RUN_DIR", str(tmp_path))
    assert cli.main(["restore-wal", "-c", str(config), f"{1:08X}{1:016X}", "here"]) != 0
    assert "By hand: walkeeper fetch FILE DIRECTORY" in capfd.readouterr().err
