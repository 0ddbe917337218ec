"""URLs: no text of ours shows a secret, wherever in the URL it stands."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import sqlalchemy as sa

from usage_instrument.database import engines
from usage_instrument.database.urls import masked, scrubbed
from usage_instrument.errors import ConfigurationError
from usage_instrument.tracker import Tracker

SECRET = "s3cr3t"
PLACES = [
    "postgresql+psycopg://user:{}@127.0.0.1:1/db",
    "postgresql+psycopg://127.0.0.1:1/db?user=u&password={}",
    "postgresql+psycopg://127.0.0.1:1/db?sslpassword={}&sslmode=require",
    "postgresql+psycopg://127.0.0.1:1/db?PASSWORD={}",
    "mariadb+pymysql://127.0.0.1:1/db?passwd={}",
    "mariadb+pymysql://127.0.0.1:1/db?ssl_key_passphrase={}",
    "postgresql+asyncpg://127.0.0.1:1/db?password={}&password=other",
]
UNESCAPED = ["{}@x", "x@{}", "{}/x", "x/{}", "{}:x", "x:{}", "{}#x", "x#{}", "{}@x/y", "x/{}@y", "{}?x=y", "x@y?z={}"]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("form", [str, sa.make_url], ids=["text", "URL"])
def test_no_text_shows_a_secret(place: str, form: Callable[[str], str | sa.URL]) -> None:
    url = form(place.format(SECRET))
    texts = [masked(url), str(engines.connect(url)), repr(Tracker(url)), scrubbed(f"failed: {url!s} {SECRET}", url)]
    for text in texts:
        assert SECRET not in text
    assert "127.0.0.1" in texts[0]


@pytest.mark.parametrize("password", UNESCAPED)
@pytest.mark.parametrize("rest", ["127.0.0.1:1/db", "127.0.0.1/db?sslmode=require", "127.0.0.1"])
def test_an_unescaped_password_shows_nowhere(password: str, rest: str) -> None:
    url = f"postgresql+psycopg://user:{password.format(SECRET)}@{rest}"
    try:
        shown = masked(engines.parse(url))
    except ConfigurationError as error:
        shown = str(error)
    assert SECRET not in shown


def test_other_parts_stay_readable() -> None:
    url = "postgresql+psycopg://u:x@h/db?sslmode=require"
    assert masked(url) == "postgresql+psycopg://u:***@h/db?sslmode=require"


def test_a_quoted_connection_string_is_scrubbed() -> None:
    url = sa.URL.create("postgresql+psycopg", "user", "p@ss/word", "h", query={"sslpassword": "other secret"})
    message = 'invalid dsn "password=p@ss/word sslpassword=other secret", postgresql://user:p%40ss%2Fword@h'
    assert scrubbed(message, url) == 'invalid dsn "password=*** sslpassword=***", postgresql://user:***@h'
