"""How many users met which variant of a feature?"""

from __future__ import annotations

from sqlalchemy import Select, func, select

from usage_instrument.database.expressions import JSONText
from usage_instrument.database.tables import Tables

from .arguments import checked_feature, checked_key, default_tables
from .numbers import share, total
from .questions import NAME, SHARE, USERS, USES, Argument, Question, QuestionColumn, described


def variants(feature: str, key: str, *, tables: Tables | None = None) -> Select[str | None, int, int, float]:
    """Users and uses of a feature by the value of a key of its metadata, for an A/B test, the most widely used first:
    `variant`, `unique_users`, `uses`, `share`.

    The metadata is the latest context of each user, so all uses of a user count for the last variant: a user must keep
    the same variant throughout a test. `variant` is text, None if the key is missing. `share` (0 to 1) is of the
    feature's users; the anonymous user does not count as one, but the uses count. Raises ConfigurationError for an
    invalid feature name or key.
    """
    usage = (tables or default_tables()).usage
    variant = JSONText(usage.c.metadata, checked_key(key)).label("variant")
    rows = select(variant, usage.c.user_id, usage.c.usage_count).where(usage.c.feature_name == checked_feature(feature))
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
        "Users by the value of `{key}` in their latest use, over all time.",
        "No use of this feature has the key `{key}` in its metadata.",
        "calendar_new_event variant",
        (QuestionColumn("variant", "Variant", "variant"), USERS, SHARE, USES),
        bar="share",
        own_arguments=(Argument("key", NAME, "The key in the metadata."),),
    )
)
