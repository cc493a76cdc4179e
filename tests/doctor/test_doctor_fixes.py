"""What doctor prints is typed as it is printed, and the fault is gone. ``fixes.py`` says which test does so for which fix."""

from __future__ import annotations

import ast
import os
import shlex
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import pytest
import yaml

from tests.doctor.fixes import FIXES, PAPER, By
from tests.doctor.paper import Paper, commands, in_the_cluster, understood
from tests.doctor.test_doctor_rules import WRONG as SHOWN
from tests.doctor.test_doctor_rules import Changed, good_facts, of, with_dynamic
from tests.fixtures.worlds import HOLD_SLOT, config_of, prepare
from tests.hints import every_test
from tests.parts.postgres import REPLICATOR, REPLICATOR_PASSWORD, SUPERUSER, SUPERUSER_PASSWORD, Postgres
from tests.parts.processes import Host, new_directory, wait_until
from walkeeper.core.lsn import MIB
from walkeeper.core.record import Record
from walkeeper.doctor import gather, servers
from walkeeper.doctor.facts import Facts, SpoolFacts, Unknown
from walkeeper.doctor.rule import Finding, Wrong, judge
from walkeeper.doctor.rules import agents, archiving, backups, dcs, node, patroni, server, store, wiring

MODULES: Final = (agents, archiving, backups, dcs, node, patroni, server, store, wiring)
WRONG: Final = [case for case in SHOWN if case[2] != "unknown"]
"""Where a fix is printed."""


def wrong(facts: Facts, rule: str) -> list[Finding]:
    return [finding for finding in of(judge(facts), rule) if finding.state != "ok"]


def by(finding: Finding) -> By | None:
    printed = "\n".join(finding.fix)
    return next((who for rule, piece, who in FIXES if rule == finding.rule.name and piece in printed), None)


@pytest.fixture
def good(tmp_path: Path) -> Facts:
    return good_facts(tmp_path)


# ------------------------------------------------------------------------------------------------------- the inventory


def test_each_place_where_a_rule_says_wrong_is_among_those_that_are_shown(
    good: Facts, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: set[tuple[str, int]] = set()

    def noted(module: ModuleType) -> Callable[..., Wrong]:
        def made(*arguments: Any, **named: Any) -> Wrong:
            said.add((module.__name__, sys._getframe(1).f_lineno))
            return Wrong(*arguments, **named)

        return made

    for module in MODULES:
        monkeypatch.setattr(module, "Wrong", noted(module))
    for _, change, *_ in WRONG:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("walkeeper.doctor.rule._finding", lambda *_: None)  # it would not know the class again
            judge(change(good))
    assert {place for module in MODULES for place in _places(module)} - said == set()


def _places(module: ModuleType) -> Iterator[tuple[str, int]]:
    for each in ast.walk(ast.parse(Path(str(module.__file__)).read_text())):
        if isinstance(each, ast.Call) and isinstance(each.func, ast.Name) and each.func.id == "Wrong":
            yield module.__name__, each.lineno


def test_each_fix_that_is_printed_is_typed_by_a_test_or_a_persons_work(good: Facts) -> None:
    printed = [finding for name, change, *_ in WRONG for finding in wrong(change(good), name)]
    assert [(each.rule.name, each.fix) for each in printed if by(each) is None] == []
    used = {by(each) for each in printed}
    assert [entry for entry in FIXES if entry[2] not in used] == []


def test_the_tests_that_type_fixes_are_there() -> None:
    assert {who for _, _, who in FIXES if isinstance(who, str)} - every_test() == set()


@pytest.mark.parametrize(("name", "change"), [case[:2] for case in WRONG])
def test_each_line_is_a_comment_or_what_a_shell_or_a_file_takes(good: Facts, name: str, change: Changed) -> None:
    for finding in wrong(change(good), name):
        shell, file = commands(finding.fix)
        for words in shell:
            understood(words)
        assert not file or isinstance(yaml.safe_load(file), dict | list)


# ------------------------------------------------------------------------------------------------------------ on paper


def on_paper() -> Iterator[tuple[str, Changed]]:
    for name, change, *_ in WRONG:
        if any(who == PAPER for rule, _, who in FIXES if rule == name):
            yield name, change


@pytest.mark.parametrize(("name", "change"), list(on_paper()))
def test_what_is_typed_as_it_is_printed_fixes(tmp_path: Path, name: str, change: Changed) -> None:
    """Patroni's own code reads its lines, and walkeeper's own its; also where a name needs quotes, in a shell and in YAML."""
    place = "Ted's: #1"
    directory = tmp_path / place
    directory.mkdir()
    good = replace(good_facts(directory), program=shlex.quote(f"/opt/{place}/bin/walkeeper"))
    facts = in_the_cluster(change(good), good)
    paper = Paper(facts)
    findings = [finding for finding in wrong(facts, name) if by(finding) == PAPER]
    for finding in findings:
        paper.type(finding.fix)
    about = {finding.about for finding in findings}
    assert [finding for finding in wrong(paper.facts, name) if finding.about in about] == []


def test_a_fix_goes_where_walkeepers_own_configuration_has_the_key(good: Facts, tmp_path: Path) -> None:
    own = tmp_path / "walkeeper.yml"
    facts = replace(good, config=replace(good.config, source=own, encryption_recipients=("age1x",)))
    printed = "\n".join(wrong(facts, "encryption")[0].fix)
    assert f"in {own}" in printed
    assert printed.splitlines()[1:] == ["encryption:", "  identity_file: /etc/walkeeper/age-key"]


# ----------------------------------------------------------------------------------------------------------- in a shell


def sh(line: str, **environment: str) -> str:
    done = subprocess.run(
        ["bash", "-c", line], env={**os.environ, **environment}, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, (line, done.stderr)
    return done.stdout


def test_directories_are_made_as_it_is_printed(good: Facts, tmp_path: Path) -> None:
    """That of the spool, in the place of a link, and that of a proof."""
    uid = os.geteuid()
    spool = tmp_path / "Ted's spool"
    spool.symlink_to(tmp_path)
    good = replace(good, servers_uid=uid, uid=uid)
    link = replace(good, spool=SpoolFacts(path=str(spool), exists=True, plain=False, uid=uid))
    for line in wrong(link, "spool_private")[0].fix:
        sh(line)
    made = spool.lstat()
    assert (stat.S_ISDIR(made.st_mode), stat.S_IMODE(made.st_mode), made.st_uid) == (True, 0o700, uid)
    spool.rmdir()
    away = replace(good, spool=SpoolFacts(path=str(spool), exists=False, creatable=False))
    for line in wrong(away, "spool_private")[0].fix:
        sh(line)
    assert stat.S_IMODE(spool.stat().st_mode) == 0o700


def test_a_key_for_codes_is_made_as_it_is_printed(good: Facts, tmp_path: Path) -> None:
    """With another place, which needs no root; without a segment's name it says what to write."""
    uid = os.geteuid()
    facts = replace(good, servers_uid=uid, config=replace(good.config, encryption_recipients=("age1x",)))
    fix = [
        line.replace("/etc/walkeeper/", f"{tmp_path}/not-there-yet/") for line in wrong(facts, "authentication")[0].fix
    ]
    sh(next(line for line in fix if line.startswith("openssl")))
    key = tmp_path / "not-there-yet" / "authentication-key"
    assert (len(key.read_text().strip()), stat.S_IMODE(key.stat().st_mode)) == (64, 0o600)
    lines = yaml.safe_load("\n".join(line for line in fix if not line.startswith(("#", "openssl"))))
    assert lines["walkeeper"]["authentication"] == {"key_files": [str(key)], "since": "SEGMENT"}


def test_how_walkeeper_is_called_is_words_for_a_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / "with space" / "python3"
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert shlex.split(gather.program()) == [str(python), "-m", "walkeeper"]
    python.parent.mkdir()
    python.with_name("walkeeper").touch()
    assert shlex.split(gather.program()) == [str(python.with_name("walkeeper"))]


# ------------------------------------------------------------------------------------------------------ on real servers


@pytest.fixture(scope="module")
def typed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Typed]:
    """Whom only a superuser may come in as, with the hold slot."""
    with Postgres(new_directory("f") / "pg", auth="scram-sha-256") as running:
        prepare(running)
        yield Typed(running, tmp_path_factory.mktemp("typed"))


class Typed:
    """doctor of one real server without Patroni, and a superuser's shell beside it."""

    def __init__(self, server: Postgres, directory: Path) -> None:
        self.server = server
        self.config = config_of(server, "n1", directory)
        self.good = good_facts(directory)
        self.shell = {
            "PGHOST": "127.0.0.1", "PGPORT": str(server.port), "PGUSER": SUPERUSER, "PGPASSWORD": SUPERUSER_PASSWORD,
            "PGDATABASE": "postgres", "PATH": f"{server.bin_dir}:{os.environ['PATH']}",
        }  # fmt: skip

    def reload(self) -> None:
        self.server.execute("SELECT pg_reload_conf()")

    def facts(self, **changes: Any) -> Facts:
        """As doctor on this node sees the server now, with the frontier where it writes."""
        config = changes.pop("config", self.config)
        members = servers.look_at_members(config, Unknown("there is no Patroni here"))
        record = Record(
            system_identifier=str(self.server.system_identifier), segment_size=MIB, timeline=1, lsn=self.server.value("SELECT pg_current_wal_lsn()::text"),
            start="000000010000000000000001", owner="n1", session="s",
        )  # fmt: skip
        return replace(self.good, config=config, members=members, record=record, **changes)

    def until(self, rule: str, *, wrong: bool) -> list[Finding]:
        """What the rule finds, once it is wrong, or no longer."""
        (found,) = wait_until(lambda: [found] if bool(found := self.wrong(rule)) is wrong else [], f"{rule}: {wrong}")
        return found

    def wrong(self, rule: str, **changes: Any) -> list[Finding]:
        return wrong(self.facts(**changes), rule)


@pytest.mark.postgres
def test_pg_hba_and_a_password_as_they_are_printed_let_walkeeper_in(
    typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hba = typed.server.data / "pg_hba.conf"
    before = hba.read_text()
    hba.write_text(f"host all {SUPERUSER} 127.0.0.1/32 scram-sha-256\n")
    typed.reload()
    for rule in ("server_answers", "replication_allowed"):
        (finding,) = typed.until(rule, wrong=True)
        hba.write_text("".join(f"{line[2:]}\n" for line in finding.fix if line.startswith("- ")) + hba.read_text())
        typed.reload()
        typed.until(rule, wrong=False)
    hba.write_text(before)
    typed.reload()

    own = typed.config.postgresql
    without = replace(typed.config, node=replace(typed.config.node, postgresql=replace(own, password=None)))
    passwords = tmp_path / "pgpass"
    monkeypatch.setenv("PGPASSFILE", str(passwords))
    (finding,) = typed.wrong("server_answers", config=without)
    passwords.touch(mode=0o600)
    passwords.write_text(finding.fix[-1].removeprefix("# ").replace("PASSWORD", REPLICATOR_PASSWORD))
    assert [
        each for rule in ("server_answers", "replication_allowed") for each in typed.wrong(rule, config=without)
    ] == []


@pytest.mark.postgres
def test_a_hold_slot_that_is_used_or_lost_is_right_again_as_it_is_printed(typed: Typed, tmp_path: Path) -> None:
    host = Host("reader", tmp_path)
    login = {**typed.shell, "PGUSER": REPLICATOR, "PGPASSWORD": REPLICATOR_PASSWORD}
    command = [typed.server.bin_dir / "pg_receivewal", "--no-loop", "--slot", HOLD_SLOT, "--directory", tmp_path]
    host.start(command, env=login, log=tmp_path / "log")
    (finding,) = typed.until("gap_safe", wrong=True)
    sh(finding.fix[0], **typed.shell)
    typed.until("gap_safe", wrong=False)
    host.kill9()

    typed.server.execute("ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'")
    typed.reload()
    typed.server.complete_segments(8)
    typed.server.checkpoint()
    (finding,) = typed.until("gap_safe", wrong=True)
    sh(finding.fix[0], **login)
    typed.server.physical_slot(HOLD_SLOT)  # as Patroni does
    assert typed.wrong("gap_safe") == []

    dynamic = with_dynamic(postgresql={"parameters": {"max_slot_wal_keep_size": -1}})(typed.good).topology
    (finding,) = typed.wrong("max_slot_wal_keep_size", topology=dynamic)
    for line in finding.fix:
        sh(line, **typed.shell)
    typed.until("max_slot_wal_keep_size", wrong=False)
