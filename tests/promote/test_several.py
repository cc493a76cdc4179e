"""Before a promotion where several stores are: which of them commits wait for, and what is done at each."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.promote.test_before import FIRST, SYSTEM, ScriptedStandby, World
from tests.twins.memory_record import MemoryDcs, MemoryRecord
from walkeeper.config import Config, load
from walkeeper.core.lsn import MIB
from walkeeper.core.synchronous import LEASE_OVER, standby_name
from walkeeper.dcs.base import Versioned
from walkeeper.dcs.claim import Claim, Known, unknown
from walkeeper.errors import (
    BadRecord,
    ConfigError,
    DcsError,
    DcsUnavailable,
    PostgresError,
    PromotionVetoed,
    WalkeeperError,
)
from walkeeper.promote import command
from walkeeper.promote.lose import Word
from walkeeper.promote.waited import ATTEMPTS, waited_for

SILENT = DcsUnavailable("etcd3: no answer within 5 s")
DENIED = DcsError("etcd3: not allowed: permission denied", hint="Check the rights.")
AHEAD = FIRST * MIB + 60_000
BEHIND = FIRST * MIB + 9_000


class Asked(MemoryRecord):
    """``fails`` says what its next reads raise."""

    def __init__(self, dcs: MemoryDcs) -> None:
        super().__init__(dcs)
        self.fails: list[WalkeeperError | None] = []

    def read(self) -> Versioned | None:
        if self.fails and (problem := self.fails.pop(0)) is not None:
            raise problem
        return super().read()


@dataclass
class Both:
    """The member names ``main`` first, and its standby has replayed what that has."""

    directory: Path
    main: World = field(default_factory=World)
    far: World = field(default_factory=World)

    def __post_init__(self) -> None:
        self.worlds = {"main": self.main, "far": self.far}
        self.records = {name: Asked(world.dcs) for name, world in self.worlds.items()}
        self.standby = ScriptedStandby(self.main.last(BEHIND))
        self.word = Word(self.directory / "spool")
        self.main.pieces(FIRST, 9_000)
        self.far.pieces(FIRST, 60_000)

    def config(
        self, durability: str = "store", stores: str = "stores: [{directory: /a}, {name: far, directory: /b}]"
    ) -> Config:
        path = self.directory / "patroni.yml"
        path.write_text(
            f"scope: demo\nname: b\npostgresql: {{data_dir: {self.directory}/data, authentication: {{replication: {{username: r}}}}}}"
            f"\nwalkeeper: {{durability: {durability}, {stores}}}\n"
        )
        return load(path, {})

    def run(self, config: Config | None = None) -> int:
        return command.run(config or self.config(), self.word, 60)

    @property
    def closed(self) -> list[str]:
        return [name for name, world in self.worlds.items() if world.dcs.record and world.now.closed_by == "b"]


@pytest.fixture
def both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Both:
    both = Both(tmp_path)
    keys = {"walkeeper": "main", "walkeeper-far": "far"}
    server = type("Unasked", (), {"close": lambda _: None})
    monkeypatch.setattr(command, "connect", lambda *given: both.records[keys[given[3]]])
    monkeypatch.setattr(command, "open_archives", lambda config, **_: both.worlds[config.store_name].archives)
    monkeypatch.setattr(command, "Server", lambda *_: server())
    monkeypatch.setattr(command, "Standby", lambda *_: both.standby)
    monkeypatch.setattr(command, "SystemClock", lambda: both.main.time)
    return both


# ------------------------------------------------------------------------------------------------- which commits wait for


@pytest.mark.parametrize("durability", ["store", "local"])
def test_p8_the_store_that_the_record_says_is_looked_at_though_it_is_the_second_here(
    both: Both, durability: str
) -> None:
    """The leader names them the other way round, and the configuration here may be old."""
    both.main.record(durability="", waits_for="far")
    both.far.record()
    assert both.run(both.config(durability)) == command.VETOED
    assert both.closed == ["far"]
    both.standby.replayed = both.far.last(AHEAD)
    assert both.run(both.config(durability)) == command.GOES_ON


def test_p8_a_record_that_could_not_be_read_is_read_again_and_then_a_veto(both: Both) -> None:
    both.main.record(durability="")
    both.far.record()
    both.records["far"].fails = [SILENT] * (ATTEMPTS - 1)
    assert both.run() == command.VETOED
    assert both.closed == ["far"]
    both.standby.replayed = both.far.last(AHEAD)
    for problem in (SILENT, DENIED):
        both.records["far"].fails = [problem] * ATTEMPTS
        assert both.run() == command.VETOED
    assert both.run() == command.GOES_ON


def test_p8_silence_at_the_second_look_is_no_word_that_no_commit_waits(both: Both) -> None:
    """Its configuration, as that of a second store, says nothing of commits."""
    both.main.record(durability="", waits_for="far")
    both.far.record()
    both.records["far"].fails = [None] + [SILENT] * ATTEMPTS
    assert both.run() == command.VETOED


def test_p8_a_store_that_this_member_does_not_name_is_a_veto(both: Both) -> None:
    both.main.record(durability="", waits_for="far")
    both.far.record()
    for durability in ("store", "local"):
        assert both.run(both.config(durability, "store: {directory: /a}")) == command.VETOED
    assert both.closed == []


def test_p8_what_the_servers_own_settings_wait_for_is_looked_at_whatever_is_configured(
    both: Both, caplog: pytest.LogCaptureFixture
) -> None:
    """An old configuration, and all records are lost. Patroni gives ``synchronous_standby_names`` to all members."""
    local = both.config("local")
    both.standby.replayed = FIRST * MIB
    assert both.run(local) == command.GOES_ON
    both.standby.waits_for = f"FIRST 1 ({standby_name(SYSTEM)}, c)"
    assert both.run(local) == command.VETOED
    both.standby.comes = [FIRST * MIB, both.main.last(BEHIND)]
    assert both.run(local) == command.GOES_ON
    for records in both.records.values():
        records.fails = [SILENT] * ATTEMPTS
    assert both.run(local) == command.VETOED
    both.standby.problem = PostgresError("it is down")
    assert both.run(local) == command.GOES_ON
    assert "pre_promote_without_settings" in caplog.text


def test_each_record_is_told_what_commits_wait_for(both: Both) -> None:
    config = both.config()
    assert [each.waits_for_other for each in config.of_each_store] == ["", "main"]
    assert [each.waits_for_other for each in both.config("local").of_each_store] == ["", ""]
    assert config.of_store("far").of_store("main").waits_for_other == ""


def test_a_store_that_was_just_added_hinders_no_failover(both: Both) -> None:
    """It has no record yet, or a key that may not be read as yet."""
    both.main.record()
    assert both.run() == command.GOES_ON
    both.records["far"].fails = [DENIED] * ATTEMPTS
    assert both.run() == command.GOES_ON
    both.far.record(durability="", waits_for="main")
    assert both.run() == command.GOES_ON


def test_durability_that_was_just_set_or_taken_back_hinders_no_failover(both: Both) -> None:
    assert both.run() == command.GOES_ON  # no record at all
    both.main.record(durability="")
    both.far.record(durability="")
    assert both.run() == command.GOES_ON
    assert both.closed == ["main"]
    for name in both.records:
        both.records[name].fails = [SILENT]
    assert both.run(both.config("local")) == command.GOES_ON
    assert both.main.time.now < 1000 + 60


def test_what_each_kind_of_claim_means(both: Both) -> None:
    def says(**changes: Any) -> Claim:
        return Claim(Known.RECORD, both.main.record(**changes))

    stores, quiet, absent = says(), says(durability=""), Claim(Known.ABSENT)
    points = says(durability="", waits_for="far")
    rebuilt = says(durability="", owner="")  # by walkeeper verify --rebuild
    lost = Claim(Known.UNREADABLE, problem=BadRecord("garbage"))
    newer = unknown(BadRecord("schema 2"))
    asked: list[tuple[Claim, Claim, tuple[str, ...] | None]] = [
        (stores, absent, ("main",)), (absent, stores, ("far",)), (stores, stores, ("main", "far")),
        (quiet, quiet, ("main",)), (absent, absent, ("main",)), (lost, quiet, ("main",)), (rebuilt, quiet, ("main",)),
        (points, absent, ("far",)), (points, lost, ("far",)), (points, rebuilt, ("far",)),
        (points, quiet, ("main",)),  # its own record comes first: it is the older one that points there
        (points, unknown(DENIED), None),
        (stores, unknown(DENIED), ("main",)), (stores, unknown(SILENT), None), (quiet, unknown(DENIED), None),
        (absent, unknown(DENIED), None), (unknown(DENIED), stores, None),  # it was the first, and is none just added
        (stores, newer, None), (unknown(SILENT), stores, None), (newer, absent, None),
    ]  # fmt: skip
    for main, far, wanted in asked:
        if wanted is not None:
            assert waited_for({"main": main, "far": far}) == wanted, (main, far)
        else:
            with pytest.raises(PromotionVetoed, match="may wait for it"):
                waited_for({"main": main, "far": far})


# ----------------------------------------------------------------------------------------------------------- a person's word


@pytest.mark.parametrize("burnt", ["main", "far"])
def test_p8_a_word_for_the_loss_of_one_store_loses_nothing_of_the_other(
    both: Both, burnt: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It was the first until it burnt, and nobody writes its record any longer."""
    both.worlds[burnt].store.down = True
    (lives,) = both.worlds.keys() - {burnt}
    has = both.worlds[lives].last(AHEAD if lives == "far" else BEHIND)
    for world in both.worlds.values():
        world.record()
    assert both.run() == command.VETOED
    assert both.closed == ["main", "far"]
    both.standby.replayed = both.main.last(BEHIND) - 1
    both.standby.comes = [both.standby.replayed] * 100 + [has]
    both.word.give()
    assert both.run() == command.GOES_ON
    assert both.standby.replayed == has
    assert "pre_promote_with_loss" in caplog.text
    assert not both.word.given()


def test_p8_sessions_of_all_stores_are_ended_before_one_lease_is_waited_for(both: Both) -> None:
    both.main.record()
    both.far.record()
    both.standby.replayed = both.far.last(AHEAD)
    seen: list[list[str]] = []
    both.main.time.after(1, lambda: seen.append(both.closed))
    assert both.run() == command.GOES_ON
    assert seen == [["main", "far"]]
    assert both.main.time.now < 1000 + 2 * LEASE_OVER


def test_a_word_tries_all_that_can_be_tried_of_a_record_that_cannot_be_read(both: Both) -> None:
    """It may be the one that commits wait for; its lease is waited for, and what its store has is replayed."""
    both.main.record()
    both.records["far"].fails = [SILENT] * 1000
    both.standby.comes = [both.standby.replayed] * 20 + [both.far.last(AHEAD)]
    both.word.give()
    assert both.run() == command.GOES_ON
    assert both.closed == ["main"]
    assert both.standby.replayed == both.far.last(AHEAD)
    both.word.give()
    both.main.dcs.set_leader("c")
    assert both.run() == command.VETOED
    assert both.word.given()


def test_an_owner_that_comes_back_while_another_store_is_given_up_is_ended_again(both: Both) -> None:
    both.main.record()
    both.far.record()
    both.main.store.down = True
    both.standby.replayed = both.far.last(AHEAD)

    def comes_back() -> None:
        both.far.record(session="e" * 32)

    both.main.time.after(30, comes_back)
    both.word.give()
    assert both.run() == command.GOES_ON
    assert both.closed == ["main", "far"]
    assert both.far.now.session.startswith("e" * 12)


@pytest.mark.parametrize(
    ("in_recovery", "durability", "said", "refused"),
    [
        (True, "store", "store", ""),
        (True, "local", "store", ""),  # the configuration here may be old
        (True, "local", "", "no commit of this cluster waits"),
        (None, "local", "", ""),  # a server that is starting up, whose settings may have commits wait
        (False, "store", "store", "the server of b is a primary"),
        (None, "store", "", ""),
    ],
)
def test_a_word_that_no_promotion_here_can_need_is_refused(
    both: Both, monkeypatch: pytest.MonkeyPatch, in_recovery: bool | None, durability: str, said: str, refused: str
) -> None:
    def state() -> SimpleNamespace:
        if in_recovery is None:
            raise starting
        return SimpleNamespace(in_recovery=in_recovery)

    starting = PostgresError("the database system is starting up")
    both.standby.problem = starting if in_recovery is None else None
    monkeypatch.setattr(command, "Server", lambda *_: SimpleNamespace(state=state, close=lambda: None))
    both.main.record(durability=said)
    both.far.record(durability=said)
    config = both.config(durability)
    with pytest.raises(ConfigError, match=refused) if refused else nullcontext():
        command.main(config, lose=True, stalled=60)
    assert Word(config.spool_directory).given() == (not refused)


def test_a_word_is_taken_where_only_the_servers_settings_have_commits_wait(
    both: Both, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "_is_primary", lambda _: False)
    config = both.config("local")
    with pytest.raises(ConfigError, match="no commit of this cluster waits"):
        command.main(config, lose=True, stalled=60)
    both.standby.waits_for, both.standby.replayed = standby_name(SYSTEM), FIRST * MIB
    assert both.run(config) == command.VETOED
    command.main(config, lose=True, stalled=60)
    assert command.run(config, Word(config.spool_directory), 60) == command.GOES_ON


def test_a_dcs_that_says_nothing_refuses_no_word(both: Both) -> None:
    both.main.record(durability="")
    both.far.record(durability="")
    both.records["far"].fails = [SILENT] * ATTEMPTS
    config = both.config("local")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "_is_primary", lambda _: False)
        assert command.main(config, lose=True, stalled=60) == command.GOES_ON
    assert Word(config.spool_directory).given()
