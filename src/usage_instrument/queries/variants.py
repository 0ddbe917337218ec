"""How many users met which variant of a feature?"""

from __future__ import annotations

from typing import overload

from sqlalchemy import Select, and_, func, select

from usage_instrument.database.expressions import JSONText
from usage_instrument.database.tables import Tables

from .arguments import checked_feature, checked_key, default_tables
from .comparison import Compare, compared, window_before
from .numbers import by_name, share, total
from .questions import NAME, SHARE, USERS, USES, Argument, Query, Question, QuestionColumn, described, if_bounded
from .sources import counts_in
from .windows import Moment, Window, window
from .zones import TimeZone


@overload
def variants(
    feature: str,
    key: str,
    *,
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
    since: Moment = None,
    until: Moment = None,
    compare: Compare = None,
    tz: TimeZone = None,
    tables: Tables | None = None,
) -> Query:
    """Users and uses of a feature by the value of a key of its metadata, for an A/B test, the most widely used first:
    `variant`, `unique_users`, `uses`, `share`.

    The metadata is the latest context of each user, so all uses of a user count for the last variant: a user must keep
    the same variant throughout a test. `variant` is text, None if the key is missing. `share` (0 to 1) is of the
    feature's users. Anonymous uses are left out: only the last variant of all of them is known. If a user may meet
    several values, capture the key with `dimensions=`, and ask `dimensions`, which counts each use by its own value.
    `since` and `until` bound the days of the time zone `tz` (default: UTC), which the history answers: a timedelta (7
    days: today and the six before), a date, a datetime or the text of one; without both, it is all time. Raises
    ConfigurationError for a wrong argument.

    `compare="previous"` adds to users and uses the columns `_before` (of the window of the same length before),
    `_change` and `_relative_change`. Raises ConfigurationError for a wrong argument.
    """
    tables, before = tables or default_tables(), window_before(compare, since, until, tz)
    name, key = checked_feature(feature), checked_key(key)
    found: Query = _counted(tables, window(since, until, tz), name, key)
    if before is not None:
        found = compared(
            found, _counted(tables, before, name, key, "counts_before"), ["variant"], ["unique_users", "uses"]
        )
    columns = found.selected_columns
    return found.order_by(columns["unique_users"].desc(), columns["uses"].desc(), *by_name(columns["variant"]))


def _counted(
    tables: Tables, asked: Window, name: str, key: str, cte: str = "counts"
) -> Select[str | None, int, int, float]:
    usage = tables.usage
    variant = JSONText(usage.c.metadata, key).label("variant")
    is_its = and_(usage.c.feature_name == name, usage.c.user_id.is_not(None))
    if asked.is_all_time:
        rows = select(variant, usage.c.user_id, usage.c.usage_count).where(is_its)
    else:
        counts = counts_in(tables, asked, name, cte)
        joined = counts.outerjoin(usage, and_(usage.c.user_id == counts.c.user_id, is_its))
        rows = select(variant, counts.c.user_id, counts.c.usage_count).select_from(joined)
        rows = rows.where(counts.c.user_id.is_not(None))
    found = rows.subquery("found")
    counted, uses = func.count(found.c.user_id), total(found.c.usage_count).label("uses")
    users, everyone = counted.label("unique_users"), func.sum(counted).over()
    shares = share(counted, everyone).label("share")
    return select(found.c.variant, users, uses, shares).group_by(found.c.variant)


VARIANTS = described(
    Question(
        "variants",
        variants,
        "Variants",
        "Users and uses by a value in the metadata, for an A/B test.",
        "Users by the value of `{key}` in their latest use, {period}.",
        "No use of this feature has the key `{key}` in its metadata {period}.",
        "calendar_new_event variant",
        (QuestionColumn("variant", "Variant", "variant"), USERS, SHARE, USES),
        bar="share",
        compared=("unique_users", "uses"),
        own_arguments=(Argument("key", NAME, "The key in the metadata."),),
        is_of_all_time=True,
        needs_hours=if_bounded,
    )
)
