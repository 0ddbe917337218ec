"""The cookie of the command's dashboard reaches every port of the host, and pages of other sites can ask for a page."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest
from typer.testing import CliRunner

from conftest import Database
from dashboard.visitor import asgi, wsgi
from reading import made
from usage_instrument.cli.app import app
from usage_instrument.dashboard import asgi as by_asgi
from usage_instrument.dashboard import wsgi as by_wsgi
from usage_instrument.dashboard.token_auth import TokenAuth
from usage_instrument.errors import ConfigurationError

SECRET = "correct horse battery"
FOREIGN = [
    {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "image"},
    {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Dest": "document"},  # another port of this host
    {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "document"},
    {"Sec-Fetch-Site": "none", "Sec-Fetch-Dest": "image"},
    {"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Dest": "iframe"},
]


def protected(url: str) -> tuple[TokenAuth, Any]:
    auth = TokenAuth(SECRET)
    return auth, auth.protect(by_asgi.Dashboard(url, authorize=auth.authorize))


def test_the_cookie_is_valid_below_a_path_that_cannot_be_guessed(sqlite: Database) -> None:
    made(sqlite.engine())
    auth, dashboard = protected(sqlite.url)
    assert len(auth.prefix) >= 16
    assert auth.prefix != TokenAuth("another secret token").prefix
    first = asgi(dashboard, "/", token=SECRET)
    assert (first.status, first.headers["Location"]) == (303, f"./{auth.prefix}/?token=correct+horse+battery")
    assert "Set-Cookie" not in first.headers, "a cookie of the root would reach every path of every port"
    second = asgi(dashboard, f"/{auth.prefix}/feature", token=SECRET, feature="a b")
    cookie, *attributes = second.headers["Set-Cookie"].split("; ")
    assert not [each for each in attributes if each.lower().startswith(("path", "domain"))]
    assert second.headers["Location"] == "./feature?feature=a+b"
    page = asgi(dashboard, f"/{auth.prefix}/", headers=[("Cookie", cookie)])
    assert page.status == 200
    assert SECRET not in page.text + cookie


def test_it_works_behind_a_proxy_that_strips_a_path_and_below_a_mount(sqlite: Database) -> None:
    made(sqlite.engine())
    auth, dashboard = protected(sqlite.url)
    answer = asgi(dashboard, f"/{auth.prefix}/", mount="/deep", token=SECRET)
    seen = urljoin(f"http://host/proxied/{auth.prefix}/?token=x", answer.headers["Location"])
    assert seen == f"http://host/proxied/{auth.prefix}/"
    cookie = answer.headers["Set-Cookie"].partition(";")[0]
    assert asgi(dashboard, f"/{auth.prefix}/", mount="/deep", headers=[("Cookie", cookie)]).status == 200


@pytest.mark.parametrize("headers", FOREIGN)
@pytest.mark.parametrize("kind", [by_asgi, by_wsgi])
def test_a_page_of_another_site_gets_nothing(sqlite: Database, kind: Any, headers: dict[str, str]) -> None:
    asked = []

    def authorize(given: Any) -> bool:
        asked.append(given)
        return True

    dashboard = kind.Dashboard(sqlite.url, authorize=authorize, authorize_audit=authorize)
    for path in ("/", "/audit", "/audit.csv", "/top-features.csv"):
        answer = (asgi if kind is by_asgi else wsgi)(dashboard, path, headers=headers.items())
        assert answer.status == 403
        assert "Another site asks for this page" in answer.text
    assert asked == [], "nobody was asked, so nothing was recorded in anybody's name"


@pytest.mark.parametrize("kind", [by_asgi, by_wsgi])
def test_a_visitor_who_follows_a_link_can_go_on(sqlite: Database, kind: Any) -> None:
    made(sqlite.engine())
    dashboard = kind.Dashboard(sqlite.url, authorize=lambda _: True)
    visit = asgi if kind is by_asgi else wsgi
    refused = visit(dashboard, "/trend", period="7d", headers=[("Sec-Fetch-Site", "cross-site")])
    assert "./trend?period=7d" in [link["href"] for link in refused.page.all("a")]
    for site in ("same-origin", "none"):
        headers = [("Sec-Fetch-Site", site), ("Sec-Fetch-Dest", "document")]
        assert visit(dashboard, "/trend", period="7d", headers=headers).status in (200, 202)


def refused(url: str, token: str, mode: int, tmp_path: Path) -> str:
    file = tmp_path / "token"
    file.write_text(token)
    file.chmod(mode)
    done = CliRunner().invoke(app, ["dashboard", "--url", url, "--token-file", str(file)])
    assert done.exit_code == 2
    assert done.stderr.count("\n") == 1
    return done.stderr


@pytest.mark.skipif(os.name != "posix", reason="no such permissions")
@pytest.mark.parametrize("mode", [0o604, 0o644, 0o622, 0o620])
def test_a_token_that_others_can_read_or_write_is_refused(sqlite: Database, tmp_path: Path, mode: int) -> None:
    made(sqlite.engine())
    message = refused(sqlite.url, SECRET, mode, tmp_path)
    assert "chmod 600" in message
    assert stat.S_IMODE((tmp_path / "token").stat().st_mode) == mode


def test_a_weak_token_is_refused(sqlite: Database, tmp_path: Path) -> None:
    made(sqlite.engine())
    for weak in ("short", "a" * 40, "abababababababababab"):
        assert "printable ASCII characters" in refused(sqlite.url, weak, 0o600, tmp_path)
        with pytest.raises(ConfigurationError, match="different"):
            TokenAuth(weak)
