"""What a request tells of itself: its id, where it asked, and who really acts in it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from django.http import HttpRequest
from starlette.datastructures import Headers

import django_site  # noqa: F401 - configures Django
from usage_instrument.capture.request_info import (
    header,
    impersonator,
    is_impersonated,
    is_login_redirect,
    path_of,
    request_id,
)

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
ROOT = UUID(int=2**64 + 9)


def scope(**headers: str) -> dict[str, Any]:
    return {"headers": [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in headers.items()]}


def environ(**headers: str) -> dict[str, Any]:
    return {f"HTTP_{name.upper()}": value for name, value in headers.items()}


def http(**headers: str) -> HttpRequest:
    request = HttpRequest()
    request.META = environ(**headers)
    return request


def response(**headers: str) -> Any:
    return SimpleNamespace(headers=Headers({name.replace("_", "-"): value for name, value in headers.items()}))


@pytest.mark.parametrize("carrier", [scope, environ, http, response])
@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ({}, None),
        ({"x_request_id": " r1 "}, "r1"),
        ({"x_correlation_id": "c1"}, "c1"),
        ({"x_correlation_id": "c1", "x_request_id": "r1", "traceparent": TRACE}, "r1"),
        ({"traceparent": TRACE}, "4bf92f3577b34da6a3ce929d0e0e4736"),
        ({"traceparent": "00-tooshort-x-01"}, None),
        ({"traceparent": "nonsense"}, None),
        ({"x_request_id": "x" * 300}, "x" * 100),
        ({"x_request_id": "a\tb\x7fc"}, "abc"),  # what a terminal or a log would obey
    ],
)
def test_the_id_of_a_request(carrier: Any, headers: dict[str, str], found: str | None) -> None:
    assert request_id(carrier(**headers)) == found


def test_a_header_that_is_not_there_is_empty() -> None:
    for carrier in (scope(), environ(), http(), response(), object()):
        assert header(carrier, "location") == ""


def test_the_path_that_was_asked_for() -> None:
    request = http()
    request.path = "/shop/größe"
    assert path_of(request) == "/shop/größe"
    assert path_of({"path": "/shop/größe"}) == "/shop/größe"
    spelled = "/größe".encode().decode("latin-1")
    assert path_of({"SCRIPT_NAME": "/shop", "PATH_INFO": spelled}) == "/shop/größe"
    assert path_of({"PATH_INFO": "/\xff"}) == "/\ufffd"


@pytest.mark.parametrize(
    ("location", "leads"),
    [
        ("/login?next=/vault/1", True),
        ("https://example.org/login?a=b&next=%2Fvault%2F1", True),
        ("/login?next=http://testserver/vault/1?page=2", True),
        ("/login?next=/home", False),
        ("/login", False),
        ("/vault/1?next=", False),
        ("", False),
    ],
)
def test_a_redirect_to_log_in_sends_back_to_where_they_are(location: str, leads: bool) -> None:
    assert is_login_redirect(location, {"path": "/vault/1", "query_string": b"page=2"}) is leads


@pytest.mark.parametrize("query", ["return_to=/done?next=/vault/1", "return_to=/done%3F%6eext%3D/vault/1", "next=/"])
def test_a_redirect_that_the_client_may_have_written_is_none(query: str) -> None:
    for info in (
        {"path": "/vault/1", "query_string": query.encode()},
        {"PATH_INFO": "/vault/1", "QUERY_STRING": query},
    ):
        assert not is_login_redirect("/done?next=/vault/1", info)


@pytest.mark.parametrize(
    ("session", "user", "who"),
    [
        ({}, {}, None),
        ({"impersonator_id": "root"}, {}, "root"),
        ({"impersonator": 7}, {}, 7),
        ({"hijack_history": ["3", "4"]}, {}, "3"),
        ({}, {"impersonator": ROOT}, ROOT),
        ({"impersonator": {"name": "no id"}}, {"impersonator_id": 9}, 9),
        ({"impersonator": {"name": "no id"}}, {}, None),
    ],
)
def test_who_acts_as_somebody_else(session: dict[str, Any], user: dict[str, Any], who: object) -> None:
    carrier = {"session": session, "user": SimpleNamespace(**user)}
    assert impersonator(carrier) == who
    assert is_impersonated(carrier) == bool(session or user)
    request = http()
    request.session = SimpleNamespace(_session_cache=session)
    request.user = SimpleNamespace(**user)
    assert impersonator(request) == who


def test_a_session_that_nothing_has_loaded_is_not_read() -> None:
    class Session:
        def get(self, name: str) -> None:
            raise AssertionError("this is a query")

    request = http()
    request.session = Session()
    assert impersonator(request) is None
    assert not is_impersonated(request)
