"""A second agent of the same member: each of its takeovers ends what this one does, and the other way round."""

from __future__ import annotations

import math
from typing import Final

from walkeeper.agent.problems import Problems
from walkeeper.core.about import About
from walkeeper.dcs.base import Versioned
from walkeeper.dcs.claim import decoded
from walkeeper.errors import TwoAgents
from walkeeper.lib.clock import Clock

LEFT_SECONDS: Final = 60.0
"""Seconds for which one leaves the record to the other."""


class Rival:
    """For the observer's thread."""

    def __init__(self, name: str, problems: Problems, clock: Clock) -> None:
        self._name = name
        self._problems = problems
        self._clock = clock
        self._fenced = ""
        """The session of the ownership that this agent lost last, to whomever; "" once it has looked who that was."""
        self._robbed_at = -math.inf
        """When that was another agent of this member's last."""

    def lost(self, session: str) -> None:
        """This agent was fenced, and had the record under that session."""
        self._fenced = session

    def has(self, found: Versioned | None) -> bool:
        """Whether the record is to be left to it for LEFT_SECONDS. Not at the first time: it may be a DCS that was put back to an
        older state.
        """
        record, fenced, self._fenced = decoded(found).record, self._fenced, ""
        if not fenced or record is None or record.owner != self._name or record.session == fenced:
            return False
        if record.closed_by:
            return False  # by who is to be promoted, which leaves the owner's name in it
        before, self._robbed_at = self._robbed_at, self._clock.monotonic()
        if self._robbed_at - before > 3 * LEFT_SECONDS:
            return False
        problem = TwoAgents(
            f"{self._name}: another agent of this name has taken the record from this one",
            hint="Two agents of one member run: on two hosts, or with two configurations on one. Stop the one whose server does "
            f"not lead. This one waits for {LEFT_SECONDS:g} s each time.",
        )
        self._problems.report(About.TWO_AGENTS, problem)
        return True

    def is_gone(self, *, leads: bool | None) -> None:
        """To be said at each look: it is, where another member leads, or long after it was met last."""
        if leads is False or self._clock.monotonic() - self._robbed_at > 3 * LEFT_SECONDS:
            self._problems.clear(About.TWO_AGENTS)
