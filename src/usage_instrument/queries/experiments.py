"""Which experiments are there, since when, and how many units saw each variant?"""

from __future__ import annotations

import datetime as dt

from sqlalchemy import Select, and_, func, select

from usage_instrument.database.tables import Tables

from .arguments import default_tables
from .experiment import persons_of
from .numbers import ONE, ZERO, whole
from .windows import Moment, window
from .zones import TimeZone


def experiments(
    *, since: Moment = None, until: Moment = None, tz: TimeZone = None, tables: Tables | None = None
) -> Select[str, str, int, int, dt.datetime, dt.datetime]:
    """The variants of all experiments, by their names: `experiment`, `variant`, `units`, `excluded`,
    `first_exposed_at`, `last_exposed_at` (UTC).

    A unit is a user, or a visitor of the host's (`unit=`) that no user is known of. `units` saw this variant alone;
    `excluded` is the number of those that saw several variants of the experiment, the same in each of its rows.

    `since` and `until` bound the first exposure: a timedelta (28 days: today and the 27 before), a date, a datetime,
    the text of one or None, in days of the time zone `tz` (default: UTC). Raises ConfigurationError for a wrong
    argument.
    """
    tables, asked = tables or default_tables(), window(since, until, tz)
    exposures, persons = tables.exposures, persons_of(tables, asked)
    key = (exposures.c.experiment, exposures.c.variant)
    shown = (
        select(
            *key,
            func.min(exposures.c.first_exposed_at).label("first_exposed_at"),
            func.max(exposures.c.last_exposed_at).label("last_exposed_at"),
        )
        .where(*asked.contains(asked.zone.local(exposures.c.first_exposed_at)))
        .group_by(*key)
        .cte("shown")
    )
    of_variant = (persons.c.experiment, persons.c.variant)
    seen = (
        select(*of_variant, func.count().label("units"))
        .where(persons.c.saw_several == ZERO)
        .group_by(*of_variant)
        .cte("seen_alone")
    )
    several = (
        select(persons.c.experiment, func.count().label("units"))
        .where(persons.c.saw_several == ONE)
        .group_by(persons.c.experiment)
        .cte("several")
    )
    same = and_(seen.c.experiment == shown.c.experiment, seen.c.variant == shown.c.variant)
    return (
        select(
            shown.c.experiment,
            shown.c.variant,
            whole(seen.c.units).label("units"),
            whole(several.c.units).label("excluded"),
            shown.c.first_exposed_at,
            shown.c.last_exposed_at,
        )
        .select_from(shown.outerjoin(seen, same).outerjoin(several, several.c.experiment == shown.c.experiment))
        .order_by(shown.c.experiment, shown.c.variant)
    )
