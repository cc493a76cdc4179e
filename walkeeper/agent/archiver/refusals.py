"""Why a takeover is not tried: the last one was refused, which stands until something changes, and a person may let the next one
pass that; or another agent of this member has just taken the record.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

from walkeeper.agent.problems import Problems
from walkeeper.core.about import About
from walkeeper.core.beliefs import ACCEPTABLE
from walkeeper.dcs.base import Versioned
from walkeeper.dcs.claim import decoded
from walkeeper.errors import AgentError, Refused, TwoAgents
from walkeeper.lib import events
from walkeeper.lib.clock import Clock

LOOK_AGAIN: Final = 30.0
"""Seconds after which a refused takeover asks the store once more, though record and server are what they were."""

LEFT_SECONDS: Final = 60.0
"""Seconds for which one of two agents leaves the record to the other."""


def situation(record: Versioned | None, *server: object) -> object:
    """What a refusal depends on beside the store. An owner that still moves the frontier changes nothing."""
    found = decoded(record).record
    if found is None:
        return record and record.document, server
    return (found.system_identifier, found.timeline, found.start, found.owner, found.session), server


def pass_or_raise(problem: Refused, accepted: Collection[str]) -> None:
    """``accepted``: reasons of refusals that a person lets this takeover pass."""
    if problem.reason not in accepted:
        raise problem
    events.warning("takeover_accepted", refusal=problem.reason, error=problem)


class Refusals:
    """For the observer; ``answer`` is for the control socket's threads."""

    def __init__(self, clock: Clock, poke: Callable[[], None]) -> None:
        self._clock = clock
        self._poke = poke
        self._lock = threading.Lock()
        self.problem: Refused | None = None
        """The refusal that is open."""
        self.accepted: frozenset[str] = frozenset()
        """Reasons that the next takeover passes."""
        self._situation: object = None
        self._until = 0.0
        self._passed: frozenset[str] = frozenset()
        """What was accepted before in this situation: a takeover may meet two refusals, and each is accepted by itself."""

    def stands(self, situation: object) -> bool:
        """Whether a takeover would end as the last one did, as far as can be told without a question to the store."""
        with self._lock:
            return self.problem is not None and situation == self._situation and self._clock.monotonic() < self._until

    def refused(self, problem: Refused, situation: object, accepted: frozenset[str]) -> None:
        """``accepted``: what that takeover passed. A person's word that came while it ran is for the next."""
        with self._lock:
            before = self._passed if situation == self._situation else frozenset()
            self.problem, self._situation = problem, situation
            self._passed = accepted or before
            meanwhile = (self.accepted - accepted) & {problem.reason}
            self.accepted = self._passed | meanwhile if meanwhile else frozenset()
            self._until = 0.0 if self.accepted else self._clock.monotonic() + LOOK_AGAIN

    def over(self) -> None:
        """A takeover came through, or this node does not want one any longer."""
        with self._lock:
            self.problem, self.accepted, self._passed = None, frozenset(), frozenset()

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """For ``walkeeper takeover``: the refusal that is open, which the next takeover passes if ``accept`` says so."""
        problem = self.problem
        if request.get("accept") is True:
            problem = self._accept()
            self._poke()
        return {} if problem is None else {"reason": problem.reason, "text": str(problem), "hint": problem.hint}

    def _accept(self) -> Refused:
        """Let the next takeover pass the refusal that is open. Raises AgentError where there is none, or none to be passed."""
        with self._lock:
            problem = self.problem
            if problem is None:
                raise AgentError(
                    "takeover: none was refused on this node",
                    hint="Ask on the node that leads. walkeeper status shows which takeover was refused, and why.",
                )
            if problem.reason not in ACCEPTABLE:
                raise AgentError(
                    f"takeover: {problem.reason} cannot be accepted: {problem}",
                    hint=problem.hint or "docs/operations.md says what to do.",
                )
            self.accepted, self._until = self._passed | {problem.reason}, 0.0
            return problem


class Rival:
    """A second agent of the same member: each of its takeovers ends what this one does, and the other way round."""

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
