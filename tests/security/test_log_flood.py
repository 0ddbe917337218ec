"""Visitors must not fill the log."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from conftest import Database
from dashboard.visitor import asgi, wsgi
from usage_instrument.dashboard import asgi as by_asgi
from usage_instrument.dashboard import wsgi as by_wsgi


@pytest.mark.parametrize("kind", [by_asgi, by_wsgi])
@pytest.mark.parametrize("verdict", ["raise", "a redirect"])
def test_a_failing_authorize_is_one_line_a_minute(
    sqlite: Database, kind: Any, verdict: str, caplog: pytest.LogCaptureFixture
) -> None:
    def authorize(_: Any) -> Any:
        if verdict == "raise":
            raise LookupError("no session")
        return verdict

    dashboard = kind.Dashboard(sqlite.url, authorize=authorize, authorize_audit=authorize)
    with caplog.at_level(logging.INFO, "usage_instrument"):
        for path in ("/", "/audit") * 20:
            assert (asgi if kind is by_asgi else wsgi)(dashboard, path).status == 403
    assert len([record for record in caplog.records if "authorize" in record.getMessage()]) == 1
