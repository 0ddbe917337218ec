"""What README.md and docs/guides/developers.md print, run as a reader would."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

import servers
import usage_instrument as usage
from conftest import Database
from reading import counts, made
from usage_instrument import Settings
from usage_instrument.schema import define_tables
from usage_instrument.settings import DATABASE_VARIABLE, ENVIRONMENT_PREFIX

ROOT = Path(__file__).parents[1]
README, DEVELOPERS, SETTINGS = (
    (ROOT / page).read_text(encoding="utf-8")
    for page in ("README.md", "docs/guides/developers.md", "docs/reference/settings.md")
)
ADA = uuid.UUID("6f1f9c1e-2f0a-4f6e-9f0b-6a2f4c1d7e55")


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


class Reader:
    """Somebody who copies blocks into files and commands into a shell, in a directory of their own."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.port = directory, servers.free_port()
        programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        database = f"sqlite:///{directory / 'usage.db'}"
        self.environment = {**os.environ, "PATH": programs, DATABASE_VARIABLE: database}

    def run(self, command: str) -> str:
        return subprocess.run(
            shlex.split(command, comments=True), cwd=self.directory, env=self.environment, check=True, text=True,
            stdout=subprocess.PIPE,
        ).stdout  # fmt: skip

    def serve(self, command: str, *requests: tuple[str, str]) -> None:
        """Start the server, send it these requests, and press Ctrl-C."""
        server = subprocess.Popen(
            shlex.split(command), cwd=self.directory, env=self.environment, stderr=subprocess.PIPE, text=True
        )
        try:
            for method, path in requests:
                self.ask(server, urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", method=method))
        finally:
            server.send_signal(signal.SIGINT)
            _, log = server.communicate(timeout=60)
        assert "Traceback" not in log, log

    @staticmethod
    def ask(server: subprocess.Popen[str], request: urllib.request.Request) -> None:
        for _ in range(600):  # until it listens
            try:
                urllib.request.urlopen(request).close()
                return
            except urllib.error.HTTPError:
                raise
            except urllib.error.URLError:
                assert server.poll() is None, server.communicate()[1]
                time.sleep(0.05)
        raise AssertionError("the server does not answer")


@pytest.fixture
def reader(tmp_path: Path) -> Reader:
    return Reader(tmp_path)


@pytest.mark.parametrize(
    ("framework", "server"), [("Flask", "flask run --port {}"), ("FastAPI", "uvicorn --port {} app:app")]
)
def test_an_app_of_the_readme_shows_the_rows_that_it_prints(framework: str, server: str, reader: Reader) -> None:
    (app,) = [block for block in blocks(README, "python") if f"import {framework}" in block]
    (reader.directory / "app.py").write_text(app)
    export, create, serve, *sent, top = next(block for block in blocks(README, "sh") if "curl" in block).splitlines()
    assert export.startswith(f"export {DATABASE_VARIABLE}=sqlite:///")
    assert (serve, server.split()[0]) == ("flask run &", server.split()[0])
    requests = [
        ("POST" if "-X POST" in line else "GET", path)
        for line in sent
        for path in re.findall(r"localhost:5000(\S+)", line)
    ]
    reader.run(create)
    reader.serve(server.format(reader.port), *requests)
    (expected,) = [block for block in blocks(README, "text") if "total_usage" in block]
    printed, wanted = (
        [line.split() for line in text.splitlines() if line and "─" not in line] for text in (reader.run(top), expected)
    )
    assert printed == wanted


def test_the_lines_of_the_readme_count_a_site_of_django(reader: Reader) -> None:
    del reader.environment[DATABASE_VARIABLE]
    reader.run("django-admin startproject site_of_a_reader .")
    (settings,) = [block for block in blocks(README, "python") if "INSTALLED_APPS" in block]
    with (reader.directory / "site_of_a_reader" / "settings.py").open("a") as file:
        file.write(settings)
    migrate, create, _, top = next(block for block in blocks(README, "sh") if "manage.py" in block).splitlines()
    reader.run(migrate)
    reader.run(create)
    reader.serve(f"python manage.py runserver --noreload {reader.port}", ("GET", "/admin/login/"))
    assert re.search(r"admin:login +1", reader.run(top))


def test_the_python_snippets_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "developers"}
    for snippet in blocks(DEVELOPERS, "python"):
        exec(compile(snippet, "developers.md", "exec"), names)
        usage.flush()  # the tracker that a later snippet replaces would write behind its back
    assert {row.feature_name for row in names["recent"]} == {"calendar_follow_event", "open_vault", "search"}
    assert len(names["adopted"]) == 4

    client = names["app"].test_client()
    assert client.post("/login").status_code == 200
    assert client.get("/events").status_code == 200

    from starlette.testclient import TestClient

    with TestClient(names["starlette_app"]) as starlette:
        assert starlette.get("/events/7").json() == {"event": 7}
    assert usage.shutdown()
    tables = define_tables(sa.MetaData(), users=None)
    found = counts(names["engine"], tables)
    assert found["list_events", ADA] == 1
    assert found["calendar_open_event", ADA] == 1
    names["engine"].dispose()


def test_the_sql_snippets_run_verbatim(postgresql: Database) -> None:
    engine = postgresql.engine()
    made(engine, users=None)
    with engine.begin() as connection:
        connection.execute(
            sa.text("INSERT INTO feature_usage (user_id, feature_name, usage_count) VALUES (:user, 'export', 3)"),
            {"user": ADA},
        )
        (snippet,) = blocks(README, "sql")
        answers = [connection.exec_driver_sql(statement).all() for statement in snippet.split(";") if statement.strip()]
    assert [len(answer) for answer in answers] == [1, 1, 1]
    assert answers[0][0] == ("export", 3)
    assert answers[2][0] == ("export", 1)


def test_every_setting_is_documented_with_its_default() -> None:
    first_cells = re.findall(r"^\| (`[^|]+) \|", SETTINGS, re.MULTILINE)
    named = {name for cell in first_cells for name in re.findall(r"`(\w+)`", cell)}
    for field in Settings.__dataclass_fields__:
        assert field in named, field
        if not field.startswith("journal"):
            assert ENVIRONMENT_PREFIX + field.upper() in SETTINGS
    assert DATABASE_VARIABLE in SETTINGS


def test_the_readme_is_read_in_a_sitting() -> None:
    assert len(README.splitlines()) <= 130


PACKAGE = ROOT / "src" / "usage_instrument"
MAPS = [ROOT / "CONTRIBUTING.md", ROOT / "docs" / "explanation" / "how-it-works.md"]


def test_links_lead_somewhere() -> None:
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md")]:
        text = page.read_text(encoding="utf-8")
        inline = re.findall(r"\]\((?!https?:)([^)#]+)", text)
        for link in [*inline, *re.findall(r"^\[\w+\]: (?!https?:)(\S+)", text, re.MULTILINE)]:
            assert (page.parent / link).exists(), f"{page.name}: {link}"


@pytest.mark.parametrize("page", MAPS, ids=lambda page: page.name)
def test_the_maps_name_paths_that_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    words = [word for line in re.findall(r"`([^`\n]+)`|^((?:scripts|\.ci)/.*)$", text, re.MULTILINE) for word in line]
    paths = {path for word in words for path in re.findall(r"^\.?[\w./-]*(?:/|\.py)[\w./]*", word)}
    assert paths
    names = {path.name for path in PACKAGE.rglob("*.py")}
    missing = [
        path
        for path in paths
        if not (ROOT / path).exists() and not (PACKAGE / path).exists() and path not in names  # `flush.py` of many
    ]
    assert missing == []


def test_the_drawing_has_the_folders() -> None:
    (drawing,) = re.findall(r"```mermaid\n(.*?)```", MAPS[1].read_text(encoding="utf-8"), re.DOTALL)
    plain = re.sub(r"-- .*?-->|-\. .*?\.->|-->|\(\[.*?\]\)|\[.*?\]", " ", drawing)  # leaves the ids
    boxes = set(re.findall(r"\w+", plain.replace("flowchart LR", "")))
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert boxes == folders | {"call", "request", "tracker", "tables"}


def test_the_walk_visits_every_stage_in_order() -> None:
    text = MAPS[0].read_text(encoding="utf-8")
    stages = ("capture", "tracker", "pipeline", "database", "queries")
    places = [text.index(f"`{stage}") for stage in stages]
    assert places == sorted(places)
