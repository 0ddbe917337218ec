"""Driver errors: one class for each code, and one line that names no user."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from usage_instrument.database import dialects
from usage_instrument.database.driver_errors import Fault, describe
from usage_instrument.errors import ConfigurationError


class DriverError(Exception):
    """As a driver raises it."""

    def __init__(self, *arguments: Any, sqlstate: str | None = None) -> None:
        super().__init__(*arguments)
        self.sqlstate = sqlstate


@pytest.mark.parametrize(
    ("sqlstate", "fault"),
    [
        ("40001", Fault.TRANSIENT),
        ("40P01", Fault.TRANSIENT),
        ("55P03", Fault.LOCKED),
        ("57014", Fault.TIMEOUT),
        ("53300", Fault.TRANSIENT),
        ("23505", Fault.TRANSIENT),
        ("23503", Fault.UNKNOWN_USER),
        ("22001", Fault.REFUSED),
        ("2200H", Fault.CONFIGURATION),
        ("40003", Fault.TRANSIENT),
        ("XX000", Fault.INTERNAL),
        ("42501", Fault.CONFIGURATION),
        ("42P01", Fault.CONFIGURATION),
        ("3D000", Fault.CONFIGURATION),
        *((state, Fault.CONNECTION_LOST) for state in ("25006", "25P03", "26000", "42P05")),
        *((state, Fault.CONNECTION_LOST) for state in ("08000", "08001", "08003", "08004", "08006", "08P01")),
        *((f"57P0{number}", Fault.CONNECTION_LOST) for number in range(1, 6)),
        (None, Fault.CONNECTION_LOST),
    ],
)
def test_postgresql(sqlstate: str | None, fault: Fault) -> None:
    error = sa.exc.OperationalError("SELECT 1", {}, DriverError("message", sqlstate=sqlstate))
    assert dialects.get("postgresql").classify(error) is fault
    assert fault.is_transient == (fault not in {Fault.UNKNOWN_USER, Fault.REFUSED, Fault.CONFIGURATION})


@pytest.mark.parametrize(
    ("sqlstate", "is_rolled_back"),
    [("40001", True), ("40P01", True), ("23505", True), ("40003", False), ("XX000", False), (None, False)],
)
def test_a_commit_of_unknown_result_is_in_doubt(sqlstate: str | None, is_rolled_back: bool) -> None:
    error = sa.exc.OperationalError("COMMIT", {}, DriverError("message", sqlstate=sqlstate))
    assert dialects.get("postgresql").is_rolled_back(error) is is_rolled_back


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        (1205, Fault.LOCKED),
        (1213, Fault.TRANSIENT),
        (1452, Fault.UNKNOWN_USER),
        (1406, Fault.REFUSED),
        (1146, Fault.CONFIGURATION),
        *(
            (code, Fault.CONNECTION_LOST)
            for code in (1290, 1792, 1836, 1047, 1053, 1180, 1243, 1927, 2006, 2013, 3032, 4031)
        ),
    ],
)
def test_mariadb(code: int, fault: Fault) -> None:
    error = sa.exc.OperationalError("SELECT 1", {}, DriverError(code, "message"))
    assert dialects.get("mariadb").classify(error) is fault


@pytest.mark.parametrize(("code", "is_rolled_back"), [(1213, True), (1180, False), (1047, False), (2013, False)])
def test_a_commit_that_a_node_of_galera_refuses(code: int, is_rolled_back: bool) -> None:
    error = sa.exc.OperationalError("COMMIT", {}, DriverError(code, "message"))
    assert dialects.get("mariadb").is_rolled_back(error) is is_rolled_back


def test_a_description_is_one_line_without_parameters() -> None:
    error = sa.exc.DataError("INSERT", {"user": "ada@example.org"}, DriverError("too long\nDETAIL: ada@example.org"))
    assert describe(error) == "DriverError: too long"
    assert describe(ValueError()) == "ValueError"
    assert describe(ConfigurationError("set privacy_key")) == "set privacy_key"
    assert len(describe(ValueError("x" * 1000))) < 400
