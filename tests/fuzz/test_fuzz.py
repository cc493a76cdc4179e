"""The short run, the same each time: ``make fuzz`` has the long one, with other inputs each time."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import TARGETS, run

EXAMPLES = {"segment": 6, "body": 8, "listing": 10, "HTTP": 12}
"""What costs more than a millisecond or two."""


@pytest.mark.parametrize("name", TARGETS)
def test_p16_what_others_write_is_taken_or_refused(name: str) -> None:
    @settings(
        max_examples=EXAMPLES.get(name, 25), deadline=None, derandomize=True, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.data())
    def take(data: Any) -> None:
        run(name, data.draw(TARGETS[name].made))

    take()
