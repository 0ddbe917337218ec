"""The links of a chain: the text that they are hashes over is JSON, whatever a row holds."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from usage_instrument.audit.chain import _encoded


@given(st.lists(st.none() | st.integers() | st.text()))
def test_what_is_hashed_is_json(values: list[str | int | None]) -> None:
    assert _encoded(values) == json.dumps(values, separators=(",", ":"))
