"""A small simulated archive with backups, restores, retention and kills, on a scripted clock: thousands of schedules in seconds.

The code under test is walkeeper's own from the decision down to the store; takers and restores are models of what it meets.
What is promised is looked at by brute force, one segment after the other, in what the store holds.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from random import Random

from tests.core.values import a_backup, history_text
from tests.fixtures.backed_up import put_document, put_piece
from tests.twins.memory_store import MemoryStore
from walkeeper.archive.backups import Backups, order_of
from walkeeper.archive.codec import Codec
from walkeeper.archive.expiry import let_go, note_floor, read_expiry, write_pin, write_retained
from walkeeper.archive.open import Archives
from walkeeper.archive.restorable import Restorable, look
from walkeeper.core.backup import Backup, BackupId, Place, Tombstone, WalRange, decode
from walkeeper.core.floor import Floor, Pin, Retained, given_up, moment, written
from walkeeper.core.floor import decode as decode_floor
from walkeeper.core.history import History, Switch
from walkeeper.core.lsn import MIB, Lsn, SegmentSize
from walkeeper.core.names import Segment
from walkeeper.core.record import Record
from walkeeper.core.retention import Policy
from walkeeper.core.windows import Choice, choose
from walkeeper.errors import StoreUnavailable, Unsafe
from walkeeper.expire.run import Ran, Runner

SIZE = SegmentSize(MIB)
SYSTEM = 7
PIECES = 2


@cache
def _decoded(body: bytes, id_: str) -> Backup | Tombstone:
    return decode(body, BackupId.parse(id_))


@cache
def _file(name: str) -> tuple[int, int]:
    segment = Segment.parse(name, SIZE)
    return segment.timeline, segment.number


class Broken(AssertionError):
    """A promise does not hold."""


@dataclass
class Run:
    """What one run of BASE_BACKUP really read: the WAL that a restore of its bytes needs."""

    start: Lsn
    stop: Lsn = Lsn(0)  # noqa: RUF009 - it never changes


@dataclass
class Taker:
    id: BackupId
    number: int
    start: Lsn
    pin: Pin
    pieces: list[str] = field(default_factory=list)
    timeline: int = 1
    stop: Lsn | None = None
    stop_timeline: int = 1
    parent: str = ""
    parent_pin: Pin | None = None


@dataclass
class Restore:
    backup: Backup
    pin: Pin
    wal: list[tuple[int, int]]
    """Files that it still has to read."""


class World:
    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.seed = seed
        self.store = MemoryStore(before=self._before)
        self.archives = Archives(self.store, "demo", None, Codec())
        self.layout = self.archives.layout(SYSTEM)
        self.backups = Backups(self.store, self.layout, Codec())
        self.now = datetime(2026, 11, 1, tzinfo=UTC)
        self.histories = {1: History(1)}
        self.kept = self.histories[1]
        self.frontier = 2
        self.reached: dict[int, datetime] = {2: self.now}
        """When the frontier first got to each number on the kept chain."""
        self.stored: set[tuple[int, int]] = set()
        """Files that were ever stored."""
        self.committed: dict[str, Backup] = {}
        self.runs: dict[int, Run] = {}
        self.takers: list[Taker] = []
        self.restores: list[Restore] = []
        self.retained: dict[str, datetime] = {}
        self.words: list[Retained] = []
        self.stale: list[Ran] = []
        self.policy = Policy(
            timedelta(hours=self.random.choice([6, 24])) if self.random.random() < 0.8 else None,
            self.random.choice([1, 2]),
        )
        self.kill_after: int | None = None
        self.expires = False
        self.log: list[str] = []
        self.pins = self.random.random() < 0.7
        self.store.objects[self.layout.start(Segment(1, 2, SIZE))] = (b'{"segment_size": 1048576}', {})

    # ------------------------------------------------------------------------------------------------- what happens

    def play(self, steps: int) -> None:
        acts: list[tuple[int, Callable[[], None]]] = [
            (9, self.archive), (4, self.wait), (1, self.fail_over), (6, self.begin_backup), (24, self.go_on_with_backup),
            (1, self.kill_taker), (1, self.begin_beside), (2, self.begin_restore), (4, self.go_on_with_restore),
            (10, self.expire), (1, self.expire_late), (1, self.retain), (1, self.revoke),
        ]  # fmt: skip
        weights = [weight for weight, _ in acts]
        for _ in range(steps):
            (act,) = self.random.choices([act for _, act in acts], weights)
            self.log.append(act.__name__)
            try:
                act()
            except StoreUnavailable:
                self.log.append("killed")
            self.kill_after = None
        self.check()

    def archive(self) -> None:
        for _ in range(self.random.randint(1, 4)):
            file = (self.kept.timeline_of(self.frontier, SIZE), self.frontier)
            segment = Segment(*file, SIZE)
            if self.random.random() < 0.04:
                self.store.objects[self.layout.gap(segment, segment.end)] = (b"{}", {})
            else:
                self.store.objects[self.layout.file(segment, ".zst")] = (b"w", {})
                self.stored.add(file)
            self.frontier += 1
            self.now += timedelta(minutes=self.random.randint(1, 90))
            self.reached.setdefault(self.frontier, self.now)

    def wait(self) -> None:
        self.now += timedelta(hours=self.random.choice([1, 2, 12]))

    def fail_over(self) -> None:
        begun = self.kept.switches[-1].lsn if self.kept.switches else Lsn(2 * MIB)
        at = Lsn(max(begun, (self.frontier - self.random.randint(0, 2)) * MIB - self.random.choice([0, MIB // 2])))
        timeline = max(self.histories) + 1
        self.kept = History(timeline, (*self.kept.switches, Switch(self.kept.timeline, at)))
        self.histories[timeline] = self.kept
        self.store.objects[f"{self.layout.histories}{timeline:08X}.history"] = (history_text(self.kept), {})
        self.frontier = at // MIB
        self.reached = {number: when for number, when in self.reached.items() if number <= self.frontier}
        self.reached.setdefault(self.frontier, self.now)

    def begin_backup(self) -> None:
        if len(self.takers) < 2:
            text = self.now.strftime("%Y%m%dT%H%M%SZ")
            self._begin(BackupId(text, self.kept.timeline, f"{self.random.randrange(1 << 32):08x}"))

    def _begin(self, id_: BackupId) -> None:
        number, start = len(self.runs), Lsn(self.frontier * MIB + 40)
        self.runs[number] = Run(start)
        pin = self._pin("backup", str(id_), self.kept.timeline, start)
        if self.pins:
            write_pin(self.store, self.layout, pin)
        taker = Taker(id_, number, start, pin, timeline=self.kept.timeline)
        self.takers.append(taker)
        if self.pins and self.random.random() < 0.5:
            self._build_on(taker)

    def _build_on(self, taker: Taker) -> None:
        """An incremental, where there is what it can build on."""
        found = self.look().windows
        older = [
            each for window in found.chains[found.kept.timeline] for each in window.backups if each.id < str(taker.id)
        ]
        if not older or older[-1].start.position > taker.start:
            return
        parent = older[-1]
        taker.parent = parent.id
        taker.parent_pin = self._pin("backup", parent.id, parent.wal[0].timeline, Lsn.parse(parent.wal[0].start))
        write_pin(self.store, self.layout, taker.parent_pin)

    def go_on_with_backup(self) -> None:
        if not self.takers:
            return
        taker = self.random.choice(self.takers)
        if len(taker.pieces) < PIECES:
            plain = f"run {taker.number} piece {len(taker.pieces)}".encode()
            taker.pieces.append(self.put_piece(taker, plain))
        elif taker.stop is None:
            taker.stop = self.runs[taker.number].stop = Lsn(max(self.frontier * MIB + 256, taker.start + 216))
            taker.stop_timeline = self.kept.timeline
        else:
            self.takers.remove(taker)
            self.commit(taker, taker.number, taker.stop)
            for pin in (taker.pin, taker.parent_pin):
                if pin is not None:
                    let_go(self.store, self.layout, pin.id)

    def put_piece(self, taker: Taker, plain: bytes) -> str:
        return put_piece(self.backups, taker.id, plain).sha256

    def commit(self, taker: Taker, index_of: int, stop: Lsn) -> None:
        wal = self._ranges(taker.start, stop)
        still = self.kept.has(taker.timeline, taker.start) and self.kept.has(taker.stop_timeline, Lsn(stop - 1))
        if wal is None or not still:
            return  # a failover took away what it read
        index = json.dumps([index_of, taker.pieces]).encode()
        sizes = [len(self._piece(taker.id, sha256) or b"") for sha256 in {*taker.pieces}]
        document = a_backup(
            taker.id,
            system_identifier=str(SYSTEM),
            start=Place(wal[0].timeline, str(taker.start), self.now.isoformat()),
            stop=Place(wal[-1].timeline, str(stop), self.now.isoformat()),
            wal=wal,
            kind="incremental" if taker.parent else "full",
            parent=taker.parent,
            index=put_document(self.backups, taker.id, "index", index).sha256,
            order=put_document(self.backups, taker.id, "order", order_of(taker.pieces, ".zst")).sha256,
            manifest=put_document(self.backups, taker.id, "manifest", index).sha256,
            pieces=len(sizes),
            packed_bytes=sum(sizes),
        )
        if self.backups.commit(document) == document:
            self.committed[document.id] = document

    def _piece(self, id_: BackupId, sha256: str) -> bytes | None:
        found = self.store.objects.get(self.layout.backup_piece(id_, sha256, ".zst"))
        return None if found is None else found[0]

    def kill_taker(self) -> None:
        if not self.takers:
            return
        taker = self.takers.pop(self.random.randrange(len(self.takers)))
        if self.random.random() < 0.5:
            self._begin(taker.id)  # the same id goes on, and reads everything again

    def begin_beside(self) -> None:
        """A second run of one id, while the first still goes on: harmless, and each commits what is its own."""
        if len(self.takers) == 1:
            self._begin(self.takers[0].id)

    def begin_restore(self) -> None:
        found = self.look()
        windows = [window for window in found.windows.shown if window.end > window.start]
        if not windows:
            return
        window = self.random.choice(windows)
        target = Lsn(self.random.randint(window.start, window.end))
        choice = choose(found.windows, target, timeline=window.timeline)
        if not isinstance(choice, Choice):
            raise Broken(f"{target} lies in a window, and no backup was chosen: {choice}")
        history, first = self.histories[window.timeline], Lsn.parse(choice.backup.wal[0].start)
        wal = [(history.timeline_of(number, SIZE), number) for number in range(first // MIB, -(-target // MIB))]
        pin = self._pin("restore", choice.backup.id, window.timeline, first)
        write_pin(self.store, self.layout, pin)
        self.restores.append(Restore(choice.backup, pin, wal))

    def go_on_with_restore(self) -> None:
        if not self.restores:
            return
        restore = self.random.choice(self.restores)
        if moment(restore.pin.until) < self.now:
            self.restores.remove(restore)  # it took longer than it said
            return
        for backup in self._chain(restore.backup):
            self._check_pieces(backup)
        for file in restore.wal[:2]:
            if file not in self.files():
                raise Broken(f"a restore that is pinned needs {Segment(*file, SIZE)}, and it is gone")
        restore.wal = restore.wal[2:]
        if not restore.wal:
            self.restores.remove(restore)
            let_go(self.store, self.layout, restore.pin.id)

    def expire(self) -> None:
        def run() -> None:
            found = self.runner().consider(self.now)
            if self.random.random() < 0.15:
                self.stale.append(found)
            self.runner().apply(found)

        self.kill_after = self.random.choice([None, None, self.random.randint(0, 12)])
        self.watched(run)

    def expire_late(self) -> None:
        """A runner that looked long ago goes on: its process stood still, for less than a floor's grace."""
        if self.stale:
            found = self.stale.pop()
            if self.now - found.looked.now <= timedelta(hours=1):
                self.watched(lambda: self.runner().apply(found), self.words_at(found))

    def words_at(self, found: Ran) -> set[str]:
        """Words that it did not know of: its floor goes over them, and stands for its grace, in which it can be revoked."""
        return {each.backup for each in self.words if moment(each.at) >= found.looked.now}

    def watched(self, run: Callable[[], object], unknown: Collection[str] = ()) -> None:
        """Whatever becomes of it, even killed: what is promised can be restored as before."""
        promised, fulls, held = self.promised(), self.fulls(), self.held() - {*unknown}
        self.expires = True
        try:
            run()
        except Unsafe:
            return
        finally:
            self.kill_after, self.expires = None, False
            if lost := promised - self.promised():
                raise Broken(f"{Lsn(min(lost) * MIB)} could be restored, and is promised, and is lost")
            if len(self.fulls()) < min(2, len(fulls)):
                raise Broken(f"of {len(fulls)} full backups {len(self.fulls())} are left")
            if lost_ids := held - self.held():
                raise Broken(f"{lost_ids} are retained, and can no longer be restored")
            self.check()

    def retain(self) -> None:
        complete = [backup.id for backup in self.look().windows.complete]
        if complete:
            id_ = self.random.choice(complete)
            until = self.now + timedelta(days=self.random.choice([0, 5, 60]))
            word = Retained(number=len(self.log), backup=id_, at=written(self.now), until=written(until))
            write_retained(self.store, self.layout, word)
            self.retained[id_] = until
            self.words.append(word)

    def revoke(self) -> None:
        newest = read_expiry(self.store, self.layout).newest
        if newest is not None and self.now < newest.stands_from - timedelta(minutes=1):
            note_floor(self.store, self.layout, newest.number, "revoked", written(self.now))

    # ---------------------------------------------------------------------------------------------- what there is

    def runner(self) -> Runner:
        return Runner(
            archives=self.archives, size=SIZE, record=self.record(), policy=self.policy, grace=timedelta(hours=1),
            member="node1",
        )  # fmt: skip

    def record(self) -> Record:
        return Record(
            system_identifier=str(SYSTEM), segment_size=MIB, timeline=self.kept.timeline, lsn=str(Lsn(self.frontier * MIB)),
            start=Segment(1, 2, SIZE).name, owner="node1", session="s",
        )  # fmt: skip

    def look(self) -> Restorable:
        return look(self.archives, SYSTEM, SIZE, self.record())

    def files(self) -> set[tuple[int, int]]:
        found, wal = set(), self.layout.wal
        for key in self.store.objects:
            if key.startswith(wal):
                found.add(_file(key.rpartition("/")[2][:24]))
        return found

    def _pin(self, kind: str, backup: str, timeline: int, lsn: Lsn) -> Pin:
        return Pin(
            id=f"{self.random.randrange(1 << 60):016x}-0001", kind=kind, backup=backup, timeline=timeline, lsn=str(lsn),  # type: ignore[arg-type]
            at=written(self.now), until=written(self.now + timedelta(days=2)), by="a test",
        )  # fmt: skip

    def _ranges(self, start: Lsn, stop: Lsn) -> tuple[WalRange, ...] | None:
        begins = [Lsn(0), *(switch.lsn for switch in self.kept.switches)]
        ends = [*(switch.lsn for switch in self.kept.switches), stop]
        found = [
            WalRange(timeline, str(max(start, begin)), str(min(stop, end)))
            for timeline, begin, end in zip(self.kept.timelines, begins, ends, strict=True)
            if max(start, begin) < min(stop, end)
        ]
        return tuple(found) if found and stop > start else None

    # ------------------------------------------------------------------------------------------- what is promised

    def _before(self, method: str, key: str) -> None:
        if method in {"create", "delete"} and self.kill_after is not None:
            self.kill_after -= 1
            if self.kill_after < 0:
                raise StoreUnavailable("killed", hint="A test did.")
        if method == "delete" and (self.expires or not key.startswith(self.layout.pins)):
            self._check_delete(key)

    def _check_delete(self, key: str) -> None:
        """Only below a floor that was recorded, has stood for its grace, and was not revoked; nothing that is pinned."""
        if key not in self.store.objects:  # another run was there before
            return
        if key.startswith(self.layout.pins):
            if moment(decode_floor(Pin, self.store.objects[key][0], key).until) >= self.now:
                raise Broken(f"{key} was deleted, and has not ended")
            return
        floors = self._floors()
        pinned = [restore for restore in self.restores if moment(restore.pin.until) >= self.now]
        if key.startswith(self.layout.wal):
            segment = Segment.parse(key.rpartition("/")[2][:24], SIZE)
            if not any(each.first <= segment.number < each.end for each in given_up(floors).get(segment.timeline, ())):
                raise Broken(f"{segment} was deleted above every floor")
            if any((segment.timeline, segment.number) in restore.wal for restore in pinned):
                raise Broken(f"{segment} was deleted, and a pinned restore needs it")
        elif key.startswith(self.layout.backups):
            id_ = key.removeprefix(self.layout.backups).partition("/")[0]
            if not any(id_ in floor.backups for floor in floors):
                raise Broken(f"{key} was deleted, and no floor gives that backup up")
            if any(each.id == id_ for restore in pinned for each in self._chain(restore.backup)):
                raise Broken(f"{key} was deleted, and a pinned restore needs it")
            if any(each.parent == id_ for each in self._documents()):
                raise Broken(f"{key} was deleted, and a backup that is there builds on it")

    def _floors(self) -> list[Floor]:
        return [floor for floor in self._recorded() if floor.stands_from <= self.now]

    def _recorded(self) -> list[Floor]:
        return [
            floor
            for key, (body, _) in self.store.objects.items()
            if key.startswith(self.layout.floors) and key.count(".") == 1 and "retain-" not in key
            if (floor := decode_floor(Floor, body, key))
            if self.layout.floor_is(floor.number, "revoked") not in self.store.objects
        ]

    def usable(self) -> set[tuple[int, int]]:
        """Files that nobody has given up."""
        gone = given_up(self._recorded())
        return {
            (timeline, number)
            for timeline, number in self.files()
            if not any(each.first <= number < each.end for each in gone.get(timeline, ()))
        }

    def promised(self) -> set[int]:
        """Numbers of the kept chain that a restore gets to the beginning of, of the time that is kept."""
        keep = self.policy.keep or timedelta(0)
        young = {number for number, when in self.reached.items() if when >= self.now - keep}
        return young & self._reaches(self._documents(), self.usable())

    def fulls(self) -> list[Backup]:
        return [each for each in self._whole(self._documents(), self.usable()) if each.kind == "full"]

    def held(self) -> set[str]:
        whole = {backup.id for backup in self._whole(self._documents(), self.usable(), all_=True)}
        return {id_ for id_ in whole if self.retained.get(id_, self.now) > self.now}

    def check(self) -> None:
        """Whatever walkeeper calls complete restores."""
        documents, files = self._documents(), self.files()
        whole = {each.id for each in self._whole(documents, files, all_=True)}
        for backup in self.look().windows.complete:
            for each in self._chain(backup):
                self._check_pieces(each)
            if not self._is_consistent(backup):
                raise Broken(f"{backup.id} is called complete, and its bytes are not those of its WAL")
            if backup.id not in whole:
                raise Broken(f"{backup.id} is called complete, and lacks WAL")

    def _documents(self) -> list[Backup]:
        found = []
        for key, (body, _) in self.store.objects.items():
            if key.endswith("/backup.json"):
                document = _decoded(body, key.split("/")[-2])
                if isinstance(document, Backup):
                    found.append(document)
                elif not isinstance(document, Tombstone):
                    raise Broken(f"{key}: {document}")
        return found

    def _chain(self, backup: Backup) -> list[Backup]:
        """It, and what it builds on, whether that is there or not."""
        found = [backup]
        while found[-1].parent:
            found.append(self.committed[found[-1].parent])
        return found

    def _check_pieces(self, backup: Backup) -> None:
        for sha256 in self._index(backup)[1]:
            if self.layout.backup_piece(BackupId.parse(backup.id), sha256, ".zst") not in self.store.objects:
                raise Broken(f"{backup.id} counts, and its piece {sha256} is not there")

    def _index(self, backup: Backup) -> tuple[int, list[str]]:
        key = self.layout.backup_document(BackupId.parse(backup.id), "index", backup.index, ".zst")
        if key not in self.store.objects:
            raise Broken(f"{backup.id} counts, and its index is not there")
        number, pieces = json.loads(Codec().decode(".zst", self.store.objects[key][0], 1 << 20))
        return number, pieces

    def _is_consistent(self, backup: Backup) -> bool:
        if not any(backup.id in key and "/index-" in key for key in self.store.objects):
            return True  # given up since
        run = self.runs[self._index(backup)[0]]
        return run.start >= backup.start.position and 0 < run.stop <= backup.stop.position

    def _needs(self, backup: Backup, history: History, end: int) -> list[tuple[int, int]]:
        return [
            (history.timeline_of(number, SIZE), number) for number in range(Lsn.parse(backup.wal[0].start) // MIB, end)
        ]

    def _whole(self, documents: list[Backup], files: set[tuple[int, int]], *, all_: bool = False) -> list[Backup]:
        """On the kept chain, or on any."""
        histories = self.histories.values() if all_ else [self.kept]
        there = {each.id for each in documents}
        return [
            backup
            for backup in documents
            if there.issuperset(each.id for each in self._chain(backup))
            and any(
                files.issuperset(self._needs(backup, history, -(-Lsn.parse(backup.wal[-1].end) // MIB)))
                for history in histories
                if all(history.has(part.timeline, Lsn.parse(part.start)) for part in backup.wal)
                and history.has(backup.wal[-1].timeline, Lsn(Lsn.parse(backup.wal[-1].end) - 1))
            )
        ]

    def _reaches(self, documents: list[Backup], files: set[tuple[int, int]]) -> set[int]:
        """Numbers that a restore along the kept chain gets to the beginning of."""
        found: set[int] = set()
        for backup in self._whole(documents, files):
            number = -(-Lsn.parse(backup.wal[-1].end) // MIB)
            while number not in found and number <= self.frontier:
                found.add(number)
                if (self.kept.timeline_of(number, SIZE), number) not in files:
                    break
                number += 1
        return found
