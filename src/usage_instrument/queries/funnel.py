"""How many users take one step after the other?"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any, overload

from sqlalchemy import (
    CTE,
    ColumnElement,
    Select,
    String,
    Table,
    and_,
    case,
    func,
    literal,
    literal_column,
    null,
    select,
    union_all,
)

from usage_instrument.database.expressions import Later
from usage_instrument.database.tables import Tables
from usage_instrument.errors import ConfigurationError

from .arguments import checked_feature, default_tables
from .comparison import Compare, compared, window_before
from .numbers import ONE, share, total
from .questions import (
    FEATURE,
    FEATURES,
    SHARE,
    SPAN,
    USERS,
    Argument,
    Query,
    Question,
    QuestionColumn,
    Steps,
    described,
)
from .windows import HOUR, MONTH, WEEK, Moment, Window, span_of, window, written
from .zones import TimeZone

MOST = 10
"""Steps of a funnel at most."""


@overload
def funnel(
    features: Sequence[str],
    within: dt.timedelta | str = WEEK,
    *,
    since: Moment = MONTH,
    until: Moment = None,
    compare: None = None,
    tz: TimeZone = None,
    tables: Tables | None = None,
) -> Select[int, str, int, float, float | None, int]: ...
@overload
def funnel(
    features: Sequence[str],
    within: dt.timedelta | str = WEEK,
    *,
    since: Moment = MONTH,
    until: Moment = None,
    compare: Compare,
    tz: TimeZone = None,
    tables: Tables | None = None,
) -> Query: ...
def funnel(
    features: Sequence[str],
    within: dt.timedelta | str = WEEK,
    *,
    since: Moment = MONTH,
    until: Moment = None,
    compare: Compare = None,
    tz: TimeZone = None,
    tables: Tables | None = None,
) -> Query:
    """How many users use these features in this order, the first step first: `step` (from 1), `feature_name`,
    `unique_users`, `share`, `share_of_previous`, `order_unknown`.

    A user begins with the first use of the first feature in the window, and takes each further step with the first use
    of its feature in or after the day (hour) of the step before, `within` a time since the first step: a timedelta or a
    text such as `7d`, which is the day of the first step and the six after it. `share` (0 to 1) is of the users of the
    first step, `share_of_previous` of those of the step before (None for the first). The history has days or hours, so
    the order within one is unknowable: `order_unknown` is how many users took the step in the same day (hour) as the
    one before. The anonymous user is left out.

    `since` and `until` bound the first step, in days of the time zone `tz` (default: UTC): a timedelta (28 days: today
    and the 27 before), a date, a datetime, the text of one or None. Raises ConfigurationError for a wrong argument.

    `compare="previous"` adds `unique_users_before` (those who took the first step in the window of the same length
    before), `unique_users_change` and `unique_users_relative_change` (0.1 is a tenth more, None if there were none
    before). They had their whole time `within` for the other steps, which users who began lately still have.
    """
    names, hours, before = _checked(features), _hours(within), window_before(compare, since, until, tz)
    tables = tables or default_tables()
    found = _taken(names, hours, window(since, until, tz), tables, "step")
    if before is not None:
        then = _taken(names, hours, before, tables, "step_before")
        found = compared(found, then, ["step", "feature_name"], ["unique_users"])
    return found.order_by(found.selected_columns["step"])


def _taken(names: list[str], hours: int, asked: Window, tables: Tables, cte: str) -> Query:
    """The steps that the users took who began in a window."""
    history = tables.history
    rows = asked.contains(asked.zone.local(history.c.bucket_start))
    time = func.min(history.c.bucket_start)
    known = [history.c.user_id.is_not(None), history.c.feature_name == names[0], *rows]
    first = select(history.c.user_id, time.label("begun"), time.label("taken"), null().label("before"))
    steps = [first.where(*known).group_by(history.c.user_id).cte(f"{cte}_1")]
    near = _near(asked, history.c.bucket_start, hours)
    for number, name in enumerate(names[1:], 2):
        steps.append(_next(steps[-1], history, name, hours).where(*near).cte(f"{cte}_{number}"))
    counted = union_all(
        *(_counted(number, name, step) for number, (name, step) in enumerate(zip(names, steps, strict=True), 1))
    )
    counts = counted.subquery("counts")
    users, step = counts.c.unique_users, counts.c.step
    before = func.lag(users).over(order_by=step)
    of_before = case((before.is_not(None), share(users, before)))
    return select(
        step,
        counts.c.feature_name,
        users,
        share(users, func.first_value(users).over(order_by=step)).label("share"),
        of_before.label("share_of_previous"),
        counts.c.order_unknown,
    )


def _near(asked: Window, bucket: ColumnElement[Any], hours: int) -> list[ColumnElement[bool]]:
    """That a use (UTC) is in the window or so soon after it, give or take a day for the time zone: an index finds it,
    which the times of the steps cannot use."""
    start, end = asked.start(), asked.end()
    return [
        *([] if start is None else [bucket >= Later("day", start, literal_column("-1"))]),
        *([] if end is None else [bucket < Later("hour", end, literal_column(str(hours + 24)))]),
    ]


def _next(step: CTE, history: Table, name: str, hours: int) -> Select[*tuple[Any, ...]]:
    """The users of a step who take the next one, and when."""
    end = Later("hour", step.c.begun, literal_column(str(hours)))
    its = and_(
        history.c.user_id == step.c.user_id,
        history.c.feature_name == name,
        history.c.bucket_start >= step.c.taken,
        history.c.bucket_start < end,
    )
    time = func.min(history.c.bucket_start).label("taken")
    key = (step.c.user_id, step.c.begun, step.c.taken)
    found = select(step.c.user_id, step.c.begun, time, step.c.taken.label("before")).join_from(step, history, its)
    return found.group_by(*key)


def _counted(number: int, name: str, step: CTE) -> Select[*tuple[Any, ...]]:
    same = case((step.c.taken == step.c.before, ONE)) if number > 1 else case((step.c.user_id.is_(None), ONE))
    return select(
        literal_column(str(number)).label("step"),
        literal(name, String).label("feature_name"),
        func.count().label("unique_users"),
        total(same).label("order_unknown"),
    ).select_from(step)


def _checked(features: object) -> list[str]:
    if isinstance(features, str) or not isinstance(features, Sequence) or not 2 <= len(features) <= MOST:
        raise ConfigurationError(f"features are the names of 2 to {MOST} features in order, not {features!r}")
    return [checked_feature(feature) for feature in features]


def _hours(within: object) -> int:
    span = span_of(within) if isinstance(within, str) else within
    if not isinstance(span, dt.timedelta) or not dt.timedelta(0) < span <= dt.timedelta(days=3650):
        shown = written(within) if isinstance(within, dt.timedelta) else repr(within)
        raise ConfigurationError(f"within is a time above 0, such as 12h, 7d or 4w, up to ten years, not {shown}")
    return -(-span // HOUR)


FUNNEL = described(
    Question(
        "funnel",
        funnel,
        "Funnel",
        "How many users use features one after the other.",
        "Users who used the first feature {period}, and then the next ones in time. The order within a day is unknown.",
        "No signed-in user used these features {period}.",
        "calendar_browse event_open --within 7d",
        (
            QuestionColumn("step", "Step", "count"),
            FEATURE,
            USERS,
            SHARE,
            QuestionColumn("share_of_previous", "Of the step before", "share"),
            QuestionColumn("order_unknown", "Same day", "count"),
        ),
        topic="Users",
        bar="share",
        compared=("unique_users",),
        drawing=Steps("feature_name", "unique_users", "order_unknown"),
        own_arguments=(
            Argument("features", FEATURES, "The features, in order."),
            Argument("within", SPAN, "The time for all steps: 12h, 7d, 4w."),
        ),
    )
)
