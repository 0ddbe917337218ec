"""The examples as they stand: each started by its own command line, with real requests, until the rows are there."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from servers import free_port

EXAMPLES = Path(__file__).parent.parent / "examples"
COMMANDS = {
    "flask": [sys.executable, "examples/flask_app.py"],
    "flask_sqlalchemy": [sys.executable, "examples/flask_sqlalchemy_app.py"],
    "starlette": [sys.executable, "-m", "uvicorn", "--app-dir", "examples", "starlette_app:app", "--port", "0"],
    "fastapi": [sys.executable, "-m", "uvicorn", "--app-dir", "examples", "fastapi_app:app", "--port", "0"],
}
VAULT = [sys.executable, "-m", "uvicorn", "--app-dir", "examples", "vault_app:app", "--port", "0"]


@contextlib.contextmanager
def serving(command: list[str], database: Path) -> Iterator[str]:
    """The example's address; at the end it is interrupted, as by Ctrl-C."""
    process = subprocess.Popen(
        command,
        cwd=EXAMPLES.parent,
        env={
            **os.environ,
            "USAGE_INSTRUMENT_DATABASE_URL": f"sqlite:///{database}",
            "PORT": "0",
            "PYTHONUNBUFFERED": "1",
        },
        stderr=subprocess.STDOUT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        said = ""
        while not (address := re.search(r"http://127\.0\.0\.1:\d+", said)):
            line = process.stdout.readline()
            assert line, f"it ended: {said}"
            said += line
        yield address[0]
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    finally:
        process.kill()
        process.communicate()


def request(method: str, url: str, user: str | None = None) -> tuple[int, Any]:
    headers = {} if user is None else {"X-User": user}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method=method, headers=headers), timeout=30) as answer:
            body = answer.read()
            return answer.status, json.loads(body) if body else None
    except urllib.error.HTTPError as error:
        with error:
            return error.code, None


@pytest.mark.parametrize("name", COMMANDS)
def test_requests_become_rows(name: str, tmp_path: Path) -> None:
    pytest.importorskip(name)
    database = tmp_path / "usage.db"
    with serving(COMMANDS[name], database) as address:
        assert request("POST", f"{address}/events/7/follow", "ada")[0] == 204
        assert request("POST", f"{address}/events/8/follow", "ada")[0] == 204
        assert request("POST", f"{address}/events/8/follow")[0] == 204
        assert request("POST", f"{address}/events/9/follow", "ada")[0] == 404
        assert request("GET", f"{address}/events", "bob")[0] == 200
        assert request("GET", f"{address}/nothing", "bob")[0] == 404
        assert request("GET", f"{address}/usage") == (200, {"calendar_follow_event": 3, "list_events": 1})
        assert request("GET", f"{address}/events", "bob")[0] == 200
    connection = sqlite3.connect(database)
    try:
        found = connection.execute("SELECT user_id, feature_name, usage_count, metadata FROM feature_usage").fetchall()
    finally:
        connection.close()
    assert {(user, feature, count, data and json.loads(data)["event_id"]) for user, feature, count, data in found} == {
        ("ada", "calendar_follow_event", 2, 8),
        (None, "calendar_follow_event", 1, 8),
        ("bob", "list_events", 2, None),
    }


def test_only_what_is_committed_counts(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "purchases.py")],
        env={**os.environ, "USAGE_INSTRUMENT_DATABASE_URL": f"sqlite:///{tmp_path / 'shop.db'}"},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.stderr == ""
    assert done.stdout.splitlines()[:2] == ["Thank you.", "This payment has an order already."]
    assert set(done.stdout.splitlines()[2:]) == {"purchase: 1", "payment_received: 2", "order_form_saved: 1"}
    with sqlite3.connect(tmp_path / "shop.db") as connection:
        assert connection.execute("SELECT count(*) FROM orders").fetchone() == (4,)
    connection.close()


def test_the_vault_tells_who_opened_it(tmp_path: Path) -> None:
    pytest.importorskip("fastapi")
    database = tmp_path / "usage.db"
    with serving(VAULT, database) as address:
        assert request("GET", f"{address}/vault/4", "ada") == (200, "the gold of drawer 4")
        assert request("GET", f"{address}/vault/4", "bob")[0] == 403
        assert request("GET", f"{address}/admin/usage/audit.csv", "admin")[0] == 403
        asked = urllib.request.Request(f"{address}/admin/usage/audit.csv", headers={"X-User": "auditor"})
        with urllib.request.urlopen(asked, timeout=30) as answer:
            assert answer.read().count(b"attempted") == 2
        with sqlite3.connect(database) as connection:
            connection.execute("DROP TABLE feature_usage_access")
        assert request("GET", f"{address}/vault/4", "ada")[0] == 503
    connection.close()


def test_a_bearer_token_opens_the_dashboard_to_admins(tmp_path: Path) -> None:
    pytest.importorskip("fastapi")
    command = [sys.executable, "-m", "uvicorn", "--app-dir", "examples", "bearer_app:app", "--port", "0"]
    with serving(command, tmp_path / "usage.db") as address, httpx.Client(base_url=address, trust_env=False) as client:

        def log_in(name: str, password: str = "secret", **query: str) -> httpx.Response:
            return client.post("/login", params=query, data={"name": name, "password": password})

        assert (log_in("ada", "").status_code, log_in("eve", "").status_code) == (401, 401)
        ada, bob = ({"Authorization": f"Bearer {log_in(name).text}"} for name in ("ada", "bob"))
        client.cookies.clear()
        assert client.get("/events", headers=bob).status_code == 200
        assert client.get("/admin/usage/", headers=bob).status_code == 403
        assert client.get("/admin/usage/top-features.csv", headers=ada).status_code == 200
        refused = client.get("/admin/usage/")
        assert refused.status_code == 403
        assert 'href="/login?next=%2Fadmin%2Fusage%2F"' in refused.text
        assert log_in("ada", next="https://evil.example/").status_code == 200
        assert log_in("ada", next="/admin/usage/").headers["Location"] == "/admin/usage/"
        assert client.get("/admin/usage/").status_code in (200, 202)  # 202 on a busy machine
    with contextlib.closing(sqlite3.connect(tmp_path / "usage.db")) as connection:
        found = connection.execute("SELECT user_id, feature_name, usage_count FROM feature_usage").fetchall()
    assert found == [("bob", "list_events", 1)]


def test_a_guest_keeps_what_was_counted_before_the_login(tmp_path: Path) -> None:
    pytest.importorskip("flask")
    command = [sys.executable, "examples/guest_app.py"]
    with serving(command, tmp_path / "usage.db") as address, httpx.Client(base_url=address, trust_env=False) as client:
        for _ in range(3):  # the first one is anonymous: it makes the guest
            assert client.get("/events").status_code == 200
        assert client.post("/login", data={"name": "ada"}).status_code == 204
        assert client.get("/events").status_code == 200
        deadline = time.monotonic() + 30
        while (found := client.get("/usage").json()) != {"list_events": 3, "log_in": 1}:  # merged after the response
            assert time.monotonic() < deadline, found
    with contextlib.closing(sqlite3.connect(tmp_path / "usage.db")) as connection:
        rows = connection.execute("SELECT user_id, feature_name, usage_count FROM feature_usage").fetchall()
    assert sorted(rows, key=str) == [("ada", "list_events", 3), ("ada", "log_in", 1), (None, "list_events", 1)]


def test_an_experiment_from_the_button_to_the_verdict(tmp_path: Path) -> None:
    pytest.importorskip("fastapi")
    pytest.importorskip("scipy")
    command = [sys.executable, "-m", "uvicorn", "--app-dir", "examples", "experiment_app:app", "--port", "0"]
    with serving(command, tmp_path / "usage.db") as address:
        for number in range(12):
            with httpx.Client(base_url=address, trust_env=False) as client:
                assert client.post("/checkout").status_code == 400
                first = client.get("/").text
                assert client.get("/").text == first, "a visitor sees one color"
                if number % 2 == 0:
                    assert client.post("/checkout").status_code == 200
        asked = {"experiment": "button_color", "goal": "checkout", "weights": "red=1,blue=1"}
        deadline = time.monotonic() + 30
        with httpx.Client(base_url=address, trust_env=False, timeout=30) as client:
            while "Not decided" not in (page := client.get("/usage/experiment", params=asked).text):  # not written yet
                assert time.monotonic() < deadline, page
    with contextlib.closing(sqlite3.connect(tmp_path / "usage.db")) as connection:
        found = connection.execute("SELECT variant, exposures FROM feature_usage_exposures").fetchall()
        assert (len(found), {exposures for _, exposures in found}) == (12, {2})
        assert connection.execute("SELECT sum(usage_count) FROM feature_usage").fetchall() == [(6,)]


def test_a_django_site_with_the_dashboard(tmp_path: Path) -> None:
    pytest.importorskip("django")
    command = [sys.executable, "examples/django_app.py", "runserver", "--noreload", f"127.0.0.1:{free_port()}"]
    with serving(command, tmp_path / "usage.db") as address, httpx.Client(base_url=address, trust_env=False) as client:
        refused = client.get("/admin/usage/")
        assert refused.status_code == 403
        assert 'href="/admin/login/?next=%2Fadmin%2Fusage%2F"' in refused.text
        assert client.get("/events").headers["Location"] == "/admin/login/?next=/events"
        form = client.get("/admin/login/?next=/admin/usage/")
        (token,) = re.findall(r'name="csrfmiddlewaretoken" value="(\w+)"', form.text)
        given = {"username": "ada", "password": "secret", "csrfmiddlewaretoken": token, "next": "/admin/usage/"}
        assert client.post(form.url, data=given).headers["Location"] == "/admin/usage/"
        assert client.get("/events").status_code == 200
        assert client.get("/admin/usage/").status_code in (200, 202)  # 202 on a busy machine
    with contextlib.closing(sqlite3.connect(tmp_path / "usage.db")) as connection:
        found = connection.execute("SELECT user_id, feature_name, usage_count FROM feature_usage").fetchall()
    assert found == [(1, "list_events", 1)]


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_is_short_and_names_its_command(example: Path) -> None:
    text = example.read_text()
    # A Django site has settings, and three stories of transactions have a table of their own.
    longest = next((lines for word, lines in (("settings.configure", 75), ("begin_nested", 90)) if word in text), 60)
    assert len(text.splitlines()) < longest
    command = re.search(r"Run it: (.+)", text)
    assert command is not None
    assert command[1] in (EXAMPLES / "README.md").read_text()
