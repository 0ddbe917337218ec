"""How many people use each feature?"""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Select, and_, func, or_, select

from usage_instrument.database.tables import Tables

from .arguments import default_tables
from .comparison import Compare, compared, window_before
from .numbers import by_name, share, total
from .questions import FEATURE, NAME, SHARE, USERS, Argument, Question, QuestionColumn, described, if_bounded
from .sources import counts_in, host_column, host_key, of_population, population
from .windows import Moment, Window, window
from .zones import TimeZone


def adoption(
    *,
    by: Any = None,
    since: Moment = None,
    until: Moment = None,
    compare: Compare = None,
    tz: TimeZone = None,
    tables: Tables | None = None,
) -> Select[Any]:
    """Users and uses by feature, the most widely used first: `feature_name`, `unique_users`, `uses`, `share`.

    `share` (0 to 1) is of all users: the rows of the users table if the tables refer to one, else all users that ever
    used anything. The anonymous user, and a user who is not in the users table any more, does not count as a user, but
    the uses count. `by=User.plan`, any column of the host's users table or model, or its name as in `users.plan`,
    splits each feature by its value, in a column of its name after `feature_name`; `share` is then of the users with
    that value, and uses without a user have None there. `since` and `until` bound the days of the time zone `tz`
    (default: UTC), which the history answers: a timedelta (7 days: today and the six before), a date, a datetime or the
    text of one; without both, it is all time. Raises ConfigurationError for a wrong argument.
    """
    tables, before = tables or default_tables(), window_before(compare, since, until, tz)
    column = None if by is None else host_column(by, tables, "by", "plan")
    found = _counted(tables, window(since, until, tz), column)
    keys = ["feature_name"] if column is None else ["feature_name", column.name]
    if before is not None:
        found = compared(found, _counted(tables, before, column, "counts_before"), keys, ["unique_users", "uses"])
    columns = found.selected_columns
    order = [columns["unique_users"].desc(), columns["uses"].desc()]
    return found.order_by(*order, *(part for name in keys for part in by_name(columns[name])))


def _counted(tables: Tables, asked: Window, column: Any, cte: str = "counts") -> Select[Any]:
    """The users and uses of a window by feature, and by the value of a column of the users table."""
    used = counts_in(tables, asked, name=cte)
    feature, uses = used.c.feature_name, total(used.c.usage_count)
    if column is None:
        source, user = of_population(tables, used)
        return _answer([feature], func.count(user), uses, population(tables)).select_from(source).group_by(feature)
    user = host_key(tables.usage, column.table)
    users = func.count(user).label("users")
    counted = select(feature, column.label("value"), users, uses.label("uses"))
    counted = counted.select_from(used.outerjoin(column.table, user == used.c.user_id))
    # Aggregated before the join with the sizes, which then joins a few rows.
    counts = counted.group_by(feature, column).subquery("counts")
    sizes = select(column.label("value"), func.count().label("size")).group_by(column).subquery("sizes")
    same = or_(sizes.c.value == counts.c.value, and_(sizes.c.value.is_(None), counts.c.value.is_(None)))
    names = [counts.c.feature_name, counts.c.value.label(column.name)]
    return _answer(names, counts.c.users, counts.c.uses, sizes.c.size).select_from(counts.outerjoin(sizes, same))


def _answer(names: list[Any], users: Any, uses: Any, size: ColumnElement[Any]) -> Select[Any]:
    return select(*names, users.label("unique_users"), uses.label("uses"), share(users, size).label("share"))


ADOPTION = described(
    Question(
        "adoption",
        adoption,
        "Adoption",
        "How many users use each feature, and their share of all users.",
        "How many users used each feature {period}, and their share of all users.",
        "No signed-in user used a feature {period}.",
        "--since 28d",
        (FEATURE, USERS, SHARE, QuestionColumn("uses", "Uses", "count", is_extra=True)),
        topic="Features",
        bar="share",
        compared=("unique_users", "uses"),
        own_arguments=(Argument("by", NAME, "A column of the users table, such as users.plan.", is_of_command=True),),
        needs_hours=if_bounded,
    )
)
