"""The tables in the panels of SQLAdmin, Flask-Admin and Django: the most used features first, and nothing to change."""

from __future__ import annotations

import html
import re

import pytest

pytest.importorskip("django")
pytest.importorskip("flask_admin")
pytest.importorskip("sqladmin")

import flask_admin
import sqladmin
import sqlalchemy as sa
from django.core.management import call_command
from django.db import connections
from django.test import Client
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from starlette.applications import Starlette
from starlette.testclient import TestClient

import django_site as site
from conftest import Database
from reading import all_of, made
from usage_instrument import _default
from usage_instrument.integrations import flask_admin as by_flask
from usage_instrument.integrations import sqladmin as by_sqladmin
from usage_instrument.schema import Tables
from usage_instrument.views import create_views

USES = {"search": 3, "export": 70, "<b>share</b>": 9}


@pytest.fixture
def tables(database: Database) -> Tables:
    return filled(database)


def filled(database: Database) -> Tables:
    engine = database.engine()
    tables = made(engine, user_id_type="integer")
    with engine.begin() as connection:
        for feature, uses in USES.items():
            for user in (1, None):
                connection.execute(
                    tables.usage.insert().values(
                        user_id=user, feature_name=feature, usage_count=uses, metadata={"k": "value"}
                    )
                )
    return tables


def words(text: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", text)).split())


def test_sqladmin_lists_and_changes_nothing(database: Database, tables: Tables) -> None:
    engine = database.engine(poolclass=sa.NullPool)
    app = Starlette()
    views = by_sqladmin.add_views(sqladmin.Admin(app, engine), tables)
    assert len(views) == 3
    with TestClient(app) as client:
        said = words(client.get("/admin/most-used-feature/list").text)
        assert re.search(r"export 140 1 .*<b>share</b> 18 1 .*search 6 1 ", said)
        row = all_of(engine, tables.usage)[0]
        assert "value" in client.get(f"/admin/feature-usage/details/{row.id}").text
        assert "search" in words(client.get("/admin/feature-usage/list?search=sear").text)
        assert client.get("/admin/declared-feature/list").status_code == 200
        for path in ("create", f"edit/{row.id}", "export/csv"):
            assert client.get(f"/admin/feature-usage/{path}").status_code == 403
        assert client.delete(f"/admin/feature-usage/delete?pks={row.id}").status_code == 403
    assert len(all_of(engine, tables.usage)) == 6


def test_flask_admin_lists_and_changes_nothing(database: Database, tables: Tables) -> None:
    app, db = Flask(__name__), SQLAlchemy()
    app.config.update(SQLALCHEMY_DATABASE_URI=database.url, SECRET_KEY="of a test")
    db.init_app(app)

    class Guarded(by_flask.UsageView):
        def is_accessible(self) -> bool:
            return is_open

    by_flask.add_views(flask_admin.Admin(app), db, tables, view=Guarded)
    client, is_open = app.test_client(), False
    assert client.get("/admin/mostusedfeature/").status_code == 403
    is_open = True
    said = words(client.get("/admin/mostusedfeature/").text)
    assert re.search(r"export 140 1 .*<b>share</b> 18 1 .*search 6 1 ", said)
    assert "search" in words(client.get("/admin/featureusage/?search=sear").text)
    assert client.get("/admin/declaredfeature/").status_code == 200
    row = all_of(database.engine(), tables.usage)[0]
    for path in ("new/", f"edit/?id={row.id}", "export/csv/"):
        assert client.get(f"/admin/featureusage/{path}").status_code == 302
    for path, form in (("delete/", {"id": row.id}), ("action/", {"action": "delete", "rowid": row.id})):
        client.post(f"/admin/featureusage/{path}", data=form)
    assert len(all_of(database.engine(), tables.usage)) == 6
    with app.app_context():
        db.session.remove()
        db.engine.dispose()


def test_the_tables_default_to_those_of_the_tracker(sqlite: Database) -> None:
    filled(sqlite)
    _default.configure(sqlite.url, user_id_type="integer")
    app = Starlette()
    by_sqladmin.add_views(sqladmin.Admin(app, sqlite.engine()))
    with TestClient(app) as client:
        assert "export" in client.get("/admin/feature-usage/list").text


def test_django_shows_its_tables_and_names_the_command_for_a_missing_one() -> None:
    site.DATABASE.parent.mkdir(exist_ok=True)
    call_command("migrate", verbosity=0)
    engine = sa.create_engine(f"sqlite:///{site.DATABASE}")
    client = Client()
    client.force_login(site.User.objects.create_superuser("grace"))
    try:
        answer = client.get("/admin/usage_instrument_panel/feature/", follow=True)
        assert "if it does not exist, run `manage.py usage db views`" in words(answer.content.decode())
        tables = made(engine, user_id_type="integer")
        create_views(engine)
        with engine.begin() as connection:
            for feature, uses in USES.items():
                connection.execute(tables.usage.insert().values(user_id=1, feature_name=feature, usage_count=uses))
        answer = client.get("/admin/usage_instrument_panel/feature/")
        assert re.search(r"export 70 .*<b>share</b> 9 .*search 3 ", words(answer.content.decode()))
        assert client.get("/admin/usage_instrument_panel/feature/export/change/").status_code == 200
        row = all_of(engine, tables.usage)[0]
        address = "/admin/usage_instrument_panel/featureusage"
        assert "search" in client.get(f"{address}/?q=sear").content.decode()
        assert client.get(f"{address}/{row.id}/change/").status_code == 200
        assert client.post(f"{address}/{row.id}/change/", {"usage_count": 1}).status_code == 403
        assert client.post(f"{address}/{row.id}/delete/", {"post": "yes"}).status_code == 403
        assert client.get(f"{address}/add/").status_code == 403
        assert len(all_of(engine, tables.usage)) == 3
    finally:
        engine.dispose()
        connections.close_all()
        site.DATABASE.unlink()
