"""The story up to the end of the load: a cluster, a slow store, a dead primary, a switchover."""

from __future__ import annotations

import subprocess
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from examples.demo.load import Ballast, Gauge
from examples.demo.screen import Mood, Screen
from examples.demo.stage import SEGMENT_MB, SEGMENT_SIZE, Stage, event, lose_disk, spooled, to_do, walkeeper_command
from tests.parts.cluster import HOLD_SLOT, Node
from tests.parts.ledger import Ledger
from tests.parts.processes import wait_until
from walkeeper.core.history import History, parse_history
from walkeeper.core.lsn import Lsn
from walkeeper.core.names import Segment
from walkeeper.core.record import Record

WAIT_SECONDS: Final = 90.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of it. Rates in MiB of WAL a second, times in seconds."""

    before: float = 4.0
    rate: float = 1.0
    storm: float = 8.0
    delay: float = 1.0
    """How long the slow store takes for an object."""
    backlog: int = 10
    """Complete segments that are to be nowhere but on the primary just before it is killed. Some may still get through."""
    after: float = 1.0


SHORT: Final = Plan(before=0.5, rate=0.5, storm=6.0, backlog=8, after=0.5)


@dataclass(frozen=True, slots=True)
class Death:
    """What was there when the primary died."""

    node: Node
    at: float
    """By the monotonic clock."""
    record: Record
    archived: set[Segment]
    spooled: list[Segment]
    """Complete segments that only its spool had."""

    to_do: list[Segment]
    """Complete segments that its archive_command had not archived yet."""

    @property
    def first_number(self) -> int:
        """Of the archive's first segment."""
        return Segment.parse(self.record.start, self.record.size).number


class Story:
    """Told once, by ``tell``. ``checks`` are the things that it promised to show, and whether they were so."""

    def __init__(self, stage: Stage, screen: Screen, plan: Plan) -> None:
        self.stage = stage
        self.cluster = stage.cluster
        self.screen = screen
        self.plan = plan
        self.checks: list[tuple[bool, str]] = []
        self.backup = stage.directory / "backup"
        self.ledger = Ledger.light(self.cluster.conninfo())
        self.ballast = Ballast(self.cluster.conninfo())
        self.gauge = Gauge(stage, self.ledger)

    def tell(self) -> None:
        """Everything up to the last frontier. The cluster is still up afterwards."""
        self._start_cluster()
        with ExitStack() as running:
            running.enter_context(self.ledger)
            running.enter_context(self.ballast)
            running.enter_context(self.gauge)
            running.enter_context(self.screen.showing(lambda: str(self.gauge.now)))
            self._back_up()
            primary = self._slow_down()
            death = self._kill(primary)
            heir = self._succeed(death)
            self._look_around(heir)
            self._recover(death)
            self._switch_over(death.node)
            self._end_load()

    def check(self, good: bool, text: str) -> None:
        """One of the things that the verdict rests on."""
        self.checks.append((good, text))

    # ------------------------------------------------------------------------------------------------------------ acts

    def _start_cluster(self) -> None:
        screen, stage = self.screen, self.stage
        screen.shorter = stage.shorter()
        screen.title(
            "A primary is killed while its WAL archive is behind. Then everything else is killed too, and a new server is "
            "made from a base backup and the archive alone. All servers are real. It takes under a minute; Ctrl-C ends it at "
            "any time and leaves nothing behind."
        )
        screen.act("A Patroni cluster of three, with walkeeper")
        with screen.showing(lambda: "starting etcd and three Patroni nodes"):
            stage.shown.start()
            self.cluster.start()
            leader, node = self.cluster.wait_leader(), self.cluster.nodes[0]
            wait_until(
                lambda: all(map(_has_hold_slot, self.cluster.nodes)), "the hold slot on every node", WAIT_SECONDS
            )
            screen.say(f"{stage.versions()}. Everything lies in {stage.directory}, shown below as $DEMO.", whole=True)
            screen.say(
                f"{leader.name} leads, {_names(self.cluster.replicas())} stream from it. Segments of "
                f"{SEGMENT_MB} MB, asynchronous replication. For walkeeper, {node.name}'s patroni.yml says:"
            )
            screen.block(stage.wiring())
            record = wait_until(stage.record, "walkeeper's record in etcd", WAIT_SECONDS)
        screen.say(
            f"The callback on_start has started an agent on each node. {record.owner}'s owns the record: the archive "
            f"begins with {record.start}, the frontier is {record.lsn}."
        )
        screen.say("Next to it, for comparison, the ordinary way, with an archive of its own: archive_mode = on and")
        screen.block(f"archive_command = '{stage.archive_command}'")

    def _back_up(self) -> None:
        screen = self.screen
        screen.act("Load, and a base backup")
        self.ballast.rate = self.plan.rate
        self.ledger.wait_for(20)
        screen.say("Rows are inserted from now on; each one that the server acknowledged is noted.")
        begun = time.monotonic()
        self.cluster.wait_leader().base_backup(self.backup)
        screen.say(f"For the ordinary archive pg_basebackup -X none, in {time.monotonic() - begun:.1f} s.")
        begun = time.monotonic()
        leader = self.cluster.wait_leader()
        leader.host.run([*walkeeper_command().split(), "backup", "-c", leader.config], env=leader.env)
        screen.say(
            f"walkeeper backup, into its store: {time.monotonic() - begun:.1f} s. What comes later is for the archives."
        )
        time.sleep(self.plan.before)
        screen.say(f"All is well: {self.gauge.now}.")

    def _slow_down(self) -> Node:
        screen, plan = self.screen, self.plan
        screen.act("The store becomes slow, the load heavy")
        self.stage.slow(plan.delay)
        self.ballast.rate = plan.storm
        screen.say(
            f"Each segment takes {plan.delay:g} s longer in both archives, and the load asks for {plan.storm:g} MiB of WAL "
            f"a second. How the store is made slow: {self.stage.shown.how_slow}."
        )
        primary = self.cluster.wait_leader()

        def behind() -> bool:
            archived = {segment.name for segment in self.stage.archived()}
            return min(len(spooled(primary) - archived), len(to_do(primary))) >= plan.backlog

        wait_until(behind, f"{plan.backlog} segments that are not archived", WAIT_SECONDS, interval=0.1)
        screen.say(f"Both fall behind: {self.gauge.now}.", "alarm")
        return primary

    def _kill(self, primary: Node) -> Death:
        screen, stage = self.screen, self.stage
        screen.act(f"kill -9: everything on {primary.name}, and its disk")
        kinds = Counter(_command(pid) for pid in primary.host.pids())
        killed = self.cluster.kill_host(primary)
        died = time.monotonic()
        record = stage.record()
        assert record is not None
        archived = stage.archived()
        names = {segment.name for segment in archived}
        segments = [Segment.parse(name, record.size) for name in sorted(spooled(primary) - names)]
        unsent = [Segment.parse(name, record.size) for name in to_do(primary)]
        lose_disk(primary)
        screen.say(
            f"{len(killed)} processes died at once: {kinds['postgres']} of PostgreSQL's, {kinds['pg_receivewal']} "
            f"pg_receivewal, Patroni, walkeeper's agent. Data directory and spool are removed.",
            "bad",
        )
        screen.also(
            f"The frontier stands at {record.lsn} on timeline {record.timeline}. {len(segments)} complete segments that were "
            f"received, but not in the store yet, died in the spool."
        )
        screen.also(
            f"archive_command had {len(unsent)} complete segments still to do, {_span(unsent)}. They died with "
            f"{primary.name}, and its replicas, which have them, take them for archived."
        )
        return Death(primary, died, record, archived, segments, unsent)

    def _succeed(self, death: Death) -> Node:
        screen = self.screen
        screen.act("Patroni promotes, walkeeper takes over")
        self.ballast.rate = self.plan.storm / 2
        self.cluster.expire_leader()
        screen.say("The dead leader's lease is revoked, so that nobody waits for the ttl of 20 s.")
        heir, promoted, owned = self._await_heir(death)
        line, facts = wait_until(lambda: event(heir, "takeover"), f"{heir.name}'s takeover", WAIT_SECONDS)
        history = _history(heir, int(facts["timeline"]))
        screen.say(
            f"{heir.name} is the primary, on timeline {history.timeline}, {promoted - death.at:.1f} s after the kill. "
            f"Timeline {history.switches[-1].timeline} ended at {history.switches[-1].lsn}.",
            "good",
        )
        screen.say(
            f"{heir.name}'s agent owns the record {max(0.0, owned - promoted):.1f} s after the end of recovery. It says:"
        )
        screen.block(line)
        self._compare_start(death, heir, history, Lsn.parse(facts["frontier"]))
        done = [s for s in death.to_do if (heir.data / "pg_wal/archive_status" / f"{s.name}.done").exists()]
        screen.also(
            f"The ordinary archiver of {heir.name} looks at its own list: {len(done)} of the {len(death.to_do)} are marked "
            f".done there. It will never send them."
        )
        return heir

    def _await_heir(self, death: Death) -> tuple[Node, float, float]:
        """The next leader; when it took writes, and when its agent owned the record."""
        promoted = owned = 0.0
        heir: Node | None = None
        deadline = time.monotonic() + WAIT_SECONDS
        while not (promoted and owned):
            if not promoted:
                heir = self.cluster.leader()
                if heir and heir is not death.node and heir.writable():
                    promoted = time.monotonic()
            record = self.stage.record()
            if record and record.session != death.record.session:
                owned = owned or time.monotonic()
            if time.monotonic() > deadline:
                raise TimeoutError("no new leader that archives")
            time.sleep(0.01)
        assert heir is not None
        return heir, promoted, owned

    def _compare_start(self, death: Death, heir: Node, history: History, start: Lsn) -> None:
        """The new archiver must begin with the first segment that the store lacks, and leave none behind."""
        sources = ("backlog_from_pg_wal", "receiver_started")
        _, begun = wait_until(lambda: event(heir, *sources, after="takeover"), "the new archiver", WAIT_SECONDS)
        first = history.segment_at(start, death.record.size)
        _, sent = wait_until(lambda: event(heir, "archived", after="takeover"), "the first upload", WAIT_SECONDS)
        stored = self.stage.archived()
        behind = [history.segment(number, first.size) for number in range(death.first_number, first.number)]
        whole = all(segment in stored for segment in behind)
        lacked = begun["first"] == first.name and "was_present" not in sent
        fork = history.switches[-1].lsn
        text = f"It goes on with {begun['first']}: the store has all before it, and lacked this one."
        ahead = (start - death.record.position) // first.size
        if ahead > 0:
            text += f" ({ahead} that were on their way to the store when their sender died had still arrived.)"
        self.screen.also(
            text if whole and lacked else f"WRONG: it goes on with {begun['first']}.", _mood(whole and lacked)
        )
        self.screen.also(
            f"A receiver that starts at now would have started at {fork}, {(fork - start) // first.size} segments later."
        )
        self.check(whole and lacked, "the new archiver went on exactly where the dead one's archive ended")

    def _look_around(self, heir: Node) -> None:
        screen = self.screen
        time.sleep(self.plan.after)
        screen.say(f"walkeeper status, on {heir.name}, with the store still slow:")
        command = [*walkeeper_command().split(), "status", "-c", str(heir.config)]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=60, env=heir.host.environment(heir.env)
        )
        screen.block(done.stdout + done.stderr, "plain")

    def _recover(self, death: Death) -> None:
        screen, stage = self.screen, self.stage
        screen.act("The store recovers")
        self.ballast.rate = 0  # a clone reads the archive up to its end before it streams
        stage.slow(0)
        begun = time.monotonic()
        screen.say(f"The store is fast again. {death.node.name} comes back as an empty machine; Patroni clones it.")
        self.cluster.start_node(death.node)
        record = stage.record()
        assert record is not None
        history = _history(self.cluster.wait_leader(), record.timeline)
        mine = {segment for segment in death.spooled if history.contains(segment)}
        wait_until(lambda: mine <= stage.archived(), "the segments that died in the spool", WAIT_SECONDS, interval=0.2)
        wait_until(self._caught_up, "the archive to catch up", WAIT_SECONDS, interval=0.1)
        screen.say(f"Caught up after {time.monotonic() - begun:.1f} s: {self.gauge.now}.", "good")
        screen.also(
            f"All {len(mine)} segments that died in {death.node.name}'s spool are in the archive: the new primary had them in "
            f"pg_wal, because the slot {HOLD_SLOT} moves only after the store has confirmed."
        )
        beyond = len(death.spooled) - len(mine)
        if beyond:
            screen.also(f"({beyond} more lay beyond the fork: WAL of the dead primary that no replica had received.)")

    def _switch_over(self, returned: Node) -> None:
        screen = self.screen
        screen.act("A planned switchover")
        self.cluster.wait_ready(3)
        old = self.cluster.wait_leader()
        target = next(node for node in self.cluster.nodes if node not in (old, returned))
        before = self.stage.record()
        assert before is not None
        self.ballast.rate = self.plan.rate
        screen.say(f"{_names(self.cluster.nodes)} are up. Switchover from {old.name} to {target.name}.")
        begun = time.monotonic()
        new = self.cluster.switchover(target)
        seconds = time.monotonic() - begun
        record = wait_until(self._owned_by(new), f"{new.name} to own the record", WAIT_SECONDS)
        owned = time.monotonic() - begun
        _, facts = wait_until(lambda: event(new, "takeover"), "its log", WAIT_SECONDS)
        screen.say(
            f"{new.name} takes writes on timeline {record.timeline} after {seconds:.1f} s, and owns the record after "
            f"{owned:.1f} s. Frontier before: {facts['previous_frontier']}; it goes on at {facts['frontier']}.",
            "good",
        )
        self.ledger.wait_for(50)
        time.sleep(self.plan.after)

    def _end_load(self) -> None:
        screen = self.screen
        screen.act("The end of the load")
        self.ballast.rate = 0
        self.ledger.stop()
        leader = self.cluster.wait_leader()
        record = self.stage.record()
        assert record is not None
        rows = self.ledger.rows()
        below = self.ledger.covered(_history(leader, record.timeline), record.position)
        screen.say(
            f"{len(rows):,} rows were acknowledged. {len(below):,} of them lie below the frontier {record.lsn}, which "
            f"follows the tail of the open segment about a second behind."
        )
        leader.execute("SELECT pg_logical_emit_message(true, 'demo', 'the end')")
        end, last = leader.execute("SELECT lsn::text, pg_walfile_name(lsn) FROM pg_switch_wal() AS lsn")[0]
        wait_until(self._passed(Lsn.parse(end)), "the last segment in the archive", WAIT_SECONDS, interval=0.1)
        with suppress(TimeoutError):  # it is for comparison only, and need not be whole
            wait_until(lambda: last in self.stage.ordinarily_archived(), "the ordinary archive", 20)
        screen.say(f"pg_switch_wal() has closed it, {last}, and both archives have it.")

    # --------------------------------------------------------------------------------------------------------- waiting

    def _caught_up(self) -> bool:
        behind = self.gauge.now.behind
        leader = self.cluster.leader()
        return behind is not None and behind < 2 * SEGMENT_SIZE and leader is not None and not to_do(leader)

    def _owned_by(self, node: Node) -> Callable[[], Record | None]:
        def owned() -> Record | None:
            record = self.stage.record()
            return record if record and record.owner == node.name else None

        return owned

    def _passed(self, lsn: Lsn) -> Callable[[], bool]:
        def passed() -> bool:
            record = self.stage.record()
            return record is not None and record.position >= lsn

        return passed


def _has_hold_slot(node: Node) -> bool:
    return bool(node.value("SELECT count(*) FROM pg_replication_slots WHERE slot_name = %s", [HOLD_SLOT]))


def _history(node: Node, timeline: int) -> History:
    """As the node's pg_wal has it."""
    if timeline == 1:
        return History(1)
    return parse_history(timeline, (node.data / "pg_wal" / f"{timeline:08X}.history").read_bytes())


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _names(nodes: list[Node]) -> str:
    *most, last = [node.name for node in nodes]
    return f"{', '.join(most)} and {last}" if most else last


def _span(segments: list[Segment]) -> str:
    return f"{segments[0]} to {segments[-1]}" if segments else "none"


def _mood(good: bool) -> Mood:
    return "good" if good else "bad"
