"""Look at everything, each part behind a time limit of its own: what hangs is Unknown, and the rest is seen all the same."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Final, TypeVar

from walkeeper import __version__
from walkeeper.archive.codec import open_codec
from walkeeper.config import Config
from walkeeper.core.record import Record
from walkeeper.dcs.base import RECORD, RecordStore, Room, Topology, Versioned
from walkeeper.dcs.claim import decoded
from walkeeper.dcs.patroni import PatroniRecord, connect
from walkeeper.doctor import here
from walkeeper.doctor.facts import AgentFacts, Facts, MemberFacts, PatroniFacts, SpoolFacts, StoreFacts, Unknown
from walkeeper.doctor.servers import look_at_members
from walkeeper.errors import CasConflict, ConfigError, StoreUnavailable, WalkeeperError
from walkeeper.lib import clock
from walkeeper.lib.deadline import DeadlineExceeded, within
from walkeeper.postgres.pg_receivewal import find_program

DCS_SECONDS: Final = 5.0
STORE_SECONDS: Final = 20.0
FILE_SECONDS: Final = 5.0

_T = TypeVar("_T")


def gather(config: Config) -> Facts:
    """Reads only, but for the store's probe: one object under ``probe/``, which is removed again."""
    problem, topology, found, cas = _look_at_dcs(config)
    record, record_problem = _decoded(found)
    others = [_OtherStore(each, problem) for each in config.of_each_store[1:]]
    servers_uid = _looked_at("the data directory", lambda: here.owner_of_data(config))
    with ThreadPoolExecutor(3 + len(others)) as pool:
        members = pool.submit(look_at_members, config, topology)
        store = pool.submit(_store, config, record)
        stores = [pool.submit(_store, each.config, each.record) for each in others]
        files = pool.submit(_files, config, topology)
        patroni, spool, backup = files.result()
        agent, absent = here.look_at_agent(config, as_its_user=servers_uid == os.geteuid())
        codec = _problem_of(lambda: open_codec(config))
        room: Room | Unknown | None = Unknown(f"the DCS was not seen: {problem}")
        if problem is None:
            room = _looked_at("the DCS", lambda: _room(config))
        looked_at = members.result()
        if isinstance(record, Record):
            record = _read_again(config) or record  # slots follow the record, and were looked at after it
        facts = Facts(
            config=config,
            program=program(),
            restore_program=restore_program(),
            version=__version__,
            uid=os.geteuid(),
            servers_uid=servers_uid,
            dcs_problem=problem,
            topology=topology,
            record=record,
            record_problem=record_problem,
            record_age=_age(record, looked_at),
            compare_and_set=cas,
            dcs_room=room,
            patroni=patroni,
            members=looked_at,
            store=store.result(),
            spool=spool,
            agent=agent,
            agent_absent=absent,
            receiver_problem=_receiver_problem(config, looked_at),
            codec_problem=codec,
            base_backup=backup,
            expire_keep=_looked_at("the configuration for expire", lambda: here.expire_keep(config)),
            backup_every=here.backup_every(config),
            verify_room=_looked_at("backup.verify_directory", lambda: here.verify_room(config)),
        )
        beside = (each.facts(facts, its.result()) for each, its in zip(others, stores, strict=True))
        return replace(facts, other_stores=tuple(beside))


class _OtherStore:
    """One of several, beside the first."""

    def __init__(self, config: Config, problem: WalkeeperError | None) -> None:
        """``problem``: why the DCS cannot be asked, where that is known."""
        self.config = config
        _, _, found, self._cas = _no_dcs(problem) if problem is not None else _look_at_dcs(config)
        self.record, self._record_problem = _decoded(found)

    def facts(self, first: Facts, store: StoreFacts | Unknown) -> Facts:
        record = _read_again(self.config) or self.record if isinstance(self.record, Record) else self.record
        name, agent = self.config.store_name, first.agent
        if not isinstance(agent, Unknown):
            reported = {each["name"]: each["troubles"] for each in agent.report.get("stores", ())}
            agent = AgentFacts(report={**agent.report, "troubles": reported.get(name, [])})
        return replace(
            first,
            config=self.config,
            store=store,
            record=record,
            record_problem=self._record_problem,
            record_age=_age(record, first.members),
            compare_and_set=self._cas,
            agent=agent,
            for_store=("--store", name),
        )


def program() -> str:
    """How walkeeper is called here, for a shell: as Patroni and PostgreSQL will call it, so by its whole path."""
    beside = Path(sys.executable).with_name("walkeeper")
    if beside.exists():
        return shlex.quote(str(beside))
    found = shutil.which("walkeeper")
    return shlex.quote(found) if found else f"{shlex.quote(sys.executable)} -m walkeeper"


def restore_program() -> str:
    """The script in place of ``walkeeper restore-wal``; empty where it is not there."""
    beside = Path(sys.executable).with_name("walkeeper-restore-wal")
    return str(beside) if beside.exists() else shutil.which("walkeeper-restore-wal") or ""


# --- the DCS --------------------------------------------------------------------------------------------------------


_Dcs = tuple[WalkeeperError | None, Topology | Unknown, Versioned | Unknown | None, str | Unknown]


def _look_at_dcs(config: Config) -> _Dcs:
    """What went wrong, the topology, the record as it is written, and what came of the compare-and-set."""
    try:
        with closing(_connected(config)) as records:
            topology = records.topology()
            found = records.read()
            return None, topology, found, _compare_and_set(records, found)
    except WalkeeperError as problem:
        return _no_dcs(problem)


def _connected(config: Config) -> RecordStore:
    seconds = min(DCS_SECONDS, config.agent.dcs_timeout)
    return connect(config.patroni_config, config.node.name, seconds, config.key(RECORD))


def _read_again(config: Config) -> Record | None:
    try:
        with closing(_connected(config)) as records:
            return decoded(records.read()).record
    except WalkeeperError:
        return None


def _room(config: Config) -> Room | None:
    with closing(_connected(config)) as records:
        return records.room() if isinstance(records, PatroniRecord) else None


def _no_dcs(problem: WalkeeperError) -> _Dcs:
    unknown = Unknown(f"the DCS was not seen: {problem}")
    return problem, unknown, unknown, unknown


def _compare_and_set(records: RecordStore, found: Versioned | None) -> str | Unknown:
    """Creates the record although it is there, which must be refused: nothing changes, and rights are needed for it."""
    if found is None:
        return Unknown("there is no record yet")
    try:
        records.write(found.document, None)
    except CasConflict:
        return ""
    except WalkeeperError as problem:
        return f"{problem}"
    if records.read() == found:
        return Unknown("the record went away and came back while it was tried")
    return "the DCS replaced the record although it was there"


def _decoded(found: Versioned | Unknown | None) -> tuple[Record | Unknown | None, str]:
    if found is None or isinstance(found, Unknown):
        return found, ""
    claim = decoded(found)
    return claim.record, claim.why


def _age(record: Record | Unknown | None, members: tuple[MemberFacts, ...]) -> float | None:
    """Seconds since the frontier moved, by its owner's clock; a record of 0.1.0 says only when it was written."""
    if record is None or isinstance(record, Unknown):
        return None
    servers = (each.server for each in members if each.name == record.owner)
    ahead = next((server.clock_ahead for server in servers if not isinstance(server, Unknown)), 0.0)
    return clock.seconds_since(record.moved_at or record.updated_at, ahead)


# --- store, files, programs -----------------------------------------------------------------------------------------


def _store(config: Config, record: Record | Unknown | None) -> StoreFacts | Unknown:
    from walkeeper.store.open import open_store  # noqa: PLC0415

    try:
        return within("store", lambda: here.look_at_store(config, record), STORE_SECONDS)
    except DeadlineExceeded:
        silent = StoreUnavailable(f"the store gave no answer within {STORE_SECONDS:g} s")
        facts = StoreFacts(url=open_store(config.store).url, problem=silent, clock_ahead=Unknown(str(silent)))
        return here.unseen(facts, str(silent))
    except WalkeeperError as problem:
        return here.unseen(StoreFacts(url="", problem=problem, clock_ahead=Unknown(str(problem))), str(problem))


def _files(
    config: Config, topology: Topology | Unknown
) -> tuple[PatroniFacts | Unknown, SpoolFacts | Unknown, str | Unknown]:
    return (
        _looked_at("Patroni's configuration", lambda: here.look_at_patroni(config, topology)),
        _looked_at("the spool", lambda: here.look_at_spool(config)),
        _looked_at("pg_wal", lambda: here.newest_backup_label(config)),
    )


def _looked_at(what: str, look: Callable[[], _T | Unknown]) -> _T | Unknown:
    """The result; Unknown where it takes too long or cannot be had."""
    try:
        return within(what, look, FILE_SECONDS)
    except (DeadlineExceeded, WalkeeperError) as problem:
        return Unknown(str(problem))
    except OSError as problem:
        return Unknown(f"{problem.filename or what}: {problem.strerror}")


def _receiver_problem(config: Config, members: tuple[MemberFacts, ...]) -> WalkeeperError | None:
    majors = [member.server.state.major for member in members if not isinstance(member.server, Unknown)]
    return _problem_of(lambda: find_program(config.bin_dir, max(majors, default=0)))


def _problem_of(work: Callable[[], object]) -> WalkeeperError | None:
    try:
        work()
    except ConfigError as problem:
        return problem
    return None
