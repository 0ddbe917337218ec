"""How many people use each feature?"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Column, ColumnElement, FromClause, Select, Table, and_, func, or_, select

from usage_instrument.database.tables import Tables
from usage_instrument.errors import ConfigurationError

from .arguments import default_tables
from .numbers import by_name, share, total
from .questions import FEATURE, SHARE, USERS, Question, QuestionColumn, described
from .sources import counts_in, of_population, population
from .windows import Moment, window


def adoption(
    *, by: Any = None, since: Moment = None, until: Moment = None, tables: Tables | None = None
) -> Select[Any]:
    """Users and uses by feature, the most widely used first: `feature_name`, `unique_users`, `uses`, `share`.

    `share` (0 to 1) is of all users: the rows of the users table if the tables refer to one, else all users that ever
    used anything. The anonymous user, and a user who is not in the users table any more, does not count as a user, but
    the uses count. `by=User.plan`, any column of the host's users table or model, splits each feature by its value, in
    a column of its name after `feature_name`; `share` is then of the users with that value, and uses without a user
    have None there. `since` and `until` bound the days, UTC, that the history answers: a timedelta (7 days: today and
    the six before), a date, a datetime or the text of one; without both, it is all time. Raises ConfigurationError for
    a wrong argument.
    """
    tables = tables or default_tables()
    used = counts_in(tables, window(since, until))
    feature, uses = used.c.feature_name, total(used.c.usage_count)
    if by is None:
        source, user = of_population(tables, used)
        answer = _answer(feature, [], func.count(user), uses, population(tables))
        return answer.select_from(source).group_by(feature)
    column = _column(by)
    user = _id(tables.usage, column.table)
    users = func.count(user).label("users")
    counted = select(feature, column.label("value"), users, uses.label("uses"))
    counted = counted.select_from(used.outerjoin(column.table, user == used.c.user_id))
    # Aggregated before the join with the sizes, which then joins a few rows.
    counts = counted.group_by(feature, column).subquery("counts")
    sizes = select(column.label("value"), func.count().label("size")).group_by(column).subquery("sizes")
    same = or_(sizes.c.value == counts.c.value, and_(sizes.c.value.is_(None), counts.c.value.is_(None)))
    value = counts.c.value.label(column.name)
    answer = _answer(counts.c.feature_name, [value], counts.c.users, counts.c.uses, sizes.c.size)
    return answer.select_from(counts.outerjoin(sizes, same))


def _answer(feature: Any, groups: list[Any], users: Any, uses: Any, size: ColumnElement[Any]) -> Select[Any]:
    names, counts = [feature, *groups], [users.label("unique_users"), uses.label("uses")]
    order = [*(count.desc() for count in counts), *(part for name in names for part in by_name(name))]
    return select(*names, *counts, share(users, size).label("share")).order_by(*order)


def _column(by: Any) -> Any:
    clause = getattr(by, "__clause_element__", None)
    column = by if clause is None else clause()
    if not isinstance(column, ColumnElement) or not isinstance(getattr(column, "table", None), FromClause):
        raise ConfigurationError(f"by is a column of the users table or an attribute of its model, not {by!r}")
    return column


def _id(usage: Table, users: Any) -> Any:
    """The column to join with `user_id`: the one it refers to, if in this table, else the primary key."""
    for key in usage.c.user_id.foreign_keys:
        place, _, name = key.target_fullname.rpartition(".")
        if place == getattr(users, "fullname", None):
            return users.c[name]
    keys = [column for column in users.c if isinstance(column, Column) and column.primary_key]
    if len(keys) != 1:
        raise ConfigurationError(f"{users} has no primary key of one column to join with user_id")
    return keys[0]


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
        bar="share",
        python_only=frozenset({"by"}),
    )
)
