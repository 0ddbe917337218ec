"""The app's own rule looks at each use before it is kept: it scrubs, drops, and fails closed."""

from __future__ import annotations

import re
import uuid
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import usage_instrument as usage
from conftest import Database
from reading import all_of, balanced, counts, made
from usage_instrument import Settings, Tracker, _default
from usage_instrument.asgi import UsageMiddleware
from usage_instrument.capture.context import Request, holder
from usage_instrument.errors import FeatureNameError, UsageInstrumentError
from usage_instrument.events import Use
from usage_instrument.exclusions import people_only, without_bots, without_impersonation
from usage_instrument.wsgi import UsageMiddleware as WSGIMiddleware

PAGE = Path(__file__).parents[1] / "docs" / "guides" / "privacy.md"


def tracker_with(database: Database, rule: Any, **settings: Any) -> Tracker:
    made(database.engine(), users=None, user_id_type="string")
    return Tracker(
        database.url,
        Settings(before_track=rule, flush_interval=3600, users=None, user_id_type="string", **settings),
    )


def rows(tracker: Tracker, database: Database) -> dict[tuple[Any, Any], tuple[int, Any]]:
    assert tracker.shutdown(60), tracker.stats()
    tables = made(database.engine(), users=None, user_id_type="string")
    return {
        (row.feature_name, row.user_id): (row.usage_count, row.metadata)
        for row in all_of(database.engine(), tables.usage)
    }


@pytest.mark.parametrize("journal", [False, True], ids=["memory", "journal"])
def test_it_scrubs_and_drops(journal: bool, sqlite: Database, tmp_path: Path) -> None:
    seen = []

    def rule(use: Use) -> Use | None:
        seen.append(use)
        if use.feature == "secret":
            return None
        if isinstance(use.metadata, dict) and "email" in use.metadata:
            return use._replace(metadata={"plan": dict(use.metadata)["plan"]})
        return use._replace(feature=use.feature.lower(), user=None) if use.user == "boss" else use

    tracker = tracker_with(sqlite, rule, journal=str(tmp_path / "journal") if journal else None)

    @tracker.tracks("Plain")
    def plain() -> None: ...

    @tracker.tracks("secret")
    def secret() -> None: ...

    for user in ("ada", "boss"):
        with tracker.as_user(user):
            plain()
            secret()
    tracker.track("nested", user="ada", metadata={"plan": {"name": "pro"}, "email": "a@b"}, count=3)
    assert Use("nested", "ada", {"plan": {"name": "pro"}, "email": "a@b"}, 3) in seen
    assert rows(tracker, sqlite) == {
        ("Plain", "ada"): (1, None),
        ("plain", None): (1, None),
        ("nested", "ada"): (3, {"plan": {"name": "pro"}}),
    }
    assert (tracker.stats().captured, tracker.stats().rejected) == (5, 0)


def raising(use: Use) -> Use:
    raise LookupError(f"of {use.user}")


@pytest.mark.parametrize(
    ("rule", "error"),
    [
        (raising, LookupError),
        (lambda use: True, UsageInstrumentError),
        (lambda use: use._replace(feature=""), FeatureNameError),
        (lambda use: use._replace(user=object()), UsageInstrumentError),
        (lambda use: use._replace(uses=0), UsageInstrumentError),
        (lambda use: use._replace(metadata=[1]), UsageInstrumentError),
    ],
)
def test_it_fails_closed(rule: Any, error: type[Exception], sqlite: Database, caplog: pytest.LogCaptureFixture) -> None:
    tracker = tracker_with(sqlite, rule)

    @tracker.tracks("f")
    def plain() -> int:
        return 7

    with tracker.as_user("ada@example.org"):
        assert plain() == 7
    tracker.track("f", user="ada@example.org", count=2)
    assert rows(tracker, sqlite) == {}
    assert tracker.stats().rejected == 3
    assert balanced(tracker.stats())
    assert "example.org" not in caplog.text
    strict = tracker_with(sqlite, rule, strict=True)
    with pytest.raises(error):
        strict.track("f")


def test_what_it_calls_is_no_use(sqlite: Database) -> None:
    def rule(use: Use) -> Use:
        helper()
        tracker.track("inside")
        return use

    tracker = tracker_with(sqlite, rule)

    @tracker.tracks("helper")
    def helper() -> None: ...

    tracker.track("f")
    assert rows(tracker, sqlite) == {("f", None): (1, None)}


def test_a_disabled_tracker_asks_nobody(sqlite: Database) -> None:
    tracker = tracker_with(sqlite, raising, enabled=False)
    tracker.track("f")
    assert tracker.stats().rejected == 0


# ---- robots and impersonators

BROWSERS = [
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0 Safari/537.36",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) AppleWebKit/605.1.15 Version/18.1 Mobile Safari/604.1",
    "",
]
BOTS = [
    "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
    "Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko; compatible; GPTBot/1.2; +https://openai.com/gptbot)",
    "facebookexternalhit/1.1",
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 HeadlessChrome/142.0 Safari/537.36",
    "curl/8.5.0",
    "python-requests/2.32",
    "kube-probe/1.30",
    "Pingdom.com_bot_version_1.4",
]


async def asgi_app(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def wsgi_app(environ: Any, start_response: Any) -> Any:
    start_response("200 OK", [])
    return [b""]


def test_robots_are_no_users(sqlite: Database) -> None:
    import asyncio

    tracker = tracker_with(sqlite, without_bots)
    by_asgi = UsageMiddleware(asgi_app, tracker=tracker, features={"/": "page"})
    by_wsgi = WSGIMiddleware(wsgi_app, tracker=tracker, features={"/": "page"})

    async def send(message: Any) -> None: ...

    for agent in (*BROWSERS, *BOTS):
        headers = [(b"host", b"x"), (b"user-agent", agent.encode())]
        scope = {"type": "http", "method": "GET", "path": "/", "headers": headers}
        asyncio.run(by_asgi(scope, send, send))  # type: ignore[arg-type]
        environ = {"REQUEST_METHOD": "GET", "SCRIPT_NAME": "", "PATH_INFO": "/", "HTTP_USER_AGENT": agent}
        list(by_wsgi(environ, lambda *_: None))  # type: ignore[arg-type]
    assert rows(tracker, sqlite) == {("page", None): (2 * len(BROWSERS), None)}


def ruled(rule: Any, carrier: object) -> bool:
    """Whether a use in a request that came in this is kept."""
    request = Request("http", "GET")
    request.info = carrier
    token = holder.set(request)
    try:
        return bool(rule(Use("f", "ada")) == Use("f", "ada"))
    finally:
        holder.reset(token)


@pytest.mark.parametrize(
    ("carrier", "kept"),
    [
        ({"session": {}}, True),
        ({"session": {"impersonator": "root"}}, False),
        ({"session": {"impersonator_id": None}, "user": SimpleNamespace(id=1)}, True),
        ({"user": SimpleNamespace(id=1, is_impersonate=True)}, False),
        (SimpleNamespace(user=SimpleNamespace(_wrapped=SimpleNamespace(is_hijacked=True))), False),
        (SimpleNamespace(user=SimpleNamespace(_wrapped=object())), True),
        (SimpleNamespace(session=SimpleNamespace(_session_cache={"hijack_history": ["1"]})), False),
        (SimpleNamespace(session=SimpleNamespace()), True),
        (SimpleNamespace(headers={"user-agent": "curl/8"}), True),
    ],
)
def test_who_acts_as_another_is_no_user(carrier: object, kept: bool) -> None:
    assert ruled(without_impersonation, carrier) is kept
    is_curl = bool(getattr(carrier, "headers", None))
    assert ruled(people_only, carrier) is (kept and not is_curl)


def test_outside_of_a_request_nobody_is_excluded() -> None:
    assert people_only(Use("f", "ada")) == Use("f", "ada")


def test_the_page_on_privacy_runs(sqlite: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    asked, _, rule = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    tables = made(sqlite.engine(), users=None)
    names: dict[str, Any] = {"ada": uuid.uuid4()}
    exec(compile(rule.replace("sqlite:///usage.db", sqlite.url), PAGE.name, "exec"), names)
    usage.track("internal_thing")
    usage.track("export", metadata={"email": "a@b", "format": "csv"})
    assert usage.flush(60)
    assert counts(sqlite.engine(), tables) == {("export", None): 1}
    (row,) = all_of(sqlite.engine(), tables.usage)
    assert row.metadata == {"format": "csv"}
    _default.reset()
    usage.configure(sqlite.url, privacy_key="k" * 32)
    usage.track("search", user=names["ada"])
    exec(compile(asked, PAGE.name, "exec"), names)
    assert names["receipt"].deleted == {
        "feature_usage_outbox": 0, "feature_usage": 1, "feature_usage_history": 1, "feature_usage_exposures": 0,
        "feature_usage_dimensions": 0,
    }  # fmt: skip
    _default.reset()
