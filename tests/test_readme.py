"""The README's snippets, run as they stand and in their order."""

from __future__ import annotations

import re
import uuid
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

import usage_instrument as usage
from conftest import Database
from reading import counts, made
from usage_instrument import Settings
from usage_instrument.schema import define_tables
from usage_instrument.settings import DATABASE_VARIABLE, ENVIRONMENT_PREFIX

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
ADA = uuid.UUID("6f1f9c1e-2f0a-4f6e-9f0b-6a2f4c1d7e55")


def snippets(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_python_snippets_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "readme"}
    for snippet in snippets("python"):
        exec(compile(snippet, "README.md", "exec"), names)
        usage.flush()  # the tracker that a later snippet replaces would write behind its back
    assert {row.feature_name for row in names["recent"]} == {"calendar_follow_event", "open_vault", "search"}
    assert len(names["adopted"]) == 4

    client = names["app"].test_client()
    assert client.get("/events", headers={"X-User-Id": str(ADA)}).status_code == 200

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
        (snippet,) = snippets("sql")
        answers = [connection.exec_driver_sql(statement).all() for statement in snippet.split(";") if statement.strip()]
    assert [len(answer) for answer in answers] == [1, 1, 1]
    assert answers[0][0] == ("export", 3)
    assert answers[2][0] == ("export", 1)


def test_every_setting_is_documented_with_its_default() -> None:
    first_cells = re.findall(r"^\| (`[^|]+) \|", README, re.MULTILINE)
    named = {name for cell in first_cells for name in re.findall(r"`(\w+)`", cell)}
    for field in Settings.__dataclass_fields__:
        assert field in named, field
        if not field.startswith("journal"):
            assert ENVIRONMENT_PREFIX + field.upper() in README
    assert DATABASE_VARIABLE in README


ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "usage_instrument"
MAPS = [ROOT / "CONTRIBUTING.md", ROOT / "docs" / "how-it-works.md"]


def test_links_lead_somewhere() -> None:
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md")]:
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
