"""What the pages of the dashboard take in PostgreSQL, by HTTP, until each is complete.

    python bench/pages.py [--url postgresql+psycopg://…] [--rows 1000000] [--periods 7d 28d 400d] [--only overview]

Fills a database as bench/queries.py does, or takes the one that it has filled. Each round asks a new process of
`usage-instrument dashboard`, whose cache is empty, for each page; the times are medians.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode, urlsplit

import sqlalchemy as sa

from queries import filled, server
from usage_instrument.dashboard.results import BY_PAGE, has_period, parameters_of

COMMAND = "from usage_instrument.cli.app import app; app()"
AGAIN = 0.02
"""Seconds until a page that is not ready is asked for again, which a browser does after one."""


def pages(user: Any) -> Iterator[tuple[str, dict[str, str]]]:
    """The addresses of the pages, without the period."""
    yield "", {}
    yield "feature", {"feature": "feature 7"}
    yield "user", {"user": str(user)}
    yield "anomalies", {}
    known = {"feature": "feature 7", "key": "variant", "user": str(user), "steps": "feature 7,feature 20"}
    for name, question in BY_PAGE.items():
        required = [parameter for parameter, is_required in parameters_of(question).items() if is_required]
        if has_period(question) and set(required) <= known.keys():
            yield name, {parameter: known[parameter] for parameter in required}


@contextlib.contextmanager
def serving(engine: sa.Engine) -> Iterator[tuple[http.client.HTTPConnection, str, str]]:
    """A connection to a new dashboard, the path of its pages, and its cookie."""
    url = engine.url.render_as_string(hide_password=False)
    command = [sys.executable, "-u", "-c", COMMAND, "dashboard", "--port", "0", "--url", url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            lines = iter(process.stdout or ())
            address = urlsplit(next(line.strip() for line in lines if "http" in line and "token" in line))
            connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=600)
            connection.request("GET", f"{address.path}?{address.query}")
            answer = connection.getresponse()
            answer.read()
            yield connection, address.path, (answer.getheader("Set-Cookie") or "").partition(";")[0]
            connection.close()
        finally:
            process.terminate()


def seconds(dashboard: tuple[http.client.HTTPConnection, str, str], path: str) -> float:
    """The time until a page is complete."""
    connection, root, cookie = dashboard
    started = time.perf_counter()
    while True:
        connection.request("GET", root + path, headers={"Cookie": cookie})
        answer = connection.getresponse()
        text = answer.read().decode()
        if answer.status == 200:
            return time.perf_counter() - started
        if answer.status != 202:
            words = re.sub(r"<[^>]+>|\s+", " ", text)
            raise SystemExit(f"{path}: {answer.status} {words}")
        time.sleep(AGAIN)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, help="of feature_usage; the history has ten times more")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--periods", nargs="+", default=["7d", "28d", "400d"])
    parser.add_argument("--only", help="the pages whose name holds this")
    parser.add_argument("--url", help="a PostgreSQL to use, which is filled if it has no feature_usage yet")
    options = parser.parse_args()
    with server(options.url) as engine:
        filled(engine, options.rows)
        with engine.connect() as connection:
            user = connection.scalar(sa.text("SELECT user_id FROM feature_usage WHERE user_id IS NOT NULL LIMIT 1"))
        print(f"{'page':28}" + "".join(f"{period:>9}" for period in options.periods))
        shown = [page for page in pages(user) if options.only is None or options.only in (page[0] or "overview")]
        times: dict[tuple[str, str], list[float]] = {}
        for _ in range(options.rounds):
            with serving(engine) as dashboard:
                for name, parameters in shown:
                    for period in options.periods:
                        path = f"{name}?{urlencode({**parameters, 'period': period})}"
                        times.setdefault((name, period), []).append(seconds(dashboard, path))
        for name, _ in shown:
            medians = (statistics.median(times[name, period]) for period in options.periods)
            print(f"{name or 'overview':28}" + "".join(f"{median:9.2f}" for median in medians))


if __name__ == "__main__":
    main()
