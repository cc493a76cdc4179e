"""Rules that look at every member's server, written for one."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

from walkeeper.doctor.facts import Facts, MemberFacts, ServerFacts, Unknown
from walkeeper.doctor.rule import Look, NotKnown, Verdict


def server(look: Callable[[Facts, MemberFacts, ServerFacts], Iterator[Verdict]]) -> Look:
    """For each member whose PostgreSQL could be asked; of the others it is said that, and why, it could not."""

    @functools.wraps(look)
    def every(facts: Facts) -> Iterator[Verdict]:
        for member in facts.members:
            if isinstance(member.server, Unknown):
                yield NotKnown(member.server.because, member.name)
            else:
                yield from look(facts, member, member.server)

    return every
