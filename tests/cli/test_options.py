"""What commands take from the environment beside their options."""

from __future__ import annotations

import pytest

from usage_instrument.cli.options import settings


def test_settings_about_the_server_are_those_of_the_environment_and_others_are_the_options(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("USAGE_INSTRUMENT_FLUSH_STATEMENTS", "portable")
    monkeypatch.setenv("USAGE_INSTRUMENT_READ_TIMEOUT", "2m")
    monkeypatch.setenv("USAGE_INSTRUMENT_SCHEMA", "of_the_app")
    found = settings("given", "none", "integer")
    assert (found.flush_statements, found.read_timeout) == ("portable", 120)
    assert (found.schema, found.user_id_type) == ("given", "integer")
