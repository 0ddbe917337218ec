"""A past to look at."""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa

from conftest import Database, UsersDatabase, fresh_mariadb, fresh_postgresql, fresh_sqlite, with_users
from reading import made_beside_users
from usage_instrument.schema import Tables

HOSTILE = [
    "<script>alert(1)</script>",
    "\"'><img src=x onerror=alert(1)>",
    "{{ 7 * 7 }}{% raw %}",
    "تصدير \u202eالتقرير",
    "party 🎉 & more; <b>",
    "x" * 100,
    "=HYPERLINK(1)",
    "a/../b?c=d#e%00",
]


@dataclass(frozen=True)
class Past:
    """A filled database: `search` by everybody each day, `export` by two with a spike, `share` long ago, `fax` never,
    and names that nobody should have."""

    database: Database
    engine: sa.Engine
    tables: Tables
    user_ids: list[UUID]

    @property
    def url(self) -> str:
        return self.database.url


def filled(users: UsersDatabase) -> Past:
    """A database with that past, in new tables."""
    engine, ids = users.engine, users.user_ids
    tables = made_beside_users(engine)
    now = dt.datetime.now(dt.UTC).replace(tzinfo=None, microsecond=0)
    today = now.replace(hour=0, minute=0, second=0)
    history: dict[tuple[UUID | None, str, int], int] = {}
    for day in range(60):
        for number, user in enumerate([*ids, None]):
            history[user, "search", day] = 2 + number
        for user in ids[:2]:
            history[user, "export", day] = 40 if day == 3 else 1
    history[ids[0], "share", 120] = 7
    for number, name in enumerate(HOSTILE):
        history[ids[number % len(ids)], name, number] = number + 1
    usage: dict[tuple[UUID | None, str], tuple[int, int]] = {}
    for (user, feature, day), uses in history.items():
        before, latest = usage.get((user, feature), (0, day))
        usage[user, feature] = before + uses, min(latest, day)
    layouts = ["a", "b", "<i>c</i>"]
    with engine.begin() as connection:
        connection.execute(
            tables.history.insert(),
            [
                {
                    "user_id": user,
                    "feature_name": feature,
                    "bucket_start": today - dt.timedelta(days=day),
                    "usage_count": uses,
                }
                for (user, feature, day), uses in history.items()
            ],
        )
        connection.execute(
            tables.usage.insert(),
            [
                {
                    "user_id": user,
                    "feature_name": feature,
                    "usage_count": uses,
                    "last_used": now - dt.timedelta(days=day),
                    "metadata": {"layout": layouts[number % 3], "</td>": 1} if feature == "export" else None,
                }
                for number, ((user, feature), (uses, day)) in enumerate(usage.items())
            ],
        )
        connection.execute(
            tables.catalog.insert(),
            [
                {
                    "service": "web",
                    "feature_name": name,
                    "description": f"What {name} does, <b>boldly</b>",
                    "source": "app/views.py:7",
                    "declared_at": now - dt.timedelta(days=200),
                    "last_declared_at": now,
                }
                for name in ("search", "export", "share", "fax")
            ],
        )
        connection.execute(
            tables.writers.insert(),
            [
                {
                    "writer_id": uuid4(),
                    "service": "web",
                    "last_batch": 1,
                    "started_at": now - dt.timedelta(days=1),
                    "heartbeat_at": now - dt.timedelta(seconds=seconds),
                }
                for seconds in (5, 3_600)
            ],
        )
        connection.execute(
            tables.losses.insert(), {"day": today.date(), "service": "web", "reason": "unknown user", "uses": 12}
        )
    return Past(users.database, engine, tables, ids)


@pytest.fixture(scope="session")
def _pasts(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    _servers: contextlib.ExitStack,  # so that these are still there when the databases go
) -> Iterator[Callable[[str], Past]]:
    """Each kind's past, made when it is first looked at."""
    with contextlib.ExitStack() as stack:

        @functools.cache
        def past_in(kind: str) -> Past:
            if kind == "sqlite":
                fresh = fresh_sqlite(tmp_path_factory.mktemp("past"))
            else:
                port = request.getfixturevalue(f"{kind}_server")
                fresh = fresh_postgresql(port) if kind == "postgresql" else fresh_mariadb(port)
            return filled(with_users(stack.enter_context(fresh)))

        yield past_in


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def past(request: pytest.FixtureRequest, _pasts: Callable[[str], Past]) -> Past:
    """On each kind of database; not to be changed."""
    return _pasts(request.param)


@pytest.fixture
def small_past(_pasts: Callable[[str], Past]) -> Past:
    """On SQLite, where the kind of database makes no difference; not to be changed."""
    return _pasts("sqlite")


@pytest.fixture
def own_past(users_database: UsersDatabase) -> Past:
    """On each kind of database, for a test that changes it."""
    return filled(users_database)


@pytest.fixture
def statements() -> Callable[[], contextlib.AbstractContextManager[list[str]]]:
    """Collects every statement that any engine sends."""

    @contextlib.contextmanager
    def collected() -> Iterator[list[str]]:
        found: list[str] = []

        def note(_c: object, _cursor: object, statement: str, *_: object) -> None:
            found.append(statement)

        sa.event.listen(sa.Engine, "before_cursor_execute", note)
        try:
            yield found
        finally:
            sa.event.remove(sa.Engine, "before_cursor_execute", note)

    return collected
