"""The token: once in the address, then a cookie."""

from __future__ import annotations

import pytest

from usage_instrument.dashboard.asgi import Dashboard
from usage_instrument.dashboard.token_auth import TokenAuth
from usage_instrument.errors import ConfigurationError

from .conftest import Past
from .visitor import asgi

SECRET = "correct horse battery"


def app(past: Past) -> object:
    token = TokenAuth(SECRET)
    return token.protect(Dashboard(past.url, authorize=token.authorize))


def test_without_it_there_is_nothing(small_past: Past) -> None:
    assert asgi(app(small_past), "/").status == 401
    for wrong in ("wrong", "", SECRET[:-1]):
        answer = asgi(app(small_past), "/", token=wrong)
        assert answer.status == 401
        assert answer.headers["Www-Authenticate"].startswith("Bearer")
        assert "usage-instrument dashboard" in answer.text
        assert "Top features" not in answer.text
    for header in (("Cookie", "usage_instrument_00000000=x"), ("Authorization", f"Basic {SECRET}"), ("Cookie", "=;=")):
        assert asgi(app(small_past), "/top-features.csv", headers=[header]).status == 401


def test_once_in_the_address_then_a_cookie(small_past: Past) -> None:
    inside = f"/{TokenAuth(SECRET).prefix}"
    answer = asgi(app(small_past), f"{inside}/feature", token=SECRET, feature="a b", period="7d")
    assert answer.status == 303
    assert answer.headers["Location"] == "./feature?feature=a+b&period=7d"
    assert answer.body == b""
    cookie, *attributes = answer.headers["Set-Cookie"].split("; ")
    assert set(attributes) == {"HttpOnly", "SameSite=Strict"}
    assert SECRET not in cookie
    page = asgi(app(small_past), f"{inside}/", headers=[("Cookie", f'other={{"a": [1]}}; {cookie}; x')])
    assert page.status == 200
    assert SECRET not in page.text
    assert asgi(app(small_past), "/", headers=[("Cookie", f"{cookie}0")]).status == 401
    assert asgi(app(small_past), f"{inside}/", token=SECRET).headers["Location"] == "./"


def test_or_in_a_header_for_programs(small_past: Past) -> None:
    answer = asgi(app(small_past), "/top-features.csv", headers=[("Authorization", f"Bearer {SECRET}")])
    assert answer.status == 200
    assert answer.text.startswith('"feature_name","total_usage"')


def test_the_refusal_is_styled(small_past: Past) -> None:
    refused = asgi(app(small_past), "/").page
    (sheet,) = [link["href"] for link in refused.all("link") if link["rel"] == "stylesheet"]
    assert asgi(app(small_past), f"/{sheet}").status == 200
    assert not refused.all("form")


@pytest.mark.parametrize("secret", ["", "short", " " * 40, "ünguessable" * 3, "two\nlines of a token"])
def test_a_token_that_can_be_guessed_or_sent_by_nobody(secret: str) -> None:
    with pytest.raises(ConfigurationError, match="at least 16 printable ASCII characters"):
        TokenAuth(secret)
