"""What README.md and the pages on capture and tables print, run as a reader would."""

from __future__ import annotations

import base64
import contextlib
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

import servers
import usage_instrument as usage
from conftest import Database
from reading import counts, made
from usage_instrument import Settings
from usage_instrument.cli.app import app
from usage_instrument.schema import define_tables
from usage_instrument.settings import DATABASE_VARIABLE, ENVIRONMENT_PREFIX
from usage_instrument.testing import CapturedUsage

ROOT = Path(__file__).parents[1]
README, CAPTURE, TABLES, SETTINGS = (
    (ROOT / page).read_text(encoding="utf-8")
    for page in ("README.md", "docs/guides/capture.md", "docs/guides/alembic.md", "docs/reference/settings.md")
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

    def ask(self, command: str) -> str:
        """Run `usage-instrument …` within this process, which is quicker."""
        with contextlib.chdir(self.directory):
            done = CliRunner().invoke(app, shlex.split(command, comments=True)[1:], env=self.environment)
        assert done.exit_code == 0, done.output
        return done.stdout

    def run(self, command: str) -> str:
        return subprocess.run(
            shlex.split(command, comments=True), cwd=self.directory, env=self.environment, check=True, text=True,
            stdout=subprocess.PIPE,
        ).stdout  # fmt: skip

    def serve(
        self, command: str, *requests: tuple[str, str, str], visit: Callable[[str], object] | None = None
    ) -> None:
        """Start the server, send it these requests, or visit its address, and press Ctrl-C."""
        server = subprocess.Popen(
            shlex.split(command), cwd=self.directory, env=self.environment, stderr=subprocess.PIPE, text=True
        )
        address = f"http://127.0.0.1:{self.port}"
        try:
            self.wait_for(server)
            for method, path, login in requests:
                basic = {"Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"} if login else {}
                urllib.request.urlopen(urllib.request.Request(address + path, method=method, headers=basic)).close()
            if visit is not None:
                visit(address)
        finally:
            server.send_signal(signal.SIGINT)
            _, log = server.communicate(timeout=60)
        assert "Traceback" not in log, log

    def wait_for(self, server: subprocess.Popen[str]) -> None:
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=60).close()
                return
            except ConnectionRefusedError:
                assert server.poll() is None, server.communicate()[1]
                time.sleep(0.05)


@pytest.fixture
def reader(tmp_path: Path) -> Reader:
    return Reader(tmp_path)


def rows(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines() if line.strip() and "─" not in line]


def requests_of(line: str) -> list[tuple[str, str, str]]:
    """The method, path and login of each request of a line with curl."""
    login = re.search(r"-u (\S+)", line)
    method = "POST" if "-X POST" in line else "GET"
    return [(method, path, login[1] if login else "") for path in re.findall(r"localhost:5000(\S+)", line)]


@pytest.mark.parametrize("page", ["flask", "fastapi"])
def test_a_start_page_leads_from_an_empty_directory_to_its_rows(page: str, reader: Reader) -> None:
    text = (ROOT / "docs" / "start" / f"{page}.md").read_text(encoding="utf-8")
    first, login = blocks(text, "python")[:2]
    printed: list[list[list[str]]] = []
    _, setup, *steps = blocks(text, "sh")
    exported = dict(line.removeprefix("export ").split()[0].split("=") for line in setup.splitlines()[:2])
    assert exported.pop(DATABASE_VARIABLE) == "sqlite:///usage.db"
    reader.environment.update(exported)
    reader.ask(setup.splitlines()[2])
    source = ""
    for addition, (serve, sent, asked) in ((first, steps[:3]), (login, steps[3:6])):
        source += addition
        (reader.directory / "app.py").write_text(source)
        server = re.sub(r" --port \d+| &\n", "", serve) + f" --port {reader.port}"
        reader.serve(server, *(request for line in sent.splitlines() for request in requests_of(line)))
        printed += [rows(reader.ask(command)) for command in asked.splitlines()]
    top, adoption, user = printed
    assert [top, adoption] == [rows(block) for block in blocks(text, "text")]
    assert user[1][:2] == ["list_reminders", "2"]


@pytest.mark.parametrize(("framework", "page"), [("Flask", "flask"), ("FastAPI", "fastapi")])
def test_the_blocks_of_the_readme_are_those_of_the_start_page(framework: str, page: str) -> None:
    text = (ROOT / "docs" / "start" / f"{page}.md").read_text(encoding="utf-8")
    (block,) = [block for block in blocks(README, "python") if f"import {framework}\n" in block]
    assert block in text
    (printed,) = [block for block in blocks(README, "text") if "total_usage" in block]
    assert printed in text
    for line in next(block for block in blocks(README, "sh") if "curl" in block).splitlines():
        command = line.partition("  ")[0]
        assert command in text or command == "flask run &", command


@pytest.mark.parametrize("framework", ["FastAPI", "Flask"])
def test_an_ab_test_of_the_guide_leads_from_an_empty_directory_to_a_verdict(framework: str, reader: Reader) -> None:
    for library in (framework.lower(), "scipy"):
        pytest.importorskip(library)
    text = re.sub(
        "^   ", "", (ROOT / "docs" / "guides" / "experiments.md").read_text(encoding="utf-8"), flags=re.MULTILINE
    )
    (source,) = [each for each in blocks(text, "python") if "# app.py" in each and f"= {framework}(" in each]
    (reader.directory / "app.py").write_text(source)
    setup, sent, asked = blocks(text, "sh")[:3]
    url, ids, create, serve = setup.splitlines()
    name, _, kind = shlex.split(ids, comments=True)[1].partition("=")
    reader.environment[name] = kind
    assert DATABASE_VARIABLE in url
    reader.ask(create)
    fastapi, flask = serve.split("# Flask: ")
    server = re.sub(r" --port \d+| &\s*$", "", {"FastAPI": fastapi, "Flask": flask}[framework])
    loops = re.findall(r"for user in ([\w ]+); do (.*); done", sent)
    assert len(loops) == 2
    requests = [
        each for users, curl in loops for user in users.split() for each in requests_of(curl.replace("$user", user))
    ]
    reader.serve(f"{server} --port {reader.port}", *requests)
    assert rows(reader.ask(asked)) == rows(blocks(text, "text")[0])


def test_the_starlette_app_of_the_start_page_counts(captured_usage: CapturedUsage) -> None:
    from starlette.testclient import TestClient

    text = (ROOT / "docs" / "start" / "fastapi.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {"__name__": "start"}
    exec(compile(blocks(text, "python")[-1], "fastapi.md", "exec"), names)
    with TestClient(names["app"]) as client:
        assert client.get("/events").json() == ["Choir practice"]
        assert client.post("/events/7/follow").json() == {"following": 7}
    assert captured_usage.names == ["list_events", "calendar_follow_event"]


def test_the_start_page_of_django_leads_to_its_rows(reader: Reader) -> None:
    del reader.environment[DATABASE_VARIABLE]
    text = (ROOT / "docs" / "start" / "django.md").read_text(encoding="utf-8")
    settings, urls = blocks(text, "python")
    assert settings in README
    install, commands, asked = blocks(text, "sh")[:3]
    migrate, create, superuser, _ = commands.splitlines()
    for line in next(block for block in blocks(README, "sh") if "manage.py" in block).splitlines():
        assert line.partition("  ")[0] in text, line
    reader.run(install.splitlines()[-1])
    with (reader.directory / "mysite" / "settings.py").open("a") as file:
        file.write(settings)
    (reader.directory / "mysite" / "urls.py").write_text(urls)
    reader.run(migrate)
    reader.run(create)
    reader.environment["DJANGO_SUPERUSER_PASSWORD"] = "choir"
    reader.run(f"{superuser.partition(' #')[0]} --noinput --username ada --email ada@example.com")
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())

    def visit(address: str) -> None:
        browser.open(f"{address}/events/").close()
        with browser.open(f"{address}/events/7/follow/") as page:
            token = re.findall(r'name="csrfmiddlewaretoken" value="(\w+)"', page.read().decode())[0]
            form = {"username": "ada", "password": "choir", "csrfmiddlewaretoken": token}
            browser.open(page.url, urllib.parse.urlencode(form).encode()).close()

    reader.serve(f"python manage.py runserver --noreload {reader.port}", visit=visit)
    assert rows(reader.run(asked.splitlines()[1])) == rows(blocks(text, "text")[0])


def test_the_python_snippets_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "guides"}
    for snippet in blocks(CAPTURE, "python") + blocks(TABLES, "python"):
        exec(compile(snippet, "guides", "exec"), names)
        usage.flush()  # the tracker that a later snippet replaces would write behind its back
    assert {row.feature_name for row in names["recent"]} == {
        "calendar_follow_event", "open_vault", "search", "report_shared", "checkout"
    }  # fmt: skip
    assert len(names["adopted"]) == 6

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


def test_the_stories_of_transactions_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "stories"}
    for snippet in blocks((ROOT / "docs/guides/transactions.md").read_text(encoding="utf-8"), "python"):
        exec(compile(snippet, "stories", "exec", dont_inherit=True), names)  # with the asserts of the page
    assert {feature.feature_name for feature in usage.user_features(7)} == {
        *("purchase", "payment_received", "order_form_saved"),
    }
    assert usage.count(None, "refund") == 1
    assert usage.shutdown()
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
    drawing = (ROOT / "docs" / "images" / "dataflow.svg").read_text(encoding="utf-8")
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert set(re.findall(r'<g id="(\w+)">', drawing)) == folders | {"call", "request", "tracker", "tables"}


def test_the_walk_visits_every_stage_in_order() -> None:
    text = MAPS[0].read_text(encoding="utf-8")
    stages = ("capture", "tracker", "pipeline", "database", "queries")
    places = [text.index(f"`{stage}") for stage in stages]
    assert places == sorted(places)
