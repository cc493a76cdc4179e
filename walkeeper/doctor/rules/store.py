"""The store."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from functools import partial
from typing import Final

from walkeeper.core.record import Gap
from walkeeper.doctor.facts import Facts, known
from walkeeper.doctor.rule import Good, NotKnown, Rule, Verdict, Wrong
from walkeeper.doctor.rules import paste
from walkeeper.errors import ConfigError, Refused, StoreDenied, StoreUnfit, WalkeeperError

error = partial(Rule, area="Store", severity="error")
warning = partial(Rule, area="Store", severity="warning")
SKEW_WARNING: Final = 60.0
SKEW_ERROR: Final = 600.0
"""Seconds. S3 refuses requests that are 15 minutes off."""


@error(
    what="The store answers from this node.",
    why="What is not in the store is only on the nodes' disks: pg_wal grows until the store is back.",
    fix="Look at the endpoint, the name service, the mount, the network.",
    of_each_store=True,
)
def store_answers(facts: Facts) -> Iterator[Verdict]:
    store = known(facts.store)
    if store.problem is None or isinstance(store.problem, StoreUnfit | StoreDenied | Refused):
        yield Good(f"{store.url} answers")
    else:
        yield Wrong(str(store.problem), _fix(facts, store.problem))


@error(
    what="This node's credentials may create, read and list objects.",
    why="Every node must be able to archive when it is promoted, and to read when it restores. Deleting is not needed.",
    fix="s3:PutObject and s3:GetObject on the prefix, s3:ListBucket on the bucket; the role in examples/gcs or examples/azure; "
    "or the directory's owner and mode.",
    of_each_store=True,
)
def store_allows(facts: Facts) -> Iterator[Verdict]:
    store = known(facts.store)
    if isinstance(store.problem, Refused):  # right_user says what to type
        yield NotKnown(str(store.problem))
    elif isinstance(store.problem, StoreDenied):
        yield Wrong(str(store.problem), _fix(facts, store.problem))
    elif store.problem is not None and not isinstance(store.problem, StoreUnfit):
        yield NotKnown(f"the store gave no answer: {store.problem}")
    else:
        yield Good("it lets this node create, read and list")


@error(
    what="The store creates objects and never replaces one.",
    why="Two servers that write the same name must not destroy each other's WAL. Probed by writing one object under "
    "probe/ twice.",
    fix="A store that honours If-None-Match; or, with S3, overwrite_guard: head, which is weaker.",
    of_each_store=True,
)
def store_creates_only(facts: Facts) -> Iterator[Verdict]:
    store = known(facts.store)
    if isinstance(store.problem, StoreUnfit):
        yield Wrong(str(store.problem), _fix(facts, store.problem))
    elif store.problem is not None:
        yield NotKnown(f"the store could not be probed: {store.problem}")
    elif getattr(facts.config.store, "overwrite_guard", "conditional") == "head":
        fix = (
            f"# in {facts.config.source}, with a store that honours If-None-Match:",
            *(
                (f"overwrite_guard: conditional   # under s3 of the store {facts.config.store_name}",)
                if facts.config.others
                else paste.yaml_lines(paste.key(facts, "store.s3"), {"overwrite_guard": "conditional"})
            ),
        )
        text = "overwrite_guard is head: two writers at the same moment could overwrite each other"
        yield Wrong(text, fix, severity="warning")
    else:
        yield Good("it does not overwrite")


@warning(
    what="The store keeps what somebody deletes: versioning, and better object lock as well.",
    why="Who gets hold of credentials that may delete, or of the console, deletes the archive. That cannot be proved afterwards, "
    "nor undone.",
    fix="Bucket versioning with a lifecycle rule for old versions; object lock is chosen when a bucket is made (examples).",
    of_each_store=True,
)
def store_keeps_versions(facts: Facts) -> Iterator[Verdict]:
    kept = known(known(facts.store).kept_versions)
    if kept is None:
        yield Good("a directory keeps none: snapshots of its file system do")
    elif not kept:
        bucket, endpoint = (getattr(facts.config.store, key, None) for key in ("bucket", "endpoint"))
        words = ["aws", "s3api", "put-bucket-versioning", "--bucket", bucket or "BUCKET"]
        words += ["--versioning-configuration", "Status=Enabled", *(["--endpoint-url", endpoint] if endpoint else [])]
        yield Wrong("what is deleted from the bucket, or overwritten in it, is gone", (shlex.join(words),))
    else:
        yield Good(kept)


@error(
    what="This node's clock agrees with the store's.",
    why="S3 and Azure refuse every request that is 15 minutes off; then nothing is archived and nothing restored. "
    "And walkeeper expire refuses from 5 minutes on.",
    fix="Run chrony or another NTP client.",
    of_each_store=True,
)
def store_clock(facts: Facts) -> Iterator[Verdict]:
    ahead = known(known(facts.store).clock_ahead)
    if ahead is None:
        yield Good("this user cannot write there, and need not know its clock")
    elif abs(ahead) < SKEW_WARNING:
        yield Good("the clocks agree")
    else:
        text = f"the store's clock is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} this node's"
        fix = ("timedatectl set-ntp true   # chronyc tracking says more",)
        yield Wrong(text, fix, severity="error" if abs(ahead) >= SKEW_ERROR else "warning")


@error(
    what="The store that this node sees holds what the record says is archived.",
    why="Another bucket, another prefix or a disk that is not mounted on this node would begin a second archive at the next "
    "failover, and restore nothing.",
    fix="The same store section on every node; the same mount.",
    of_each_store=True,
)
def store_is_the_same(facts: Facts) -> Iterator[Verdict]:
    store = known(facts.store)
    found = known(store.before_frontier)
    if found is None:
        yield Good("nothing is archived yet that it could lack")
    elif not found:
        fix = (
            f"# compare on every node: the store in {facts.config.source}, and its mount",
            facts.config.store.listing_command(),
        )
        yield Wrong(f"{store.url} lacks the segment just below the frontier", fix)
    else:
        yield Good(f"it has {found}, the newest segment below the frontier")


@error(
    what="There is no gap in the archive.",
    why="WAL in a gap no longer exists anywhere: no recovery gets past it. A base backup from after it makes a new beginning.",
    fix="Take a base backup now; then `walkeeper gap accept` says that the gap is known.",
    of_each_store=True,
)
def no_gaps(facts: Facts) -> Iterator[Verdict]:
    store = known(facts.store)
    gaps = known(store.gaps)
    for gap in store.suspected:
        start = "# start the members that may have it, and their agents; or, if it is lost for good:"
        yield Wrong(f"WAL is suspected lost {_told(gap)}", (start, _accept(facts, gap)))
    for gap in gaps:
        backup = paste.walkeeper(facts, "backup", *facts.for_store)
        own = "# or with your own tool: a gap before it does not matter"
        yield Wrong(f"gap {_told(gap)}", (f"{backup}   {own}", _accept(facts, gap)))
    for gap in store.accepted_gaps:
        yield Good(f"gap {_told(gap)}: accepted by a person")
    if not gaps and not store.suspected and not store.accepted_gaps:
        yield Good("no gap is recorded")


def _told(gap: Gap) -> str:
    return f"on timeline {gap.timeline}: {gap.start} to {gap.end}"


def _accept(facts: Facts, gap: Gap) -> str:
    """By where it begins: there may be others."""
    return paste.walkeeper(facts, "gap", *facts.for_store, "accept", gap.start)


def _fix(facts: Facts, problem: WalkeeperError) -> tuple[str, ...]:
    hint = f"# {problem.hint}" if problem.hint else f"# look at the store section in {facts.config.source}"
    if isinstance(problem, ConfigError):
        return (hint,)
    return (hint, facts.config.store.listing_command())
