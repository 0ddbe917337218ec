"""`usage-instrument watch`: one report at the begin, one at the end, to real servers."""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import hmac
import http.server
import json
import os
import random
import signal
import ssl
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner, Result

from alerts.smtp import MailServer, certificate
from conftest import Database
from reading import all_of, made
from usage_instrument.alerts import watch
from usage_instrument.alerts.delivery import ATTEMPTS
from usage_instrument.alerts.findings import findings
from usage_instrument.alerts.reports import Report
from usage_instrument.alerts.rules import Limit, Rule, RulesError, load
from usage_instrument.cli.app import app
from usage_instrument.cli.demo import trail
from usage_instrument.database.ledger import utcnow
from usage_instrument.database.months import move_first_day
from usage_instrument.queries.questions import QUESTIONS
from usage_instrument.schema import create_all, define_tables
from usage_instrument.upgrade import upgrade

SECRET = "s3cret-s3cret-s3cret"
DAY = dt.timedelta(days=1)
LOSSES = '[[rules]]\nname = "uses are lost"\nquestion = "losses"\n'
EXAMPLE = Path(__file__).parents[2] / "examples" / "watch.toml"


class WebServer(http.server.ThreadingHTTPServer):
    """Keeps what is posted, and answers with the next of `answers`, then with 204."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Request)
        self.posts: list[tuple[str, dict[str, str], bytes]] = []
        self.answers: list[tuple[int, dict[str, str]]] = []
        self.on_post: Callable[[], object] = lambda: None
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def reports(self) -> list[dict[str, Any]]:
        return [report for _, _, body in self.posts for report in json.loads(body)["reports"]]

    def __enter__(self) -> WebServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()
        self._thread.join()


class _Request(http.server.BaseHTTPRequestHandler):
    server: WebServer

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.posts.append((self.path, dict(self.headers), body))
        code, headers = self.server.answers.pop(0) if self.server.answers else (204, {})
        self.server.on_post()
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    do_GET = do_POST

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def web() -> Iterator[WebServer]:
    with WebServer() as server:
        yield server


class Watched:
    """A database with a file of rules."""

    def __init__(self, database: Database, directory: Path) -> None:
        self.database, self.file = database, directory / "watch.toml"
        self.engine = database.engine()
        self.tables = made(self.engine, user_id_type="string")

    def rules(self, text: str, **environment: str) -> tuple[Rule, ...]:
        self.file.write_text(text)
        return load(self.file, {"SECRET": SECRET, **environment})

    def run(self, rules: Sequence[Rule], wait: Callable[[float], Any] = lambda seconds: None) -> watch.Outcome:
        with self.engine.connect() as connection:
            return watch.run(connection, self.tables, rules, wait)

    def command(self, *options: str, **environment: str) -> Result:
        arguments = ["watch", "--rules", str(self.file), "--url", self.database.url, *options]
        return CliRunner().invoke(app, arguments, env={"SECRET": SECRET, **environment})

    def lose(self, uses: int = 3, reason: str = "memory full") -> None:
        with self.engine.begin() as connection:
            row = {"day": utcnow().date(), "service": "web", "reason": reason, "uses": uses}
            connection.execute(self.tables.losses.insert().values(row))

    def use(self, user: str | None, feature: str, uses: int, ago: int, span: int = 1) -> None:
        """Uses of each of some days."""
        today = utcnow().replace(hour=0, minute=0, second=0, microsecond=0)
        key = {"user_id": user, "feature_name": feature, "usage_count": uses}
        with self.engine.begin() as connection:
            for day in range(ago, ago + span):
                connection.execute(self.tables.history.insert().values(**key, bucket_start=today - day * DAY))

    def forget_losses(self) -> None:
        with self.engine.begin() as connection:
            connection.execute(self.tables.losses.delete())

    @property
    def alerts(self) -> list[sa.Row[Any]]:
        return all_of(self.engine, self.tables.alerts)


@pytest.fixture
def watched(sqlite: Database, tmp_path: Path) -> Watched:
    return Watched(sqlite, tmp_path)


def webhook(server: WebServer, name: str = "ops") -> str:
    return f'[channels.{name}]\ntype = "webhook"\nurl = "{server.url}/hook"\nsecret_env = "SECRET"\n'


# ---- begins and ends


def test_reports_a_begin_and_an_end_once(database: Database, tmp_path: Path, web: WebServer) -> None:
    watched = Watched(database, tmp_path)
    watched.file.write_text(webhook(web) + LOSSES)
    assert watched.command("--once").exit_code == 0
    assert web.posts == []
    watched.lose()
    for _ in range(2):
        done = watched.command("--once")
        assert (done.exit_code, done.output) == (1, ""), done.output
    (begin,) = web.reports
    assert (begin["event"], begin["rule"], begin["subject"]) == ("begin", "uses are lost", "memory full")
    assert begin["facts"] == {"uses": 3}
    assert begin["text"] == "Begins: uses are lost (memory full): uses 3"
    watched.forget_losses()
    for _ in range(2):
        assert watched.command("--once").exit_code == 0
    _, end = web.reports
    assert (end["event"], end["alert"], end["id"]) == ("end", begin["alert"], f"{begin['alert']}:end")
    assert watched.alerts == []
    watched.lose()
    assert watched.command("--once").exit_code == 1
    assert web.reports[2]["alert"] != begin["alert"]


def test_the_signature_is_that_of_the_guide(watched: Watched, web: WebServer) -> None:
    watched.lose()
    watched.run(watched.rules(webhook(web) + LOSSES))
    ((path, headers, body),) = web.posts
    assert (path, headers["Content-Type"]) == ("/hook", "application/json")
    guide = (EXAMPLE.parents[1] / "docs" / "guides" / "alerts.md").read_text(encoding="utf-8")
    code = guide[guide.index("```python\n") + 10 :].partition("```")[0]
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["is_genuine"](headers["Usage-Instrument-Signature"], body, SECRET)
    assert not names["is_genuine"](headers["Usage-Instrument-Signature"], body + b" ", SECRET)
    assert not names["is_genuine"](
        "t=1,v1=" + hmac.new(SECRET.encode(), b"1." + body, hashlib.sha256).hexdigest(), body, SECRET
    )


def test_anomalies_and_limits_of_features(watched: Watched, capsys: pytest.CaptureFixture[str]) -> None:
    watched.use("ada", "export", 50, 0)
    watched.use("ada", "export", 2, 1, 40)
    watched.use("ada", "search", 2, 0, 40)
    with watched.engine.begin() as connection:
        connection.execute(watched.tables.usage.insert().values(feature_name="search"))
        connection.execute(watched.tables.usage.insert().values(user_id="ada", feature_name="export"))
    rules = watched.rules(
        '[[rules]]\nname = "up"\nquestion = "spikes"\n'
        '[[rules]]\nname = "few"\nquestion = "active"\nfeature = "serch"\ncolumn = "wau"\nbelow = 10\n'
        '[[rules]]\nname = "rows"\nquestion = "top"\nsince = "7d"\ncolumn = "rows"\nabove = 1\n'
        '[[rules]]\nname = "much"\nquestion = "adoption"\nsince = "7d"\ncolumn = "uses"\nabove = 20\n'
        # Today's step is not over, so it is not too small.
        '[[rules]]\nname = "step"\nquestion = "trend"\nfeature = "search"\nsince = "7d"\ncolumn = "uses"\nbelow = 2\n'
    )
    outcome = watched.run(rules)
    assert outcome.errors == []
    assert outcome.notes == ["rule 'few': no feature 'serch' was used or declared here"]
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == outcome.open == 4
    assert lines[0].startswith("Begins: up (export): day ")
    assert "uses 50, baseline 2, score 48, threshold 5" in lines[0]
    assert "wau 0" in lines[1]
    assert lines[2:] == ["Begins: rows: rows 2", "Begins: much (export): unique_users 1, uses 62, share 1"]


def test_users_are_named_only_where_the_rule_asks_and_never_in_the_table(watched: Watched, web: WebServer) -> None:
    watched.use("ada@example.com", "export", 500, 0)
    watched.use("ada@example.com", "export", 2, 1, 20)
    rule = '[[rules]]\nname = "{}"\nquestion = "spikes"\nby = "user"\nidentities = {}\n'
    rules = watched.rules(webhook(web) + rule.format("named", "true") + rule.format("unnamed", "false"))
    assert watched.run(rules).open == 2
    named, unnamed = sorted(web.reports, key=lambda report: report["rule"])
    assert (named["user_id"], named["subject"], named["text"][:36]) == (
        "ada@example.com", None, "Begins: named (user ada@example.com)"
    )  # fmt: skip
    assert "ada" not in json.dumps(unnamed)
    assert "user_id" not in unnamed
    assert "ada" not in str(watched.alerts)
    with watched.engine.begin() as connection:  # as `forget` does
        connection.execute(watched.tables.history.delete())
    watched.run(rules)
    assert [report["event"] for report in web.reports] == ["begin", "begin", "end", "end"]
    assert watched.alerts == []


def test_uses_that_wait_are_watched(watched: Watched, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    waiting = {"outbox_id": uuid.uuid4(), "feature_name": "buy", "uses": 7, "used_at": utcnow(), "service": "web"}
    with watched.engine.begin() as connection:
        connection.execute(watched.tables.outbox.insert().values(waiting))
    rule = '[[rules]]\nname = "wait"\nquestion = "pending"\nabove = 6\njournal = "{}"\n'
    assert watched.run(watched.rules(rule.format(tmp_path))).open == 1
    assert capsys.readouterr().out == "Begins: wait: uses 7\n"
    failed = watched.run(watched.rules(rule.format("/nonexistent") + LOSSES))
    assert failed.errors == ["rule 'wait': the journals in /nonexistent cannot be read: No such file or directory"]
    assert len(watched.alerts) == 1, "a rule that fails ends nothing"


def test_every_question_can_be_watched(watched: Watched) -> None:
    watched.use("ada", "search", 2, 0, 30)
    values = {"key": '"k"', "features": '["search", "export"]', "feature": '"search"', "user_id": '"ada"'}
    rule = '[[rules]]\nname = "{0}"\nquestion = "{0}"\ncolumn = "{1}"\nabove = -1\nidentities = true\n{2}'
    text = ""
    for question in QUESTIONS:
        required = [each.name for each in question.arguments if each.is_required]
        number = next(each.name for each in question.columns if each.is_number)
        text += rule.format(question.name, number, "".join(f"{name} = {values[name]}\n" for name in required))
    for rule_ in watched.rules(text):
        with watched.engine.connect() as connection:
            for finding in findings(connection, watched.tables, rule_).values():
                assert "ada" not in json.dumps([finding.label, dict(finding.facts)])


def test_a_rule_that_the_history_cannot_answer_fails_with_the_reason(watched: Watched) -> None:
    """As its command does: days are no hours of a time zone, and months are no days."""
    watched.use("ada", "search", 2, 0, 30)
    watched.use("ada", "search", 2, 399)
    first = (utcnow() - 100 * DAY).replace(day=1)
    with watched.engine.begin() as connection:
        move_first_day(connection, watched.tables, first)
    rule = '[[rules]]\nname = "{0}"\nquestion = "{1}"\nabove = -1\n{2}\n'
    text = rule.format("zone", "top", 'column = "total_usage"\nsince = "7d"\ntz = "Europe/Berlin"')
    text += rule.format("days", "stickiness", 'column = "unique_users"\nsince = "400d"')
    zone, days = watched.run(watched.rules(text)).errors
    assert "rule 'zone': the history has a day instead of hours on" in zone
    assert f"rule 'days': before {first:%Y-%m-%d} the history has months" in days


def test_what_stands_out_in_the_trail_is_watched(
    database: Database, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    watched = Watched(database, tmp_path)
    tables = define_tables(sa.MetaData(), user_id_type="uuid")
    tables.access.drop(watched.engine)
    create_all(watched.engine, user_id_type="uuid")
    today = utcnow().date()
    with watched.engine.begin() as connection:
        people = [uuid.UUID(int=number) for number in range(1, trail.STAFF + 1)]
        known = trail.fill(connection, tables, people, today, random.Random(7))
    watched.tables = tables
    rule = '[[rules]]\nname = "unusual"\nquestion = "trail"\nsince = "7d"\n'
    for _ in range(2):
        watched.run(watched.rules(rule))
    lines = capsys.readouterr().out.splitlines()
    abouts = [f"{each.what} {each.feature_name or ''}".strip() for each in known]
    assert sorted(line.split(": ")[1] for line in lines) == sorted(f"unusual ({about})" for about in abouts)
    assert any(line.endswith(f"(denials): day {known[0].day}, accesses 25, usual 0, score 25") for line in lines), lines
    assert not any(str(person) in repr(row) or person.hex in repr(row) for row in watched.alerts for person in people)
    watched.run(watched.rules(rule + 'what = "out of hours"\nidentities = true\n'))
    ended = capsys.readouterr().out
    assert ended.count("Ended: unusual") == 3
    one = '[[rules]]\nname = "one"\nquestion = "trail"\nsince = "7d"\nwhat = "no outcome"\nidentities = true\n'
    watched.run(watched.rules(one))
    assert f"(no outcome {known[3].feature_name}, user {known[3].user_id})" in capsys.readouterr().out
    tables.access.drop(watched.engine)
    (error,) = watched.run(watched.rules(rule)).errors
    assert "table feature_usage_access does not exist: run `usage-instrument db create`" in error


# ---- two watchers


class Collector:
    """A channel of the test."""

    name = "ops"

    def __init__(self, on_send: Callable[[], object] = lambda: None) -> None:
        self.sent: list[Report] = []
        self.on_send = on_send

    def send(self, reports: Sequence[Report]) -> None:
        self.sent += reports
        self.on_send()


def rule_of(channel: Any) -> Rule:
    since: dict[str, Any] = {"since": DAY, "reason": None, "service": None}
    return Rule("lost", "losses", since, Limit("uses", None, 0), False, (channel,))


def test_two_watchers_report_once(database: Database, tmp_path: Path) -> None:
    watched = Watched(database, tmp_path)
    for number in range(4):
        watched.lose(reason=f"reason {number}")
    channel = Collector()
    start = threading.Barrier(3)
    outcomes: list[watch.Outcome] = []

    def run() -> None:
        start.wait(30)
        outcomes.append(watched.run([rule_of(channel)]))

    def race() -> None:
        threads = [threading.Thread(target=run) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)

    race()
    assert [outcome.errors for outcome in outcomes] == [[]] * 3
    assert sorted(report.label or "" for report in channel.sent) == [f"reason {number}" for number in range(4)]
    watched.forget_losses()
    race()
    assert [report.event for report in channel.sent] == ["begin"] * 4 + ["end"] * 4


def test_rows_of_a_removed_rule_or_channel_are_deleted_after_a_month(database: Database, tmp_path: Path) -> None:
    watched = Watched(database, tmp_path)
    watched.lose()
    kept, removed = Collector(), Collector()
    removed.name = "removed"
    both = dataclasses.replace(rule_of(kept), channels=(kept, removed))
    other = dataclasses.replace(rule_of(removed), name="another file's")
    watched.run([both, other])

    def age(days: int) -> None:
        moment = utcnow() - dt.timedelta(days=days)
        with watched.engine.begin() as connection:
            connection.execute(watched.tables.alerts.update().values(begun_at=moment, watched_at=moment))

    def rows() -> list[tuple[str, str]]:
        return sorted((row.rule, row.channel) for row in watched.alerts)

    mine = [(both.name, kept.name), (both.name, removed.name)]
    age(29)
    watched.run([both])
    assert rows() == sorted([*mine, (other.name, removed.name)]), "a watcher of the other file may come back"
    watched.run([other])
    age(31)
    watched.run([both])
    assert rows() == mine, "its own are watched again, after whatever pause"
    age(31)
    watched.run([rule_of(kept)])
    assert rows() == mine[:1]
    assert [report.event for report in kept.sent] == ["begin"]


def test_a_table_of_the_release_before_is_watched_and_its_alerts_survive_the_upgrade(watched: Watched) -> None:
    alerts, sent = watched.tables.alerts, Collector()
    mine = rule_of(sent)
    other = dataclasses.replace(mine, name="another file's")
    with watched.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE feature_usage_alerts DROP COLUMN watched_at")
    watched.lose()
    for _ in range(2):
        assert watched.run([mine, other]).errors == []
    with watched.engine.connect() as connection:
        upgrade(connection, watched.tables)
    with watched.engine.begin() as connection:
        connection.execute(alerts.update().values(begun_at=utcnow() - 40 * DAY))
    watched.run([mine])
    assert watched.run([other]).errors == []
    assert [(report.event, report.rule) for report in sent.sent] == [("begin", mine.name), ("begin", other.name)]


def test_a_watcher_leaves_what_another_one_delivers(watched: Watched) -> None:
    watched.lose()
    other = Collector()
    first = Collector(lambda: watched.run([rule_of(other)]))
    watched.run([rule_of(first)])
    assert (len(first.sent), other.sent) == (1, [])


def test_a_begin_while_the_end_is_delivered_is_a_report_of_its_own(watched: Watched) -> None:
    watched.lose()
    channel = Collector()
    watched.run([rule_of(channel)])
    watched.forget_losses()

    def again() -> None:
        channel.on_send = lambda: None
        watched.lose()
        watched.run([rule_of(Collector())])

    channel.on_send = again
    watched.run([rule_of(channel)])
    watched.run([rule_of(channel)])
    assert [report.event for report in channel.sent] == ["begin", "end", "begin"]
    assert channel.sent[2].alert != channel.sent[0].alert


def test_an_end_that_is_taken_back_while_it_is_claimed_is_no_message(watched: Watched) -> None:
    watched.lose()
    channel = Collector()
    watched.run([rule_of(channel)])
    watched.forget_losses()
    taken_back = False

    @sa.event.listens_for(watched.engine, "before_cursor_execute")
    def take_back(connection: sa.Connection, cursor: Any, statement: str, *_: object) -> None:
        nonlocal taken_back
        if "claimed_by = ?" in statement and statement.startswith("SELECT") and not taken_back:
            taken_back = True
            cursor.connection.execute(f"UPDATE {watched.tables.alerts.name} SET ended_at = NULL")

    channel.on_send = lambda: pytest.fail("a message without reports")
    watched.run([rule_of(channel)])
    assert taken_back


# ---- delivery


@pytest.mark.parametrize(
    ("proxy", "reason"),
    [("http:/me:hunter2@proxy", "ValueError"), ("http:///", "no host given")],
)
def test_a_proxy_that_fails_is_reported_without_its_password(
    watched: Watched, monkeypatch: pytest.MonkeyPatch, proxy: str, reason: str
) -> None:
    monkeypatch.setenv("http_proxy", proxy)
    monkeypatch.setenv("no_proxy", "")
    watched.lose()
    outcome = watched.run(
        watched.rules('[channels.team]\ntype = "slack"\nurl = "http://hooks.example.com/"\n' + LOSSES)
    )
    assert outcome.errors == [
        f"channel 'team': hooks.example.com cannot be reached: {reason}; the next run tries again"
    ]


def test_what_was_not_delivered_is_delivered_by_the_next_run(watched: Watched, web: WebServer) -> None:
    rules = watched.rules(webhook(web) + LOSSES)
    watched.lose()
    pauses: list[float] = []
    web.answers = [(503, {}), (429, {"Retry-After": "7"}), *[(500, {})] * (ATTEMPTS - 2)]
    outcome = watched.run(rules, pauses.append)
    assert outcome.errors == ["channel 'ops': 127.0.0.1 answers with HTTP 500; the next run tries again"]
    assert len(web.posts) == ATTEMPTS
    assert (len(pauses), pauses[1]) == (ATTEMPTS - 1, 7.0)
    assert max(pauses) <= 30
    watched.forget_losses()
    web.posts.clear()
    assert watched.run(rules).errors == []
    assert [report["event"] for report in web.reports] == ["begin", "end"]
    assert watched.alerts == []


def test_what_goes_on_before_its_end_was_delivered_has_not_ended(watched: Watched, web: WebServer) -> None:
    rules = watched.rules(webhook(web) + LOSSES)
    watched.lose()
    watched.run(rules)
    watched.forget_losses()
    web.answers = [(400, {})]
    assert watched.run(rules).errors != []
    watched.lose()
    assert watched.run(rules).errors == []
    assert [report["event"] for report in web.reports] == ["begin", "end"]
    assert [alert.ended_at for alert in watched.alerts] == [None]


@pytest.mark.parametrize("code", [301, 302, 307, 308])
def test_redirects_are_not_followed(watched: Watched, web: WebServer, code: int) -> None:
    with WebServer() as other:
        web.answers = [(code, {"Location": f"{other.url}/steal"})]
        watched.lose()
        outcome = watched.run(watched.rules(webhook(web) + LOSSES))
        assert "redirects" in outcome.errors[0]
        assert "steal" not in outcome.errors[0]
        assert (len(web.posts), other.posts) == (1, [])


def test_a_channel_that_fails_leaves_the_others_alone(watched: Watched, web: WebServer) -> None:
    with WebServer() as gone:
        url = gone.url
    lost = '[channels.gone]\ntype = "slack"\nurl_env = "GONE"\n'
    rules = watched.rules(lost + webhook(web) + LOSSES, GONE=f"{url}/services/T00/token")
    watched.lose()
    outcome = watched.run(rules)
    assert outcome.errors == [
        "channel 'gone': 127.0.0.1 cannot be reached: Connection refused; the next run tries again"
    ]
    assert len(web.reports) == 1
    assert "token" not in repr(rules)
    assert SECRET not in repr(rules)


def test_slack_gives_no_meaning_to_names(watched: Watched, web: WebServer) -> None:
    watched.lose(reason="<!channel> & \x1b[31m")
    watched.run(watched.rules('[channels.team]\ntype = "slack"\nurl_env = "URL"\n' + LOSSES, URL=f"{web.url}/T00/x"))
    ((path, _, body),) = web.posts
    assert path == "/T00/x"
    text = json.loads(body)["text"]
    assert (
        text == "*1 alert began*\nBegins: uses are lost (&lt;!channel&gt; &amp; \N{REPLACEMENT CHARACTER}[31m): uses 3"
    )


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def mail(certificates: tuple[Path, Path]) -> Iterator[MailServer]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificates)
    with MailServer(context) as server:
        yield server


def by_mail(server: MailServer, ca_file: Path | None) -> str:
    trusted = "" if ca_file is None else f'ca_file = "{ca_file}"\n'
    return (
        f'[channels.mail]\ntype = "email"\nhost = "localhost"\nport = {server.port}\nuser = "usage"\n'
        'password_env = "PASSWORD"\nfrom = "usage@example.com"\nto = ["ada@example.com", "bob@example.com"]\n'
    ) + trusted


def test_mail_is_sent_with_starttls(watched: Watched, mail: MailServer, certificates: tuple[Path, Path]) -> None:
    rules = watched.rules(by_mail(mail, certificates[0]) + LOSSES, PASSWORD="hunter2")
    watched.lose(reason="memory\nBcc: eve@example.com")
    assert watched.run(rules).errors == []
    (message,) = mail.messages
    assert mail.logins == [("usage", "hunter2")]
    assert mail.recipients == ["ada@example.com", "bob@example.com"]
    head, _, _body = message.partition("\r\n\r\n")
    assert "Subject: [usage-instrument] 1 alert began" in head
    assert "eve" not in head
    assert "hunter2" not in message + repr(rules)
    mail.refusal = "451 later"
    watched.forget_losses()
    outcome = watched.run(rules)
    assert outcome.errors == [f"channel 'mail': localhost:{mail.port} answers with SMTP 451; the next run tries again"]
    mail.refusal, mail.farewell = None, "421 too many"
    assert watched.run(rules).errors == [], "which has accepted the message"
    assert "1 alert ended" in mail.messages[1]


def test_mail_needs_a_trusted_certificate_and_the_right_password(
    watched: Watched, mail: MailServer, certificates: tuple[Path, Path]
) -> None:
    watched.lose()
    outcome = watched.run(watched.rules(by_mail(mail, None) + LOSSES, PASSWORD="hunter2"))
    assert "has an untrusted certificate" in outcome.errors[0]
    outcome = watched.run(watched.rules(by_mail(mail, certificates[0]) + LOSSES, PASSWORD="wrong"))
    assert outcome.errors == [f"channel 'mail': localhost:{mail.port} answers with SMTP 535; the next run tries again"]
    with pytest.raises(RulesError, match="user and password must be ASCII") as error:  # smtplib raises in the midst
        watched.rules(by_mail(mail, certificates[0]) + LOSSES, PASSWORD="hünter2")
    assert "nter2" not in str(error.value)
    with MailServer(None) as plain:
        outcome = watched.run(watched.rules(by_mail(plain, certificates[0]) + LOSSES, PASSWORD="hunter2"))
        assert "lacks what the channel needs" in outcome.errors[0]
        assert plain.logins == []
    assert mail.messages == []


# ---- the command


def test_a_loop_ends_by_sigterm_after_its_run(watched: Watched, web: WebServer) -> None:
    watched.file.write_text(webhook(web) + LOSSES)
    watched.lose()
    web.on_post = lambda: os.kill(os.getpid(), signal.SIGTERM)
    before = signal.getsignal(signal.SIGTERM)
    done = watched.command("--every", "3600")
    assert (done.exit_code, done.output, len(web.posts)) == (0, "", 1)
    assert [alert.reported_at is None for alert in watched.alerts] == [False]
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_schema_without_the_table_names_the_fix(watched: Watched) -> None:
    watched.tables.alerts.drop(watched.engine)
    watched.file.write_text(LOSSES)
    done = watched.command("--once")
    assert (done.exit_code, done.output) == (
        2, "usage-instrument: there is no table feature_usage_alerts: run `usage-instrument db upgrade`\n"
    )  # fmt: skip


def test_the_example_is_valid() -> None:
    done = CliRunner().invoke(app, ["watch", "--rules", str(EXAMPLE), "--check"])
    assert (done.exit_code, done.output) == (0, "9 rules, 3 channels: no mistakes.\n")
    with pytest.raises(RulesError) as error:
        load(EXAMPLE, {"WATCH_WEBHOOK_SECRET": "short"})
    assert [mistake.removeprefix(f"{EXAMPLE}: ") for mistake in error.value.mistakes] == [
        "channel 'ops': the secret in $WATCH_WEBHOOK_SECRET is shorter than 16 characters: generate a random one",
        "channel 'team': the environment variable SLACK_WEBHOOK_URL is not set: url_env names it",
        "channel 'mail': the environment variable SMTP_PASSWORD is not set: password_env names it",
    ]


A = '[[rules]]\nname = "a"\n'
MAIL = '[channels.m]\ntype = "email"\nhost = "h"\nfrom = "a@b"\n'
MISTAKES = {
    A + 'question = "spike"': "rule 'a': question must be top, user, ",
    A + 'question = "top"': "rule 'a': a row of top is no alert: write column = 'total_usage' or 'rows'",
    '[[rules]]\nquestion = "silent"': "rule 1: name is missing: write name = ",
    A + 'question = "active"\ncolumn = "dou"\nbelow = 1': "active has no number 'dou' (did you mean 'dau'?)",
    A + 'question = "active"\ncolumn = "dau"': "below and above are missing",
    A + 'question = "active"\nbelow = 1': "column is missing: write column = 'dau' or ",
    A + 'question = "silent"\nsinse = "3d"': "there is no key 'sinse' (did you mean 'since'?)",
    A + 'question = "spikes"\nsince = "90d"': "spikes are those of 28 days at most",
    A + 'question = "spikes"\nby = "usr"': "by must be feature or user, not 'usr' (did you mean 'user'?)",
    A + 'question = "spikes"\nthreshold = "5"': "threshold must be a number, not '5'",
    A + 'question = "silent"\nchannels = ["opps"]': "there is no channel 'opps'",
    A + 'question = "pending"': "above is missing: write above = 1000",
    A + 'question = "user"\nuser_id = ""\ncolumn = "uses"\nabove = 1': "user has no number 'uses'",
    A + 'question = "silent"\n[[rules]]\nname = "a"\nquestion = "drops"': "another rule has this name",
    A + 'question = "variants"\nfeature = "f"\nkey = "k"\ncolumn = "uses"\nabove = 1': "identities = true",
    '[channels.ops]\ntype = "webhok"': "not 'webhok' (did you mean 'webhook'?)",
    '[channels.ops]\ntype = "webhook"\nurl = "file:///etc/passwd"\nsecret_env = "S"': "url must begin with https://",
    '[channels.ops]\ntype = "webhook"\nurl = "https://me:pw@host/"\nsecret_env = "S"': "url must not contain a user",
    '[channels.ops]\ntype = "slack"\nurl = "https://host/a b"': "url contains a space",
    '[channels.ops]\ntype = "slack"\nurl = "https://hooks..example.com/T0"': "url is no URL",
    '[channels.ops]\ntype = "slack"': "write either url, or url_env",
    MAIL + 'to = "c@d\\nBcc: e@f"': "is no plain address",
    MAIL + 'to = "c@d"\nuser = "u"': "user and password_env belong together",
    MAIL.replace('"h"', '"smtp..example.com"') + 'to = "c@d"': "host must be the name of a server",
    MAIL.replace('"h"', '"smtp.example.com:587"') + 'to = "c@d"': "host must be the name of a server",
    MAIL + 'to = "c@d"\nport = 0': "port must be a number from 1 to 65535",
    '[[rules]]\nname = "t"\nquestion = "trail"\nhours = "19-7"': "hours is the first and the last full hour",
    '[[rules]]\nname = "t"\nquestion = "trail"\ntz = "Berlin"': "tz is the name of a time zone",
    '[[rules]]\nname = "t"\nquestion = "trail"\nwhat = "denial"': "did you mean 'denials'?",
    '[[rules]]\nname = "t"\nquestion = "trail"\nthreshold = 0': "threshold is a number above 0",
    '[[rules]]\nname = "t"\nquestion = "trail"\nabove = 3': "each finding in the trail is an alert",
    "rules = 3": "there are no rules: begin each with a line [[rules]]",
    "rules = [": "is no TOML",
    "[rule]": "there is no key 'rule' (did you mean 'rules'?)",
}  # fmt: skip


def test_every_mistake_is_named_at_once(watched: Watched) -> None:
    for text, mistake in MISTAKES.items():
        with pytest.raises(RulesError) as error:
            watched.rules(text)
        assert any(each.startswith(f"{watched.file}: ") and mistake in each for each in error.value.mistakes), (
            text, error.value.mistakes
        )  # fmt: skip
    watched.file.write_text('[channels.a]\ntype = "slack"\n[[rules]]\nname = "b"\n[[rules]]\nquestion = "top"\n')
    done = watched.command("--check")
    assert done.exit_code == 2
    assert len(done.output.splitlines()) == 4, done.output
    missing = CliRunner().invoke(app, ["watch", "--rules", str(watched.file.parent / "no.toml"), "--check"])
    assert "cannot be read: No such file or directory" in missing.output
