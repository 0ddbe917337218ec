"""The snippets of the guides to the frameworks, run as they stand, with requests to the apps they make."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

import usage_instrument as usage
from reading import counts, made
from usage_instrument import _default
from usage_instrument.schema import Tables, define_tables

ADA = uuid.UUID("6f1f9c1e-2f0a-4f6e-9f0b-6a2f4c1d7e55")
GUIDES = Path(__file__).parents[1] / "docs" / "guides"


def snippets(page: str) -> list[str]:
    text = (GUIDES / page).read_text(encoding="utf-8")
    return [textwrap.dedent(snippet) for snippet in re.findall(r"```python\n(.*?)```", text, re.DOTALL)]


def run(page: str) -> dict[str, Any]:
    """What the snippets of a page define."""
    names: dict[str, Any] = {"__name__": "guides"}
    for snippet in snippets(page):
        exec(compile(snippet, page, "exec", dont_inherit=True), names)
    return names


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[sa.Engine]:
    monkeypatch.chdir(tmp_path)
    engine = sa.create_engine("sqlite:///usage.db")
    yield engine
    _default.reset()  # while its files are there
    engine.dispose()


def test_flask(engine: sa.Engine, tmp_path: Path) -> None:
    pytest.importorskip("flask_sqlalchemy")
    names = run("flask.md")
    made(engine, users=None)
    assert names["app"].test_client().get("/").status_code == 404
    app, db = names["create_app"](f"sqlite:///{tmp_path / 'shop.db'}"), names["db"]
    with app.app_context():
        db.create_all()
        assert app.test_client().get("/events").json == ["Choir practice"]
        assert usage.flush(60)
        assert counts(db.engine, Tables.of(db.metadata.tables["feature_usage"])) == {("list_events", None): 1}
        usage.shutdown(60)
        db.engine.dispose()


def test_starlette_and_fastapi(engine: sa.Engine) -> None:
    pytest.importorskip("fastapi")
    from starlette.testclient import TestClient

    tables = made(engine, users=None, user_id_type="string")
    token = {"Authorization": "Bearer secret-of-ada"}
    with TestClient(run("starlette.md")["app"]) as client:
        assert client.get("/events/7", headers=token).json() == {"event": 7}
    assert counts(engine, tables) == {("events:show_event", "ada"): 1}
    with TestClient(run("fastapi.md")["api"]) as client:
        assert client.post("/v1/events/7/follow", headers={"X-User": "ada"}).status_code in (401, 403)
        assert client.post("/v1/events/7/follow", headers=token).status_code == 204
        assert client.get("/docs").status_code == 200
    assert counts(engine, tables) == {("events:show_event", "ada"): 1, ("calendar_follow_event", "ada"): 1}


SITE = """
import pathlib, sys

import django
from django.conf import settings
from django.core.management import call_command, execute_from_command_line
from django.http import HttpResponse
from django.urls import include, path

exec(pathlib.Path("snippet.py").read_text())
settings.configure(
    INSTALLED_APPS=INSTALLED_APPS, MIDDLEWARE=MIDDLEWARE, USAGE_INSTRUMENT=USAGE_INSTRUMENT, ROOT_URLCONF=__name__,
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "usage.db"}}, ALLOWED_HOSTS=["*"],
)
django.setup()
shop = [path("checkout", lambda request: HttpResponse("ok"), name="checkout")]
urlpatterns = [path("shop/", include((shop, "shop")))]
call_command("migrate", verbosity=0)
try:
    execute_from_command_line(["manage.py", "usage", "db", "create"])
except SystemExit as end:
    assert not end.code, end.code
from django.test import Client
assert Client().get("/shop/checkout").content == b"ok"
"""


def test_django(engine: sa.Engine, tmp_path: Path) -> None:
    pytest.importorskip("django")
    (snippet,) = snippets("django.md")
    (tmp_path / "snippet.py").write_text(snippet)
    done = subprocess.run([sys.executable, "-c", SITE], cwd=tmp_path, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    tables = define_tables(sa.MetaData(), users=None, user_id_type="integer")
    assert counts(engine, tables) == {("shop_checkout", None): 1}


def test_celery(engine: sa.Engine) -> None:
    pytest.importorskip("celery")
    tables = made(engine, users=None)
    usage.configure("sqlite:///usage.db")
    app = run("workers.md")["tasks"]

    @app.task(name="remind")  # type: ignore[untyped-decorator]
    def remind() -> None: ...

    remind.apply()
    assert usage.flush(60)
    assert counts(engine, tables) == {("remind", None): 1, ("digest_sent", ADA): 1, ("report_sent", ADA): 1}
