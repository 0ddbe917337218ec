"""How many users met which variant of a feature?"""

from __future__ import annotations

from sqlalchemy import Select, and_, case, func, select

from usage_instrument.database.expressions import JSONText
from usage_instrument.database.tables import Tables

from .arguments import checked_feature, checked_key, default_tables
from .numbers import share, total
from .questions import NAME, SHARE, USERS, USES, Argument, Question, QuestionColumn, described
from .sources import counts_in
from .windows import Moment, window


def variants(
    feature: str, key: str, *, since: Moment = None, until: Moment = None, tables: Tables | None = None
) -> Select[str | None, int, int, float]:
    """Users and uses of a feature by the value of a key of its metadata, for an A/B test, the most widely used first:
    `variant`, `unique_users`, `uses`, `share`.

    The metadata is the latest context of each user, so all uses of a user count for the last variant: a user must keep
    the same variant throughout a test. `variant` is text, None if the key is missing. `share` (0 to 1) is of the
    feature's users; the anonymous user does not count as one, but the uses count. `since` and `until` bound the days,
    UTC, that the history answers: a timedelta (7 days: today and the six before), a date, a datetime or the text of
    one; without both, it is all time. Raises ConfigurationError for a wrong argument.
    """
    tables, asked = tables or default_tables(), window(since, until)
    usage, name = tables.usage, checked_feature(feature)
    variant, is_its = JSONText(usage.c.metadata, checked_key(key)), usage.c.feature_name == name
    if asked.is_all_time:
        rows = select(variant.label("variant"), usage.c.user_id, usage.c.usage_count).where(is_its)
    else:
        counts = counts_in(tables, asked, name)
        # Not joined: NULL, the anonymous user, equals nothing, and a join by more than equality takes quadratic time.
        anonymous = select(variant).where(is_its, usage.c.user_id.is_(None)).scalar_subquery()
        of_user = case((counts.c.user_id.is_(None), anonymous), else_=variant).label("variant")
        joined = counts.outerjoin(usage, and_(usage.c.user_id == counts.c.user_id, is_its))
        rows = select(of_user, counts.c.user_id, counts.c.usage_count).select_from(joined)
    found = rows.subquery("found")
    counted, uses = func.count(found.c.user_id), total(found.c.usage_count).label("uses")
    users, everyone = counted.label("unique_users"), func.sum(counted).over()
    return (
        select(found.c.variant, users, uses, share(counted, everyone).label("share"))
        .group_by(found.c.variant)
        .order_by(users.desc(), uses.desc(), found.c.variant.is_(None), found.c.variant)
    )


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
        own_arguments=(Argument("key", NAME, "The key in the metadata."),),
        is_of_all_time=True,
    )
)
