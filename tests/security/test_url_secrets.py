"""Attack: read a database password over somebody's shoulder, or in a log: it may stand anywhere in the URL."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from usage_instrument.cli.app import app
from usage_instrument.privacy import api

SECRET = "s3cr3t"
USER = "00000000-0000-0001-0000-000000000001"
URLS = [
    f"postgresql+psycopg://127.0.0.1:1/db?user=u&password={SECRET}",
    f"postgresql+psycopg://127.0.0.1:1/db?sslpassword={SECRET}",
    f"mariadb+pymysql://127.0.0.1:1/db?user=u&password={SECRET}",
    f"postgresql+psycopg://user:{SECRET}@x/y@127.0.0.1:1/db",
]
COMMANDS = [
    ["top"],
    ["user", USER],
    ["sql", "top"],
    ["db", "create"],
    ["db", "check"],
    ["db", "upgrade", "--yes"],
    ["db", "views"],
    ["audit", "show"],
    ["audit", "export"],
    ["audit", "verify"],
    ["audit", "checkpoint"],
    ["audit", "cut", "--older-than", "400d"],
    ["forget", USER],
    ["export", USER],
    ["opt-out", USER],
    ["opt-in", USER],
    ["prune"],
    ["doctor"],
    ["dashboard", "--port", "0"],
]


@pytest.mark.parametrize("url", URLS)
def test_no_command_prints_a_password(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "PATIENCE", 0.0)
    monkeypatch.setenv("USAGE_INSTRUMENT_PRIVACY_KEY", "p" * 32)
    for command in COMMANDS:
        done = CliRunner().invoke(app, [*command, "--url", url])
        assert done.exit_code != 0, command
        assert isinstance(done.exception, SystemExit), (command, done.exception)
        assert SECRET not in done.output, command
