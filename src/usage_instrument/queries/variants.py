"""How many users met which variant of a feature?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, TypeAlias, get_args, overload

from sqlalchemy import ColumnElement, Connection, Select, and_, case, exists, false, func, not_, select, union_all

from usage_instrument.database.expressions import JSONText
from usage_instrument.database.reflection import is_readable
from usage_instrument.database.tables import Tables
from usage_instrument.errors import ConfigurationError, DimensionError
from usage_instrument.events import check_dimension

from .arguments import checked_feature, checked_key, default_tables
from .comparison import Compare, compared, window_before
from .numbers import ONE, by_name, share, total
from .questions import (
    NAME,
    SHARE,
    USERS,
    USES,
    Argument,
    Query,
    Question,
    QuestionColumn,
    always,
    choice,
    described,
    if_bounded,
)
from .sources import counts_in
from .windows import Moment, Window, window
from .zones import TimeZone

Source: TypeAlias = Literal["dimension", "metadata"] | None
"""Where the variants are. None: in the dimension if the feature was ever used with it, else in the metadata."""


@overload
def variants(
    feature: str,
    key: str,
    *,
    source: Source = None,
    since: Moment = None,
    until: Moment = None,
    compare: None = None,
    tz: TimeZone = None,
    tables: Tables | None = None,
) -> Select[str | None, int, int, float]: ...
@overload
def variants(
    feature: str,
    key: str,
    *,
    source: Source = None,
    since: Moment,
    until: Moment = None,
    compare: Compare,
    tz: TimeZone = None,
    tables: Tables | None = None,
) -> Query: ...
def variants(
    feature: str,
    key: str,
    *,
    source: Source = None,
    since: Moment = None,
    until: Moment = None,
    compare: Compare = None,
    tz: TimeZone = None,
    tables: Tables | None = None,
) -> Query:
    """Users and uses of a feature by the values of a dimension (`dimensions=` of a capture), the most widely used
    first: `variant`, `unique_users`, `uses`, `share`.

    Each use counts by the value that it had. A user who met several values counts for each of them. `share` (0 to 1)
    is of the users who met any. Anonymous uses are left out: they are of no known number of users. So are uses without
    a value. `experiment` compares the variants of a test, with the users who saw one and did nothing.

    Where the feature was never used with a dimension of this name, `key` is one of its metadata, the latest context of
    each user: all uses of a user count for the latest value, and `variant` is None where the key is missing.
    `source="dimension"` or `"metadata"` decides it.

    `since` and `until` bound the days of the time zone `tz` (default: UTC): a timedelta (7 days: today and the six
    before), a date, a datetime or the text of one; without both, it is all time. Dimensions are kept by day (UTC): for
    the days of another time zone the metadata answers. `compare="previous"` adds to users and uses the columns
    `_before` (of the window of the same length before), `_change` and `_relative_change`. Raises ConfigurationError
    for a wrong argument.
    """
    tables, before = tables or default_tables(), window_before(compare, since, until, tz)
    name, key, asked = checked_feature(feature), checked_key(key), window(since, until, tz)
    if source is not None and source not in get_args(get_args(Source)[0]):
        raise ConfigurationError(f"source is 'dimension', 'metadata' or None, not {source!r}")
    if source == "dimension":
        try:
            check_dimension(key)
        except DimensionError as error:
            raise ConfigurationError(str(error)) from None
    if not (asked.is_all_time or asked.zone.is_utc):
        if source == "dimension":
            raise ConfigurationError("dimensions are kept by day (UTC), which a time zone divides: pass no tz")
        source = "metadata"
    found: Query = _counted(tables, asked, name, key, source)
    if before is not None:
        counted = _counted(tables, before, name, key, source, "_before")
        found = compared(found, counted, ["variant"], ["unique_users", "uses"])
    columns = found.selected_columns
    return found.order_by(columns["unique_users"].desc(), columns["uses"].desc(), *by_name(columns["variant"]))


def _counted(
    tables: Tables, asked: Window, name: str, key: str, source: Source, suffix: str = ""
) -> Select[str | None, int, int, float]:
    by_metadata = _of_metadata(tables, asked, name, key, f"counts{suffix}")
    if source == "metadata":
        found = by_metadata.subquery("found")
        counted = func.count(found.c.user_id)
        return _answer(found, counted, func.sum(counted).over())
    by_dimension = _of_dimension(tables, asked, name, key)
    has_key = exists().where(*_its(tables, name, key)) if key else false()
    rows = [by_dimension] if source == "dimension" else [by_dimension.where(has_key), by_metadata.where(not_(has_key))]
    both = (union_all(*rows) if source is None else rows[0]).cte(f"found{suffix}")
    everyone = select(func.count(both.c.user_id.distinct())).scalar_subquery()
    return _answer(both, func.count(both.c.user_id), everyone)


def _answer(found: Any, users: ColumnElement[int], everyone: Any) -> Select[str | None, int, int, float]:
    uses = total(found.c.usage_count).label("uses")
    return select(found.c.variant, users.label("unique_users"), uses, share(users, everyone).label("share")).group_by(
        found.c.variant
    )


def _its(tables: Tables, name: str, key: str) -> list[ColumnElement[bool]]:
    return [tables.dimensions.c.feature_name == name, tables.dimensions.c.dimension == key]


def _of_dimension(tables: Tables, asked: Window, name: str, key: str) -> Query:
    """A row per user and value."""
    source = tables.dimensions
    group = (source.c.dimension_value, source.c.user_id)
    is_asked = and_(*_its(tables, name, key), source.c.user_id.is_not(None), *asked.contains(source.c.bucket_start))
    uses = func.sum(source.c.usage_count).label("usage_count")
    return select(group[0].label("variant"), group[1], uses).where(is_asked).group_by(*group)


def _of_metadata(tables: Tables, asked: Window, name: str, key: str, cte: str) -> Query:
    """A row per user."""
    usage = tables.usage
    variant = JSONText(usage.c.metadata, key).label("variant")
    is_its = and_(usage.c.feature_name == name, usage.c.user_id.is_not(None))
    if asked.is_all_time:
        return select(variant, usage.c.user_id, usage.c.usage_count).where(is_its)
    counts = counts_in(tables, asked, name, cte)
    joined = counts.outerjoin(usage, and_(usage.c.user_id == counts.c.user_id, is_its))
    rows = select(variant, counts.c.user_id, counts.c.usage_count).select_from(joined)
    return rows.where(counts.c.user_id.is_not(None))


# ---- what the answer cannot say


def _decided(connection: Connection, tables: Tables, given: Mapping[str, Any]) -> Mapping[str, Any]:
    """With a source. A database of the release before has no dimensions."""
    if given.get("source") is not None:
        return given
    is_whole = window(given["since"], given["until"], given["tz"]).zone.is_utc or not if_bounded(given)
    is_dimension = is_whole and _is_dimension(connection, tables, given["feature"], given["key"])
    return {**given, "source": "dimension" if is_dimension else "metadata"}


def _is_dimension(connection: Connection, tables: Tables, name: str, key: str) -> bool:
    is_there = bool(key) and is_readable(connection, tables.dimensions)
    return is_there and _has(connection, *_its(tables, name, key))


def _notes(
    connection: Connection, tables: Tables, given: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]
) -> Iterator[str]:
    name, key, usage, dimensions = given["feature"], given["key"], tables.usage, tables.dimensions
    if not rows:
        return
    if given["source"] == "metadata":
        if all(row["variant"] is None for row in rows):
            yield f"no use of this feature has the key {key!r} in its metadata"
        if _has(connection, usage.c.feature_name == name, usage.c.user_id.is_(None)):
            yield "anonymous uses are left out, as only their last value is known"
        if not _is_dimension(connection, tables, name, key):
            fix = f"capture {key!r} with `dimensions=` to count each use by its own"
        elif if_bounded(given) and not window(given["since"], given["until"], given["tz"]).zone.is_utc:
            fix = f"the dimension {key!r} has each use by its own, for days of UTC"
        else:
            fix = f"the dimension {key!r} has each use by its own"
        yield f"all uses of a user count for the latest value: {fix}"
        return
    asked = window(given["since"], given["until"])
    its = [*_its(tables, name, key), *asked.contains(dimensions.c.bucket_start)]
    if _has(connection, *its, dimensions.c.user_id.is_(None)):
        yield "anonymous uses are left out, as they are of no known number of users: `dimensions` has them"
    users = _of_dimension(tables, asked, name, key).subquery("users")
    by_user = select(func.count().label("met"), func.sum(users.c.usage_count).label("uses"))
    met = by_user.group_by(users.c.user_id).subquery("met")
    several, valued = connection.execute(select(func.count(case((met.c.met > ONE, ONE))), total(met.c.uses))).one()
    if several:
        who = (
            "1 user met several values and counts" if several == 1 else f"{several} users met several values and count"
        )
        yield f"{who} for each, so the shares add up to more than 100 %"
    counts = counts_in(tables, asked, name)
    every = connection.scalar(select(total(counts.c.usage_count)).where(counts.c.user_id.is_not(None))) or 0
    if every > valued:
        yield f"{every - valued} of {every} uses have no value of {key!r}, and are left out"


def _has(connection: Connection, *conditions: ColumnElement[bool]) -> bool:
    return bool(connection.scalar(select(exists().where(*conditions))))


VARIANTS = described(
    Question(
        "variants",
        variants,
        "Variants",
        "Users and uses by the values of a dimension, such as the variant of an A/B test.",
        "Users by the value of `{key}` that they met {period}. A key that is no dimension is one of the metadata, with "
        "the latest value of each user.",
        "No user of this feature has a value of `{key}` {period}: pass `dimensions=` where it is captured.",
        "calendar_new_event variant",
        (QuestionColumn("variant", "Variant", "variant"), USERS, SHARE, USES),
        bar="share",
        compared=("unique_users", "uses"),
        own_arguments=(
            Argument("key", NAME, "The dimension, by its name in the code, or a key of the metadata."),
            Argument(
                "source",
                choice("WHAT", "dimension", "metadata"),
                "dimension: each use by its own value; metadata: by the latest value of its user. Default: dimension, "
                "if the feature was ever used with it.",
            ),
        ),
        is_of_all_time=True,
        needs_hours=if_bounded,
        takes_months=always,
        decided=_decided,
        notes=_notes,
    )
)
