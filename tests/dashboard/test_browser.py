"""The command's own server in a real browser: it renders, it works without a script, and nothing leaves the origin."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from uuid import UUID

import pytest

from conftest import Database
from reading import all_of, made
from servers import Missing
from traffic import PORT, serving
from usage_instrument import Settings, Tracker
from usage_instrument.dashboard.token_auth import TokenAuth
from usage_instrument.events import NAME_LENGTH

from .browser import Browser, browser
from .conftest import HOSTILE, Past

COMMAND = Path(sys.executable).with_name("usage-instrument")
ADA, BOB = UUID(int=2**64 + 1), UUID(int=2**64 + 2)
TOKEN = "a token of the tests"
PROVEN = f"?token={TOKEN.replace(' ', '+')}"
PREFIX = TokenAuth(TOKEN).prefix


@pytest.fixture
def tab() -> Iterator[Browser]:
    try:
        with browser() as found:
            yield found
    except Missing as missing:
        if os.environ.get("CI"):
            pytest.fail(f"CI needs a real browser: {missing}")
        pytest.skip(f"{missing}; install it to run this test")


@contextlib.contextmanager
def dashboard(url: str, directory: Path, *options: str) -> Iterator[str]:
    """Its address, without the token."""
    file = directory / "token"
    file.write_text(TOKEN)
    file.chmod(0o600)
    command = [str(COMMAND), "dashboard", "--url", url, "--port", PORT, "--token-file", str(file), *options]
    with serving(command, {}) as server:
        yield f"http://127.0.0.1:{server.port}/{PREFIX}/"


def test_the_real_page(small_past: Past, tab: Browser, tmp_path: Path) -> None:
    seen = {"first_exposed_at": datetime(2026, 1, 1), "last_exposed_at": datetime(2026, 1, 1), "exposures": 1}
    with small_past.engine.begin() as connection:
        keys = {"experiment": "button", "unit": "visitor", "variant": "W" * NAME_LENGTH}
        connection.execute(small_past.tables.exposures.insert().values(**keys, **seen))
    with dashboard(small_past.url, tmp_path) as origin:
        tab.go(origin)
        assert "You may not look at this" in tab.run("document.body.innerText")
        assert "search" not in tab.run("document.body.innerText")
        tab.complaints.clear()  # of the 401
        tab.call("Emulation.setScriptExecutionDisabled", value=True)  # the page's own, if it had any

        tab.go(origin + PROVEN)
        assert tab.run("location.href") == origin
        assert tab.run("document.querySelector('h1').innerText") == "The last 28 days"
        assert tab.run("document.cookie") == ""
        assert tab.run("document.querySelectorAll('.chart g').length") == 2 * 28
        assert tab.run("document.querySelector('.chart rect.series-1').getBoundingClientRect().height") > 10
        assert tab.run("getComputedStyle(document.body).maxWidth") != "none", "the style sheet is there"

        tab.click(".periods li:first-child a")
        assert tab.run("location.search") == "?period=7d"
        assert tab.run("document.querySelector('h1').innerText") == "The last 7 days"
        assert tab.run("document.querySelectorAll('.chart g').length") == 2 * 7

        tab.go(f"{origin}top-features")
        names = tab.run("[...document.querySelectorAll('tbody th')].map(cell => cell.textContent.trim())")
        assert set(HOSTILE) <= set(names)
        assert tab.run("document.querySelectorAll('main script, main img, main b').length") == 0
        tab.click("tbody tr:nth-child(3) a")
        assert tab.run("document.querySelector('h1').textContent") in {*HOSTILE, "search", "export"}

        tab.go(origin)
        tab.press("Tab", 9)
        assert tab.run("document.activeElement.className") == "skip"
        assert tab.run("document.activeElement.getBoundingClientRect().top") >= 0, "it shows"
        for _ in range(2):
            tab.press("Tab", 9)
        assert tab.run("document.activeElement.name") == "q"
        tab.call("Input.insertText", text="exp")
        tab.press("Enter", 13)
        tab.wait()
        assert tab.run("document.querySelector('.found').innerText") == "export"

        for width in (360, 1280):
            tab.look(width, dark=width == 360)
            for page in (
                "",
                "feature?feature=search",
                f"user?user={small_past.user_ids[0]}",
                "adoption",
                "experiments",
                "experiment?experiment=button&goal=search",
            ):
                tab.go(origin + page)
                assert tab.run("document.documentElement.scrollWidth") <= width, (page, width)
        assert tab.run("getComputedStyle(document.body).color") != ""
        assert {address.partition("?")[0].startswith((origin, "data:")) for address in tab.requests} == {True}
        assert tab.complaints == []


@pytest.mark.parametrize("past", ["postgresql"], indirect=True)
def test_a_page_that_takes_long_comes_by_itself(past: Past, tab: Browser, tmp_path: Path) -> None:
    with dashboard(past.url, tmp_path) as origin, past.engine.connect() as connection:
        tab.call("Emulation.setScriptExecutionDisabled", value=True)
        connection.exec_driver_sql("LOCK TABLE feature_usage_history IN ACCESS EXCLUSIVE MODE")
        tab.call("Page.navigate", url=origin + PROVEN)
        while tab.run("document.querySelector('h1')?.innerText") != "Counting …":
            pass
        connection.rollback()
        tab.wait()
        assert tab.run("document.querySelector('h1').innerText") == "The last 28 days"
        assert tab.complaints == []


def test_the_audit_trail_is_searched_without_a_script(sqlite: Database, tab: Browser, tmp_path: Path) -> None:
    tables = made(sqlite.engine())
    bank = Tracker(sqlite.url, Settings())
    for user in (ADA, BOB):
        bank.track("open_vault", user=user, audit=True, metadata={"note": "<b>bold</b>" * 40})
    assert bank.shutdown()
    with dashboard(sqlite.url, tmp_path, "--audit-as", str(ADA)) as origin:
        tab.go(origin + PROVEN)
        tab.call("Emulation.setScriptExecutionDisabled", value=True)
        tab.click('a[href="audit"]')
        assert tab.run("document.querySelectorAll('tbody tr').length") == 2
        assert tab.run("document.querySelectorAll('main b').length") == 0
        tab.run("document.querySelector('[name=user]').focus()")
        tab.call("Input.insertText", text=str(BOB))
        tab.press("Enter", 13)
        tab.wait()
        assert tab.run("[...document.querySelectorAll('tbody tr')].map(row => row.cells[1].innerText)") == [str(BOB)]
        tab.click("tbody .name a")
        assert tab.run("document.querySelector('[name=feature]').value") == "open_vault"
        for width in (360, 1280):
            tab.look(width, dark=width == 360)
            tab.go(f"{origin}audit")
            assert tab.run("document.documentElement.scrollWidth") <= width, width
        assert tab.complaints == []
    looks = [row for row in all_of(sqlite.engine(), tables.access) if row.feature_name == "usage_instrument.look"]
    assert {(row.user_id, row.outcome, row.service) for row in looks} == {
        (ADA, "success", "usage-instrument dashboard")
    }
    assert len(looks) == 5
