"""The rollups of the history: tables, triggers, and the statement that rolls a week up."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator

from sqlalchemy import Connection, Table, text

from ...rollups import Rollups, RollupTables
from ...users_column import UsersColumn
from .privileges import give, grant_alike

_FUNCTIONS = ("feature_usage_mark_week", "feature_usage_take_back", "feature_usage_forget_weeks")
_TRIGGERS = 4
"""Of the history."""
_CLOSED = "interval '3 days'"
"""After the end of a week."""
_OLD = "{moment} < timezone(interval '0', clock_timestamp()) - interval '2 days'"
"""The bucket is not of today or yesterday, UTC. By the clock and not the start of the transaction, which may be long
ago; the zone as an interval, since a flush compares each of its rows."""
_LOCK = "CAST(CAST('pg_trigger' AS regclass) AS int), CAST(CAST({oid} AS bigint) - 2147483648 AS int)"
"""The key of the advisory lock of a history."""
_CORRECTIONS = 1000
"""So many rows too many of a week are added up."""
_LOCK_TIMEOUT = "100ms"
"""Less than `deadlock_timeout`: maintenance gives way to the deletion of a user."""


class WeeklyRollups(Rollups):
    """Rollups by day and by week."""

    is_supported = True

    def exist(self, connection: Connection, history: Table) -> bool:
        names = _names(connection, RollupTables.of(history))
        return bool(connection.scalar(text("SELECT to_regclass(:weeks) IS NOT NULL"), {"weeks": names["weeks"]}))

    def find(self, connection: Connection, history: Table) -> bool:
        query = text(
            "SELECT coalesce(bool_and(has_table_privilege(oid, 'SELECT')) AND count(*) = 4, false) "  # noqa: S608 - quoted names
            f"AND {_triggers(':history')} FROM pg_class WHERE oid IN "
            "(to_regclass(:weeks), to_regclass(:days), to_regclass(:users), to_regclass(:complete))"
        )
        whole = connection.dialect.identifier_preparer.format_table(history)
        return bool(connection.scalar(query, {"history": whole, **_names(connection, RollupTables.of(history))}))

    # ---- the tables and triggers

    def create(self, connection: Connection, history: Table, users: UsersColumn | None) -> None:
        rollups, quote = RollupTables.of(history), connection.dialect.identifier_preparer
        self.drop(connection, history)  # what is there may be from before a time without triggers
        rollups.weeks.metadata.create_all(connection)
        whole = quote.format_table(history)
        weeks, complete = quote.format_table(rollups.weeks), quote.format_table(rollups.complete)
        there = _triggers(_literal(f"{_schema(connection, history)}.{quote.quote(history.name)}"))
        connection.exec_driver_sql(
            f"CREATE VIEW {complete} AS SELECT week, {week_end('week')} AS week_end FROM {weeks} GROUP BY week "  # noqa: S608 - quoted names
            f"HAVING bool_and(is_complete) AND {there}".replace("%", "%%")
        )
        for table in (rollups.weeks, rollups.days, rollups.users, rollups.complete):
            give(connection, whole, quote.format_table(table))
            grant_alike(connection, whole, quote.format_table(table))
        if users is not None:
            reference = users.sql_reference(connection.dialect)
            connection.exec_driver_sql(f"ALTER TABLE {quote.format_table(rollups.users)} ADD {reference}")
        for statement in _bookkeeping(connection, history, rollups, users):
            connection.exec_driver_sql(statement)

    def drop(self, connection: Connection, history: Table) -> None:
        schema, names = _schema(connection, history), _names(connection, RollupTables.of(history))
        for function in _FUNCTIONS:
            connection.exec_driver_sql(f"DROP FUNCTION IF EXISTS {schema}.{function}() CASCADE")  # and its triggers
        connection.exec_driver_sql(f"DROP VIEW IF EXISTS {names['complete']}")
        RollupTables.of(history).weeks.metadata.drop_all(connection)

    # ---- maintenance

    def stale(self, connection: Connection, history: Table, since: dt.datetime) -> list[dt.datetime]:
        weeks = _names(connection, RollupTables.of(history))["weeks"]
        whole = connection.dialect.identifier_preparer.format_table(history)
        query = text(
            f"SELECT week FROM (SELECT DISTINCT {_week('day')} AS week FROM generate_series("  # noqa: S608 - quoted names
            f"(SELECT date_trunc('day', greatest(:since, min(bucket_start))) FROM {whole}), timezone('utc', now()), "
            "interval '1 day') AS day) known WHERE week >= CAST(:since AS timestamp) AND "
            f"{week_end('week')} <= timezone('utc', now()) - {_CLOSED} AND NOT coalesce((SELECT bool_and(is_complete) "
            f"FROM {weeks} w WHERE w.week = known.week), false) ORDER BY week DESC"
        )
        return list(connection.scalars(query, {"since": since}))

    def renew(self, connection: Connection, history: Table, week: dt.datetime, *, patiently: bool) -> bool:
        if not _is_alone(connection, history):
            return False
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'")
        if patiently:
            connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
        whole = connection.dialect.identifier_preparer.format_table(history)
        names = _names(connection, RollupTables.of(history))
        weeks, days, users = names["weeks"], names["days"], names["users"]
        uses = "coalesce(sum(uses), 0)"
        anonymous = "coalesce(sum(CASE WHEN user_id IS NULL THEN uses END), 0)"
        # One statement has one snapshot: what it deletes is what was there when it counted.
        statement = text(
            "WITH counts AS MATERIALIZED (SELECT date_trunc('day', bucket_start) AS day, user_id, feature_name, "  # noqa: S608 - quoted names
            f"count(*) AS entries, coalesce(sum(usage_count), 0) AS uses FROM {whole} "
            f"WHERE bucket_start >= :week AND bucket_start < {week_end('CAST(:week AS timestamp)')} GROUP BY 1, 2, 3), "
            "by_user AS MATERIALIZED (SELECT day, user_id, sum(entries) AS entries, sum(uses) AS uses FROM counts "
            "GROUP BY 1, 2), "
            f"no_weeks AS (DELETE FROM {weeks} WHERE week = :week), "
            f"no_days AS (DELETE FROM {days} WHERE week = :week), "
            f"no_users AS (DELETE FROM {users} WHERE week = :week), "
            f"new_days AS (INSERT INTO {days} (week, bucket_start, feature_name, is_total, entries, uses, users, "
            "anonymous_uses) "
            f"SELECT CAST(:week AS timestamp), day, feature_name, false, sum(entries), {uses}, count(user_id), "
            f"{anonymous} FROM counts GROUP BY day, feature_name UNION ALL SELECT CAST(:week AS timestamp), day, NULL, "
            f"true, sum(entries), {uses}, count(user_id), {anonymous} FROM by_user GROUP BY day), "
            f"new_users AS (INSERT INTO {users} (week, user_id, bucket_start, active_days, usage_count) "
            f"SELECT CAST(:week AS timestamp), user_id, min(day), count(*), {uses} FROM by_user GROUP BY user_id "
            "ORDER BY user_id) "
            f"INSERT INTO {weeks} (week, is_complete) VALUES (:week, true)"
        )
        connection.execute(statement, {"week": week})
        return True

    def tidy(self, connection: Connection, history: Table, before: dt.datetime) -> int:
        if not _is_alone(connection, history):
            return 0
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'")
        names, rows = _names(connection, RollupTables.of(history)), 0
        for name in (names[key] for key in ("weeks", "days", "users")):
            rows += connection.execute(text(f"DELETE FROM {name} WHERE week < :before"), {"before": before}).rowcount  # noqa: S608 - quoted names
        key, days = "week, bucket_start, feature_name, is_total", names["days"]
        connection.execute(
            text(
                f"WITH added AS (DELETE FROM {days} WHERE week IN (SELECT week FROM {days} GROUP BY week "  # noqa: S608 - quoted names
                "HAVING count(*) - count(DISTINCT (bucket_start, feature_name, is_total)) > :many) RETURNING *) "
                f"INSERT INTO {days} ({key}, entries, uses, users, anonymous_uses) SELECT {key}, sum(entries), "
                f"sum(uses), sum(users), sum(anonymous_uses) FROM added GROUP BY {key}"
            ),
            {"many": _CORRECTIONS},
        )
        return rows

    def forget(self, connection: Connection, history: Table, start: dt.datetime | None, end: dt.datetime) -> None:
        if self.find(connection, history):
            weeks = _names(connection, RollupTables.of(history))["weeks"]
            query = text(
                f"DELETE FROM {weeks} WHERE week < :end "  # noqa: S608 - quoted names
                "AND week >= coalesce(CAST(:start AS timestamp), CAST('-infinity' AS timestamp))"
            )
            connection.execute(query, {"start": start, "end": end})


def _bookkeeping(
    connection: Connection, history: Table, rollups: RollupTables, users: UsersColumn | None
) -> Iterator[str]:
    """The functions run as their owner, with qualified names: a role that writes to the history needs nothing more."""
    quote, schema = connection.dialect.identifier_preparer, _schema(connection, history)
    whole = quote.format_table(history)
    weeks, days, by_user = (
        f"{schema}.{quote.quote(table.name)}" for table in (rollups.weeks, rollups.days, rollups.users)
    )
    head = "RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS"
    mark, take_back, forget = (f"{schema}.{name}" for name in _FUNCTIONS)
    # An import of a million old rows leaves one mark for each week and transaction.
    yield (
        f"CREATE FUNCTION {mark}() {head} $$ DECLARE its_week timestamp := {_week('NEW.bucket_start')}; "  # noqa: S608 - quoted names
        "name text := ' ' || TG_RELID || ':' || its_week; "
        "marked text := coalesce(current_setting('usage_instrument.marked', true), ''); "
        f"BEGIN IF strpos(marked, name) = 0 THEN INSERT INTO {weeks} (week, is_complete) VALUES (its_week, false); "
        "PERFORM set_config('usage_instrument.marked', marked || name, true); END IF; RETURN NULL; END $$"
    )
    yield (
        f"CREATE TRIGGER feature_usage_rollup_mark AFTER INSERT OR UPDATE ON {whole} FOR EACH ROW "
        f"WHEN ({_OLD.format(moment='NEW.bucket_start')}) EXECUTE FUNCTION {mark}()"
    )
    # A user who is gone has no row left and gets no new one, as the foreign key refuses it: then the day has one
    # user less. Anybody else may have more rows, of a transaction that has not ended.
    is_gone = "false"
    of_users = None if users is None else _readable(connection, history, users)
    if users is not None and of_users is not None:
        is_gone = (
            f"user_id IS NOT NULL AND NOT EXISTS (SELECT FROM {of_users} u "
            f"WHERE u.{quote.quote(users.column)} = gone.user_id)"
        )
    columns = "week, bucket_start, feature_name, is_total, entries, uses, users, anonymous_uses"
    yield (
        f"CREATE FUNCTION {take_back}() {head} $$ BEGIN "  # noqa: S608 - quoted names
        f"INSERT INTO {days} ({columns}) SELECT {_week('day')}, day, feature_name, is_total, -sum(entries), "
        "-sum(uses), -count(*), 0 FROM (SELECT date_trunc('day', bucket_start) AS day, user_id, feature_name, "
        "grouping(feature_name) = 1 AS is_total, count(*) AS entries, coalesce(sum(usage_count), 0) AS uses "
        f"FROM gone WHERE {is_gone} GROUP BY GROUPING SETS ((date_trunc('day', bucket_start), user_id, "
        "feature_name), (date_trunc('day', bucket_start), user_id))) d GROUP BY day, feature_name, is_total; "
        f"INSERT INTO {weeks} (week, is_complete) SELECT DISTINCT {_week('bucket_start')}, false FROM gone "
        f"WHERE NOT ({is_gone}) AND {_OLD.format(moment='bucket_start')}; "
        # Rows of an erased user go at once, and maintenance that still counts them does not bring them back.
        f"IF EXISTS (SELECT FROM gone WHERE user_id IS NOT NULL AND NOT ({is_gone})) THEN "
        f"PERFORM pg_advisory_xact_lock_shared({_LOCK.format(oid='TG_RELID')}); "
        f"DELETE FROM {by_user} r USING (SELECT DISTINCT {_week('bucket_start')} AS week, user_id FROM gone "
        f"WHERE NOT ({is_gone})) d WHERE r.user_id = d.user_id AND r.week = d.week; END IF; RETURN NULL; END $$"
    )
    yield (
        f"CREATE TRIGGER feature_usage_rollup_delete AFTER DELETE ON {whole} REFERENCING OLD TABLE AS gone "
        f"FOR EACH STATEMENT EXECUTE FUNCTION {take_back}()"
    )
    yield f"CREATE FUNCTION {forget}() {head} $$ BEGIN TRUNCATE {weeks}, {days}, {by_user}; RETURN NULL; END $$"
    # Only a statement by hand moves rows to another time. No trigger of a row sees it leave its partition.
    for name, event in (("truncate", "TRUNCATE"), ("move", "UPDATE OF bucket_start")):
        yield (
            f"CREATE TRIGGER feature_usage_rollup_{name} AFTER {event} ON {whole} "
            f"FOR EACH STATEMENT EXECUTE FUNCTION {forget}()"
        )
    for function in (mark, take_back, forget):
        yield f"REVOKE ALL ON FUNCTION {function}() FROM PUBLIC"  # to execute a trigger takes no right
        yield (
            f"DO $$ BEGIN EXECUTE 'ALTER FUNCTION {function}() OWNER TO ' || (SELECT relowner::regrole FROM pg_class "  # noqa: S608 - quoted names
            f"WHERE oid = {_literal(whole)}::regclass); END $$"
        )


def week_end(week: str) -> str:
    """The end of a week, from its start."""
    return f"least(date_trunc('week', {week}) + interval '7 days', date_trunc('month', {week}) + interval '1 month')"


def _triggers(history: str) -> str:
    """Whether the history has its triggers: without one, or with one disabled, nothing keeps the rollups right."""
    return (
        f"(SELECT count(*) FROM pg_trigger WHERE tgrelid = to_regclass({history}) AND tgname "  # noqa: S608 - quoted names
        f"LIKE 'feature\\_usage\\_rollup\\_%' AND tgenabled IN ('O', 'A')) = {_TRIGGERS}"
    )


def _literal(name: str) -> str:
    return "'" + name.replace("'", "''") + "'"


def _week(moment: str) -> str:
    return f"greatest(date_trunc('week', {moment}), date_trunc('month', {moment}))"


def _names(connection: Connection, rollups: RollupTables) -> dict[str, str]:
    format_table = connection.dialect.identifier_preparer.format_table
    return {name: format_table(getattr(rollups, name)) for name in ("weeks", "days", "users", "complete")}


def _schema(connection: Connection, history: Table) -> str:
    """The quoted schema of the live history."""
    query = text(
        "SELECT quote_ident(n.nspname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE c.oid = to_regclass(:name)"
    )
    name = connection.dialect.identifier_preparer.format_table(history)
    return str(connection.scalar(query, {"name": name}))


def _readable(connection: Connection, history: Table, users: UsersColumn) -> str | None:
    """The qualified and quoted name of the users table; None if the owner of the history may not read it."""
    quote = connection.dialect.identifier_preparer
    query = text(
        "SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname) FROM pg_class c "
        "JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = to_regclass(:users) AND has_table_privilege("
        "(SELECT relowner FROM pg_class WHERE oid = to_regclass(:history)), c.oid, 'SELECT')"
    )
    names = {"users": users.sql_table(connection.dialect), "history": quote.format_table(history)}
    found: str | None = connection.scalar(query, names)
    return found


def _is_alone(connection: Connection, history: Table) -> bool:
    """Whether nobody else rolls up or erases a user, until the transaction ends."""
    query = text(f"SELECT pg_try_advisory_xact_lock({_LOCK.format(oid='to_regclass(:table)')})")
    return bool(connection.scalar(query, {"table": connection.dialect.identifier_preparer.format_table(history)}))
