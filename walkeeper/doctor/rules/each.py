"""Rules that are asked again and again, written for one case."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import replace

from walkeeper.doctor.facts import Facts, MemberFacts, ServerFacts, Unseen, known
from walkeeper.doctor.rule import Good, Look, NotKnown, Verdict


def member(look: Callable[[Facts, MemberFacts], Iterator[Verdict]]) -> Look:
    """For each member: every verdict is about that one."""

    @functools.wraps(look)
    def every(facts: Facts) -> Iterator[Verdict]:
        for each in facts.members:
            try:
                for verdict in look(facts, each):
                    yield replace(verdict, about=each.name)
            except Unseen as unseen:
                yield NotKnown(str(unseen), each.name)

    return every


def server(look: Callable[[Facts, MemberFacts, ServerFacts], Iterator[Verdict]]) -> Look:
    """For each member whose PostgreSQL could be asked; of the others it is said that, and why, it could not."""

    @functools.wraps(look)
    def asked(facts: Facts, each: MemberFacts) -> Iterator[Verdict]:
        return look(facts, each, known(each.server))

    return member(asked)


def where_commits_wait(look: Look) -> Look:
    """Only of a cluster whose commits wait for the store."""

    @functools.wraps(look)
    def asked(facts: Facts) -> Iterator[Verdict]:
        return look(facts) if facts.waits_for_store else iter((Good("commits do not wait for the store"),))

    return asked
