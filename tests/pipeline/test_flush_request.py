"""A flush request: answered once, or not by its deadline."""

from __future__ import annotations

import asyncio

import pytest

from usage_instrument.pipeline.flush_request import FlushRequest


@pytest.mark.parametrize("answer", [True, False])
def test_the_answer_is_what_was_given_first(answer: bool) -> None:
    request = FlushRequest(60)
    request.give(answer)
    request.give(not answer)
    assert request.wait() is answer
    assert asyncio.run(request.wait_async()) is answer


@pytest.mark.parametrize("timeout", [0.0, -1.0, 0.01])
def test_no_answer_by_the_deadline_is_false(timeout: float) -> None:
    assert FlushRequest(timeout).wait() is False
    assert asyncio.run(FlushRequest(timeout).wait_async()) is False


def test_an_answer_after_the_deadline_is_still_the_answer() -> None:
    request = FlushRequest(0.0)
    assert request.wait() is False
    request.give(True)
    assert request.wait() is True
    assert request.left <= 0


def test_a_final_request_says_so() -> None:
    assert FlushRequest(1, final=True).final
    assert not FlushRequest(1).final
