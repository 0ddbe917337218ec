"""The links of a chain: the text that they are hashes over is JSON, whatever a row holds."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usage_instrument.audit.chain import Chain, _encoded, first_link, link, pseudonym_of

from .trails import accesses


@given(st.lists(st.none() | st.integers() | st.text()))
def test_what_is_hashed_is_json(values: list[str | int | None]) -> None:
    assert _encoded(values) == json.dumps(values, separators=(",", ":"))


@pytest.mark.parametrize("seal", ["{", "{}", '{"names":3}', '{"names":{}}'])
def test_a_seal_that_nobody_made_is_found_and_stops_no_look(seal: str) -> None:
    assert pseudonym_of({"seal": seal}, "user") is None
    chain = Chain(None)
    (row,) = chain.rows(accesses(1), "web")
    assert link(None, first_link(None, chain.chain_id), {**row, "seal": seal}) != row["link"]
