"""URLs: no text of ours shows a secret, wherever in the URL it stands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from reading import NATIVE_UUID
from usage_instrument.database import engines
from usage_instrument.database.urls import masked, missing_file, scrubbed
from usage_instrument.errors import ConfigurationError, SchemaError
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


def test_a_journal_tells_the_servers_of_several_apart() -> None:
    one = "postgresql+psycopg://user:secret@/db?host=a:5432&host=b:5433&target_session_attrs=read-write"
    names = {
        engines.named(url, None)
        for url in (
            one,
            one.replace("psycopg", "asyncpg"),
            one.replace("host=b", "host=c"),
            "postgresql+psycopg://user:secret@/db?host=/var/run/one",
            "postgresql+psycopg://user:secret@/db",
        )
    }
    assert names == {
        "postgresql://a:5432,b:5433/db",
        "postgresql://a:5432,c:5433/db",
        "postgresql:///var/run/one/db",
        "postgresql://db",
    }


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///usage.db", "usage.db"),
        ("sqlite:///file:usage.db", "file:usage.db"),  # not a URI: that is the name of the file
        ("sqlite:///file:usage.db?uri=false", "file:usage.db"),
        ("sqlite:///file:usage.db?uri=true", "usage.db"),
        ("sqlite:///file:sub/usage.db?mode=rwc&uri=true", "sub/usage.db"),
        # SQLAlchemy 2.1 decodes the path of a URL, and SQLite that of a URI.
        ("sqlite:///file:one%2520two.db?uri=1", "one two.db" if NATIVE_UUID else "one%20two.db"),
        ("sqlite+aiosqlite:///file:usage.db?uri=true", "usage.db"),
    ],
)
def test_a_relative_file_is_found_from_anywhere_and_not_created(
    url: str, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "100%25 of it#1?", tmp_path / "there"
    (here / "sub").mkdir(parents=True)
    there.mkdir()
    monkeypatch.chdir(here)
    database = engines.parse(url)
    monkeypatch.chdir(there)
    connector = engines.connect(database)
    with pytest.raises(SchemaError, match="there is no file"):
        connector.run(lambda connection: None)
    assert engines.named(database, None) == f"sqlite://{here / path}"
    (here / path).touch()
    assert list(there.iterdir()) == []
    connector.run(lambda connection: connection.exec_driver_sql("CREATE TABLE here (n INT)"))
    connector.dispose()
    assert list(there.iterdir()) == []
    assert (here / path).stat().st_size > 0


def test_an_absolute_uri_stays_as_it_is(tmp_path: Path) -> None:
    for form in (f"file:{tmp_path}/x.db", f"file://{tmp_path}/x.db", f"file://localhost{tmp_path}/x.db"):
        url = sa.URL.create("sqlite", database=form, query={"uri": "true"})
        assert engines.parse(url) == url
        assert missing_file(url) == str(tmp_path / "x.db")
        assert engines.named(url, None) == f"sqlite://{tmp_path}/x.db"


@pytest.mark.parametrize(
    ("place", "name"),
    [("postgresql+psycopg://u@h/db?sslrootcert={}", "sslrootcert"), ("mariadb+pymysql://u@h/db?ssl_ca={}", "ssl_ca")],
)
def test_files_in_the_query_are_those_of_configure(
    place: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ca.pem").touch()
    query = engines.url_of(engines.parse(place.format("ca.pem"))).query
    assert query[name] == str(tmp_path / "ca.pem")
    assert engines.url_of(engines.parse(place.format("system"))).query[name] == "system", "a keyword of libpq"


def test_a_path_that_the_system_refuses_raises_nothing_here() -> None:
    path = "/" + 300 * "a"
    url = engines.url_of(f"postgresql+psycopg://u@h/db?sslrootcert={path}")
    assert engines.parse(url) == url
    assert missing_file(engines.url_of(f"sqlite:///{path}")) == path


def test_a_quoted_connection_string_is_scrubbed() -> None:
    url = sa.URL.create("postgresql+psycopg", "user", "p@ss/word", "h", query={"sslpassword": "other secret"})
    message = 'invalid dsn "password=p@ss/word sslpassword=other secret", postgresql://user:p%40ss%2Fword@h'
    assert scrubbed(message, url) == 'invalid dsn "password=*** sslpassword=***", postgresql://user:***@h'
