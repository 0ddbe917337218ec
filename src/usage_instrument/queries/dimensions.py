"""How often was a feature used with each value of a dimension, and what do its numbers add up to?"""

from __future__ import annotations

from typing import Any, Literal

from sqlalchemy import ColumnElement, Select, case, func, select

from usage_instrument.database.expressions import Real
from usage_instrument.database.tables import Tables
from usage_instrument.errors import ConfigurationError, DimensionError
from usage_instrument.events import NUMBERS, check_dimension

from .arguments import checked_feature, default_tables
from .comparison import Compare, compared, window_before
from .numbers import ZERO, by_name, over, share, total
from .questions import NAME, SHARE, USERS, USES, Argument, Query, Question, QuestionColumn, choice, described, never
from .windows import Moment, Window, window


def dimensions(
    feature: str,
    dimension: str | None = None,
    *,
    by: Literal["user"] | None = None,
    since: Moment = None,
    until: Moment = None,
    compare: Compare = None,
    tables: Tables | None = None,
) -> Query:
    """Users and uses of a feature by the values of a dimension (`dimensions=` of a capture), the most frequent first:
    `dimension`, `dimension_value`, `unique_users`, `uses`, `share`, and of the numbers beside them (`value=`)
    `value_sum`, `value_mean`, `value_minimum`, `value_maximum`.

    Without `dimension`, all dimensions of the feature, and first, with an empty name, all its uses with a number. Each
    use counts by the value that it had. `share` (0 to 1) is of the uses of the dimension. The anonymous user does not
    count as one of `unique_users`, but the uses count. The figures of the numbers are None without any. With
    `by="user"`, each user has rows of their own, with `user_id`, None for the anonymous one.

    `since` and `until` bound the days, UTC: a timedelta (7 days: today and the six before), a date, a datetime or the
    text of one. `compare="previous"` adds the window before it: `unique_users_before`, `unique_users_change`,
    `unique_users_relative_change`, and the same of `uses`. Raises ConfigurationError for a wrong argument.
    """
    tables, before = tables or default_tables(), window_before(compare, since, until)
    if by not in (None, "user"):
        raise ConfigurationError(f"by is 'user' or None, not {by!r}")
    of_feature = (checked_feature(feature), None if dimension is None else _checked(dimension), by == "user")
    found = _counted(tables, window(since, until), *of_feature)
    users = ["user_id"] if by == "user" else []
    if before is not None:
        keys = ["dimension", "dimension_value", *users]
        found = compared(found, _counted(tables, before, *of_feature), keys, ["unique_users", "uses"])
    columns = found.selected_columns
    by_user = [part for name in users for part in by_name(columns[name])]
    return found.order_by(columns["dimension"], columns["uses"].desc(), columns["dimension_value"], *by_user)


def _counted(
    tables: Tables, asked: Window, feature: str, dimension: str | None, is_by_user: bool
) -> Select[*tuple[Any, ...]]:
    """The answer for one window, without an order."""
    source = tables.dimensions
    rows = [source.c.feature_name == feature, *asked.contains(source.c.bucket_start)]
    if dimension is not None:
        rows.append(source.c.dimension == dimension)
    users = [source.c.user_id] if is_by_user else []
    key = (source.c.dimension, source.c.dimension_value)
    uses, numbers = func.sum(source.c.usage_count), func.sum(source.c.value_count)
    added = func.sum(source.c.value_sum)
    return (
        select(
            *key,
            *users,
            func.count(source.c.user_id.distinct()).label("unique_users"),
            total(source.c.usage_count).label("uses"),
            share(uses, func.sum(uses).over(partition_by=source.c.dimension)).label("share"),
            _known(numbers, added).label("value_sum"),
            _known(numbers, over(Real(added), numbers)).label("value_mean"),
            func.min(source.c.value_minimum).label("value_minimum"),
            func.max(source.c.value_maximum).label("value_maximum"),
        )
        .where(*rows)
        .group_by(*key, *users)
    )


def _known(numbers: ColumnElement[int], figure: ColumnElement[float]) -> ColumnElement[float]:
    """None without any number."""
    return case((numbers > ZERO, figure))


def _checked(dimension: object) -> str:
    if dimension == NUMBERS:
        return NUMBERS
    try:
        return check_dimension(dimension)
    except DimensionError as error:
        raise ConfigurationError(str(error)) from None


DIMENSIONS = described(
    Question(
        "dimensions",
        dimensions,
        "Dimensions",
        "Uses of a feature by the values of a dimension.",
        "How often the feature was used with each value of a dimension {period}, and the sum, mean and bounds of the "
        "numbers beside the uses. The row without a dimension has all uses with a number.",
        "No use of this feature has a dimension or a number {period}: pass `dimensions=` or `value=` where it is "
        "captured.",
        "calendar_export --dimension format --since 28d",
        (
            QuestionColumn("dimension", "Dimension", "text"),
            QuestionColumn("dimension_value", "Value", "variant"),
            QuestionColumn("user_id", "User", "user", is_optional=True),
            USERS,
            SHARE,
            USES,
            QuestionColumn("value_sum", "Sum", "count"),
            QuestionColumn("value_mean", "Mean", "count"),
            QuestionColumn("value_minimum", "Least", "count", is_extra=True),
            QuestionColumn("value_maximum", "Greatest", "count", is_extra=True),
        ),
        topic="Features",
        bar="share",
        compared=("unique_users", "uses"),
        own_arguments=(
            Argument("dimension", NAME, "The dimension, by its name in the code. Default: all of the feature."),
            Argument("by", choice("WHAT", "user"), "user: a row for each user and value."),
        ),
        needs_hours=never,
    )
)
