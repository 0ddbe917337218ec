"""The page about the dashboard: its snippets run as they stand."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.testclient import TestClient

from usage_instrument.dashboard.results import BY_PAGE
from usage_instrument.dashboard.site import _PAGES

from .test_mounted import Backend
from .visitor import wsgi

TEXT = (Path(__file__).parents[2] / "docs" / "guides" / "dashboard.md").read_text(encoding="utf-8")


def test_the_snippets_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("django")
    importlib.import_module("django_site")  # configures the settings
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "pages"}
    for snippet in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL):
        exec(compile(snippet, "dashboard.md", "exec"), names)
    names["app"].add_middleware(AuthenticationMiddleware, backend=Backend())
    with TestClient(names["app"]) as client:
        assert client.get("/admin/usage/").status_code == 403
        page = client.get("/admin/usage/", headers={"x-user": "root"})
        assert page.status_code == 503
        assert "usage-instrument db create" in page.text
    assert names["flask_app"].test_client().get("/admin/usage/").status_code == 403
    assert str(names["urlpatterns"][0].pattern) == "admin/usage/"
    refused = wsgi(names["trail"], "/audit")
    assert refused.status == 403


def test_the_pages_are_those_that_there_are() -> None:
    named = re.findall(r"^\| [^|]+ \| `([^`?]+)", TEXT, re.MULTILINE)
    pages = {path.removeprefix("/") for path in _PAGES} | {"audit", "audit-anomalies"}
    assert {name.removeprefix("./") for name in named} - set(BY_PAGE) == pages - set(BY_PAGE)
