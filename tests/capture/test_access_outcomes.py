"""An access as it happens: who acts, in which request, and what its result or its exception says."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

import pytest
from django.core.exceptions import PermissionDenied
from starlette.exceptions import HTTPException
from werkzeug.exceptions import Forbidden, NotFound, Unauthorized

import django_site  # noqa: F401 - configures Django
import usage_instrument as usage
from usage_instrument.capture.context import Request, holder
from usage_instrument.capture.outcome import (
    outcome_of,
    outcome_of_error,
    outcome_of_response,
    outcome_of_status,
)
from usage_instrument.capture.recording import new_access


class Answer:
    """A response."""

    def __init__(self, status_code: int, headers: dict[str, str] | None = None) -> None:
        self.status_code = status_code
        if headers is not None:
            self.headers = headers


@pytest.fixture
def request_() -> Iterator[Request]:
    made = Request("http", "GET")
    made.info = {"path": "/vault/1", "headers": [(b"x-request-id", b"r1")], "session": {"impersonator": 9}}
    token = holder.set(made)
    yield made
    holder.reset(token)


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (PermissionError(), "denied"),
        (PermissionDenied(), "denied"),  # Django's
        (HTTPException(401), "denied"),
        (HTTPException(403), "denied"),
        (HTTPException(404), "failed"),
        (Unauthorized(), "denied"),
        (Forbidden(), "denied"),
        (NotFound(), "failed"),
        (ValueError(), "failed"),
        (KeyboardInterrupt(), "failed"),
        (asyncio.CancelledError(), "failed"),
    ],
)
def test_what_an_exception_says(error: BaseException, outcome: str) -> None:
    assert outcome_of_error(error) == outcome


def test_no_property_of_an_exception_is_run() -> None:
    class Lazy(Exception):
        @property
        def status_code(self) -> int:
            raise AssertionError("the host's code ran")

    assert outcome_of_error(Lazy()) == "failed"


@pytest.mark.parametrize(
    ("status", "outcome"),
    [(None, "success"), (200, "success"), (302, "success"), (401, "denied"), (403, "denied"), (404, "failed"),
     (HTTPStatus.INTERNAL_SERVER_ERROR, "failed")],
)  # fmt: skip
def test_what_a_status_says(status: int | None, outcome: str) -> None:
    assert outcome_of_status(status) == outcome


@pytest.mark.parametrize(
    ("result", "tuples", "outcome"),
    [
        ("text", False, "success"),
        (Answer(status_code=403), False, "denied"),
        (Answer(status_code=500), False, "failed"),
        (("no", 403), True, "denied"),
        (("no", 403), False, "success"),  # not in ASGI, where it is a plain value
        (Answer(status_code=302, headers={"location": "/login?next=/vault/1"}), False, "denied"),
        ((Answer(status_code=302, headers={"location": "/login?next=/vault/1"}), 303), True, "denied"),
        (Answer(status_code=302, headers={"location": "/home"}), False, "success"),
        (Answer(status_code=302), False, "success"),
    ],
)
def test_what_a_result_says_in_a_request(request_: Request, result: Any, tuples: bool, outcome: str) -> None:
    request_.allows_tuples = tuples
    assert outcome_of(request_, result) == outcome


def test_a_result_outside_of_a_request_is_a_success() -> None:
    assert outcome_of(None, Answer(status_code=403)) == "success"
    assert outcome_of(Request("task"), Answer(status_code=403)) == "success"


def test_a_redirect_of_who_was_told_to_log_in_is_a_denial(request_: Request) -> None:
    """As Flask-Login tells, which may keep `next` in the session."""
    assert outcome_of_response(request_, 302, "/login") == "success"
    request_.discard()
    assert outcome_of_response(request_, 302, "/login") == "success"  # it only counts no more
    request_.deny()
    assert outcome_of_response(request_, 302, "/login") == "denied"
    assert outcome_of_response(request_, 200, "") == "success"
    assert outcome_of_response(Request("http", "HEAD"), 302, "/elsewhere") == "success"  # no use from the start


def test_an_access_tells_the_request_and_who_acts_in_it(request_: Request) -> None:
    access = new_access("attempted")
    assert (access.outcome, access.request_id, access.actor) == ("attempted", "r1", 9)
    with usage.as_user(1, actor=2):
        assert new_access("success").actor == 2
    request_.identify(1, actor=3)
    assert new_access("success").actor == 3
    assert new_access("success").id != new_access("success").id


def test_an_access_outside_of_a_request() -> None:
    access = new_access("success")
    assert (access.request_id, access.actor) == (None, None)


def test_what_a_request_cannot_tell_stops_nothing(request_: Request) -> None:
    request_.info = {"headers": [None]}
    assert new_access("success").request_id is None
