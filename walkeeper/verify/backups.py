"""Base backups: which are complete, and whether every object that each of those names is there with its size.

``--deep`` downloads them, too, and what it finds damaged is remembered in the store, for ``expire``. An archive without any is
for people who take theirs with another tool: nothing is said.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final, TypeAlias

import msgspec

from walkeeper.archive import proofs
from walkeeper.archive.backups import Backups, Kind, document_suffix
from walkeeper.archive.open import Archives
from walkeeper.archive.restorable import Documents, Listed, Restorable, described, judged, read_documents, with_trials
from walkeeper.archive.times import NEAR, CommitTimes
from walkeeper.config import Config
from walkeeper.core.backup import Backup, BackupId
from walkeeper.core.backup_index import Part, Piece
from walkeeper.core.commits import Commit
from walkeeper.core.coverage import Range, chain, subtract
from walkeeper.core.history import History
from walkeeper.core.incremental import layers_of
from walkeeper.core.windows import Judged
from walkeeper.errors import BadBackup, BadFloor, CannotTell, Damaged, Locked, NotAuthentic, Refused, StoreError
from walkeeper.lib.parallel import in_parallel
from walkeeper.lib.retry import with_retries
from walkeeper.verify.evidence import Evidence
from walkeeper.verify.judge import Finding, damage, note, unsure
from walkeeper.verify.windows import TIMED, described_commit

_Pieces: TypeAlias = Mapping[str, Piece]
"""By SHA-256, without the files in them, which may be a million."""
_OTHER_SIZE: Final = "it has another size than it was stored with"
_OTHER: Final = "Restore from another one; walkeeper backup takes a new one now."


@dataclass(slots=True)
class Looked:
    """``broken``: why, by id; ``proved`` are those of which bytes prove it. ``unread``: what could not be looked at, by id;
    ``hints``: what helps there, where it is known. ``pieces`` and ``bytes`` were downloaded. ``untold``: why ``expire`` does
    not learn of one that is damaged, by id.
    """

    found: Restorable
    broken: dict[str, str] = field(default_factory=dict)
    proved: set[str] = field(default_factory=set)
    unread: dict[str, str] = field(default_factory=dict)
    hints: dict[str, str] = field(default_factory=dict)
    untold: dict[str, str] = field(default_factory=dict)
    last_commits: list[Commit | None] = field(default_factory=list)
    """Of each window that is shown."""
    pieces: int = 0
    bytes: int = 0


def without(evidence: Evidence, history: History, damaged: Iterable[Range]) -> Evidence:
    """The same, where those numbers of ``history``'s chain count as not stored: no restore crosses them."""
    lost: dict[int, list[Range]] = {}
    for first, end in damaged:
        for timeline, begin, stop in chain(history, evidence.size, first, end):
            lost.setdefault(timeline, []).append(Range(begin, stop))
    stored = evidence.archived.segments
    stored = {timeline: subtract(ranges, lost.get(timeline, ())) for timeline, ranges in stored.items()}
    return replace(evidence, archived=replace(evidence.archived, segments=stored))


def look(
    config: Config, evidence: Evidence, archives: Archives, *, deep: bool, workers: int, progress: Callable[[str], None]
) -> tuple[Looked | None, list[Finding]]:
    """None where nobody has ever begun one, or a floor cannot be read; and what there is to say. Raises the store's errors."""
    try:
        looked = _look(evidence, archives, deep=deep, workers=workers, progress=progress)
    except BadFloor as problem:
        text = f"what base backups restore is not known: {problem}"
        return None, [unsure("floor_unread", text, problem.hint, count=1)]
    if looked is not None:
        if deep:
            _remember(config, evidence, looked)
        looked.found = with_trials(evidence.store, evidence.layout, looked.found, looked.broken)
        looked.last_commits = last_commits(archives, looked.found)
    return looked, list(_about(looked))


def _look(
    evidence: Evidence, archives: Archives, *, deep: bool, workers: int, progress: Callable[[str], None]
) -> Looked | None:
    """None where nobody has ever begun one. Raises BadFloor or the store's errors."""
    backups = archives.backups(evidence.layout.system_identifier)
    documents = read_documents(backups)
    if documents == Documents():
        return None
    listed = Listed(evidence.archived, evidence.histories, evidence.begins)
    record = evidence.claim.record
    looked = Looked(judged(evidence.store, evidence.layout, evidence.size, documents, listed, record))
    by_id = {backup.id: backup for backup in looked.found.windows.complete}
    for backup in by_id.values():
        progress(f"backup {backup.id}")
        try:
            pieces = {piece.sha256: msgspec.structs.replace(piece, parts=()) for piece in backups.index(backup)}
            _listed(backups, backup, pieces)
            if backup.parent:
                layers_of((by_id[backup.parent], backup), partial(_parts, backups))
            if deep:
                _downloaded(backups, backup, pieces, workers, looked, progress)
        except (Locked, StoreError) as problem:
            looked.unread[backup.id], looked.hints[backup.id] = str(problem), problem.hint
        except (BadBackup, CannotTell) as problem:
            looked.broken[backup.id] = str(problem)
            if isinstance(problem, Damaged):
                looked.proved.add(backup.id)
            elif isinstance(problem, NotAuthentic):
                looked.hints[backup.id] = problem.hint
    return looked


def _remember(config: Config, evidence: Evidence, looked: Looked) -> None:
    """For ``expire``, as a restore that was tried out does; once, until the same backup is proved."""
    if not looked.proved:
        return
    known = proofs.damaged(evidence.store, evidence.layout)
    for backup in looked.found.windows.complete:
        if backup.id not in looked.proved or backup.id in known:
            continue
        try:
            ahead = with_retries(config.store.clock_ahead) or 0.0
            found = proofs.note(backup, f"verify --deep: {looked.broken[backup.id]}", ahead)
            with_retries(partial(proofs.write_proof, evidence.store, evidence.layout, found))
        except StoreError as problem:
            looked.untold[backup.id] = str(problem)


def _parts(backups: Backups, backup: Backup) -> Iterator[Part]:
    return (part for piece in backups.index(backup) for part in piece.parts)


def _listed(backups: Backups, backup: Backup, pieces: _Pieces) -> None:
    """By one LIST; what that does not show as it should be is asked for by name. Raises CannotTell for what is missing, and
    Damaged for what has another size.
    """
    layout, id_ = backups.layout, BackupId.parse(backup.id)
    sizes = {info.key: info.size for info in backups.store.list(layout.backup(id_))}
    wanted: dict[str, int | None] = {
        layout.backup_piece(id_, each, backup.suffix): piece.packed_size for each, piece in pieces.items()
    }
    if len(wanted) != backup.pieces:
        raise CannotTell(f"its index names {len(wanted)} pieces, and backup.json {backup.pieces}")
    orders = {backup.order, *(each.order for each in backup.tablespaces)}
    documents: list[tuple[Kind, str]] = [("manifest", backup.manifest), *(("order", order) for order in sorted(orders))]
    for kind, sha256 in documents:
        wanted[layout.backup_document(id_, kind, sha256, document_suffix(kind, backup.suffix))] = None
    unlisted = {key: size for key, size in wanted.items() if not _fits(sizes.get(key), size)}
    for number, (key, size) in enumerate(unlisted.items(), start=1):
        info = with_retries(partial(backups.store.head, key))
        if info is None or not _fits(info.size, size):
            left = len(unlisted) - number
            more = f", and {left} more by the listing" if left else ""
            problem = CannotTell if info is None else Damaged
            raise problem(f"{key}: {'it is not there' if info is None else _OTHER_SIZE}{more}")


def _fits(found: int | None, size: int | None) -> bool:
    """``size``: None where any will do but none."""
    return bool(found) and size in (None, found)


def _downloaded(
    backups: Backups, backup: Backup, pieces: _Pieces, workers: int, looked: Looked, progress: Callable[[str], None]
) -> None:
    """Each piece once, and what describes them. Raises CannotTell for the first that is damaged."""

    def one(piece: Piece) -> int:
        with_retries(lambda: deque(backups.pour(backup, piece), 0))
        return piece.size

    backups.read_document(backup, "manifest", backup.manifest)
    for order in {backup.order, *(each.order for each in backup.tablespaces)}:
        backups.read_document(backup, "order", order)
    for number, size in enumerate(in_parallel(one, pieces.values(), workers), start=1):
        looked.pieces += 1
        looked.bytes += size
        progress(f"backup {backup.id}: {number:,} of {len(pieces):,} pieces")


def _about(looked: Looked | None) -> Iterator[Finding]:
    """What there is to say of them, the oldest first."""
    if looked is None:
        return
    found = looked.found
    for each in found.windows.judged:
        yield from _about_one(each, looked)
    for id_, why in found.documents.unreadable.items():
        yield damage("backup_damaged", why, _OTHER, count=1, key=id_)
    for id_, why in looked.unread.items():
        text = f"backup {id_}: its pieces were not looked at: {why}"
        yield unsure("backup_unread", text, looked.hints[id_] or "Look again.", count=1, key=id_)
    if attempts := found.documents.attempts:
        yield note(
            "backup_attempt",
            f"{len(attempts)} {'attempt' if len(attempts) == 1 else 'attempts'} without a backup.json, {attempts[-1]} the "
            "newest",
            "One that runs, or one that ended early: walkeeper backup --resume goes on with it. expire clears them up.",
            count=len(attempts),
        )
    if found.documents.backups and not found.windows.complete and not any(each.waits for each in found.windows.judged):
        yield damage(
            "no_complete_backup",
            "no base backup is complete: nothing can be restored with walkeeper alone",
            "Take one now: walkeeper backup",
        )


def _about_one(each: Judged, looked: Looked) -> Iterator[Finding]:
    text, key = f"backup {each.backup.id}: {each.why}", each.backup.id
    if each.verdict == "damaged":
        yield damage("backup_damaged", text, _what_to_do(key, looked), count=1, key=key)
    elif each.waits:
        yield note("backup_waits", text, "It counts as soon as that WAL is stored.", count=1, key=key)
    elif not each.counts:
        yield note("backup_incomplete", text, "It does not count, and restores nothing.", key=key)


def _what_to_do(id_: str, looked: Looked) -> str:
    """With one that is damaged."""
    if id_ in looked.hints:
        return looked.hints[id_]
    if id_ in looked.untold:
        return f"{_OTHER} expire does not know of it, and may give up an older one for it: {looked.untold[id_]}"
    prove = looked.found.prove.get(id_) if id_ in looked.found.tried else ""
    return f"{_OTHER} expire counts this one again when it is proved: {prove}" if prove else _OTHER


def document(looked: Looked | None) -> dict[str, Any] | None:
    """For ``--json``."""
    if looked is None:
        return None
    found = described(looked.found)
    for window, last in zip(found["windows"], looked.last_commits, strict=True):
        window["last_commit"] = described_commit(last)
    return {**found, "pieces_downloaded": looked.pieces, "bytes_downloaded": looked.bytes}


def last_commits(archives: Archives, found: Restorable) -> list[Commit | None]:
    """Of each window, as far as its last segments tell; what cannot be read is said of the WAL's own windows."""
    layout, holdings = archives.layout(found.holdings.system_identifier), found.holdings
    commits: list[Commit | None] = []
    for window in found.windows.shown:
        history = holdings.histories[window.timeline]
        times = CommitTimes(archives.store, layout, archives.codec, history, holdings.size)
        try:
            commits.append(times.last(window.start, window.end, NEAR) if len(commits) < TIMED else None)
        except (CannotTell, Refused, StoreError):
            commits.append(None)
    return commits
