"""``walkeeper pre-promote``: Patroni's ``postgresql.pre_promote``. Exit 0 lets the promotion go on, anything else vetoes it."""

from __future__ import annotations

from contextlib import ExitStack, closing, suppress
from functools import partial
from typing import Final

from walkeeper.archive.open import open_archives
from walkeeper.config import Config
from walkeeper.core.synchronous import named, standby_name
from walkeeper.dcs.base import RECORD, RecordStore
from walkeeper.dcs.patroni import connect
from walkeeper.errors import ConfigError, NotLeader, PromotionVetoed, WalkeeperError
from walkeeper.lib import events
from walkeeper.lib.clock import SystemClock
from walkeeper.lib.terminal import tell
from walkeeper.postgres.server import Server, ServerState
from walkeeper.promote.before import Before, Candidate
from walkeeper.promote.lose import GOOD_FOR, Word
from walkeeper.promote.standby import Standby
from walkeeper.promote.stored import Stored
from walkeeper.promote.waited import ask, none_wait

GOES_ON: Final = 0
VETOED: Final = 1


def main(config: Config, *, lose: bool, stalled: float) -> int:
    """``stalled``: seconds without progress after which the promotion is vetoed."""
    word = Word(config.spool_directory)
    if lose:
        _refuse_for_nothing(config)
        word.give()
        tell(
            f"For {GOOD_FOR / 60:g} minutes the next promotion of {config.name} may lose commits that were acknowledged and "
            "cannot be had.\n"
            "Patroni tries again by itself when a ttl is over since the veto. Where it does not (a pause, or more lag than "
            f"maximum_lag_on_failover): patronictl -c {config.patroni_config} failover {config.scope} "
            f"--candidate {config.name} --force"
        )
        return GOES_ON
    events.to_stderr()
    return run(config, word, stalled)


def _refuse_for_nothing(config: Config) -> None:
    """A word that no promotion here can need would lie ready for another. Where that is not known it is taken: it is a last
    resort. Raises ConfigError.
    """
    if _is_primary(config):
        raise ConfigError(
            f"pre-promote --lose: the server of {config.name} is a primary",
            hint="Run it on the member that is to be promoted.",
        )
    if config.durability == "local" and _none_waits(config) and _server_waits(config) is False:
        raise ConfigError(
            "pre-promote --lose: no commit of this cluster waits for a store, so that no promotion is vetoed",
            hint="Is it this cluster's configuration? Why nobody is promoted, Patroni's own log says.",
        )


def _is_primary(config: Config) -> bool:
    try:
        server = Server(config.postgresql, config.agent.dcs_timeout)
        with closing(server):
            return not server.state().in_recovery
    except WalkeeperError:
        return False


def _none_waits(config: Config) -> bool:
    with ExitStack() as stack, suppress(WalkeeperError):
        records = {each.store_name: _connected(each, stack) for each in config.of_each_store}
        return none_wait(records)
    return False


def _server_waits(config: Config) -> bool | None:
    """Whether by its settings, which Patroni gives to all members, commits wait for a store of its cluster. None: it did not
    answer, which hinders neither a promotion where no commit waits nor a person's word.
    """
    try:
        with closing(Server(config.postgresql, config.agent.dcs_timeout)) as server:
            standby = Standby(server, config.data_dir)
            return standby_name(standby.state().system_identifier) in named(standby.look().waits_for)
    except WalkeeperError as problem:
        events.warning("pre_promote_without_settings", error=problem)
        return None


def run(config: Config, word: Word, stalled: float) -> int:
    """A person's word lets everything pass but a promotion without the leader key."""
    try:
        why = _before(config, stalled, lose=word.given())
    except WalkeeperError as problem:
        if not isinstance(problem, NotLeader) and word.take():
            events.error(
                "pre_promote_with_loss",
                error=problem,
                hint="It was said that this loss is accepted. Commits that were acknowledged may be missing. Take a base backup.",
            )
            return GOES_ON
        events.failure("pre_promote_vetoed", problem)
        if not isinstance(problem, NotLeader):
            events.info(
                "pre_promote_again",
                hint="Patroni asks again after a ttl, if no other member can be promoted. walkeeper pre-promote --lose on this "
                "member lets the next promotion lose what cannot be had.",
            )
        return VETOED
    word.take()  # it was for this promotion, which does not need it
    events.info("pre_promote_passes", why=why)
    return GOES_ON


def _before(config: Config, stalled: float, *, lose: bool) -> str:
    with ExitStack() as stack:
        archives = {each.store_name: each for each in config.of_each_store}
        records = {name: _connected(each, stack) for name, each in archives.items()}
        unsaid: PromotionVetoed | None = None
        try:
            waited = ask(records, config.durability, SystemClock(), partial(_server_waits, config))
        except PromotionVetoed as problem:
            if not lose:
                raise
            waited, unsaid = tuple(records), problem
        if not waited:
            return "commits do not wait for the store"
        server = Server(config.postgresql, config.agent.dcs_timeout)
        stack.callback(server.close)
        standby = Standby(server, config.data_dir)
        stores = [
            Candidate(config.name, records[name], standby, partial(_stored, archives[name]), SystemClock(), stalled)
            for name in waited
        ]
        why = Before(*stores, lose=lose).run()
        if unsaid is not None:
            raise unsaid
        return why


def _connected(config: Config, stack: ExitStack) -> RecordStore:
    found = connect(config.patroni_config, config.name, config.agent.dcs_timeout, config.key(RECORD))
    stack.callback(found.close)
    return found


def _stored(config: Config, state: ServerState) -> Stored:
    return Stored(open_archives(config, to_read=True), state.system_identifier, state.segment_size)
