"""What did the units do that saw each variant of an experiment?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from sqlalchemy import (
    CTE,
    ColumnElement,
    FromClause,
    Select,
    and_,
    case,
    func,
    literal_column,
    null,
    or_,
    select,
    union_all,
)

from usage_instrument.database.expressions import Real, StartOf
from usage_instrument.database.tables import Tables
from usage_instrument.errors import ConfigurationError, FeatureNameError
from usage_instrument.events import NUMBERS, check_feature

from .arguments import checked_feature, default_tables
from .numbers import ONE, ZERO, total, whole
from .windows import Moment, Window, window
from .zones import TimeZone


def experiment(
    name: str,
    goal: str,
    *,
    metric: Literal["converted", "uses", "value"] = "uses",
    since: Moment = None,
    until: Moment = None,
    tz: TimeZone = None,
    tables: Tables | None = None,
) -> Select[*tuple[Any, ...]]:
    """The figures of an experiment's variants, by their names, for `usage_instrument.experiments.analyse`: `variant`,
    `units`, `without_user`, `converted`, `order_unknown`, `uses`, `uses_order_unknown`, `uses_squares`, `excluded`.

    A unit is a user, or a visitor of the host's (`unit=`) that no user is known of. Units that saw several variants, as
    two units of one user may have, are in no figure: `excluded` is their number, the same in each row. `without_user`
    are the visitors among `units`: the history does not know them, so they never reach the goal.

    The history has days or hours, so uses of the goal count from the day (hour) of the first exposure on. The order
    within it is unknowable: `converted` units used the goal in or after it, and `order_unknown` of them only in it, so
    that between `converted - order_unknown` and `converted` have used the goal after the exposure. Likewise `uses`, of
    which `uses_order_unknown` are of that day (hour). What is counted too much is as frequent in each variant. In a
    history by hours, the hour at midnight may be a whole day that was summed up, and counts as one.
    `uses_squares` is the sum of the squares of each unit's uses.

    With `metric="value"`, the numbers beside the uses of the goal (`value=` of a capture) take their place: `value` is
    their sum, of which `value_order_unknown` is of the day of the first exposure, `value_squares` is the sum of the
    squares of each unit's sum, and `converted` units have a number. They are kept by day (UTC), whatever the history.
    `"converted"` and `"uses"` have the same columns.

    `since` and `until` bound the first exposure, `until` the uses too: a timedelta (28 days: today and the 27 before),
    a date, a datetime, the text of one or None, in days of the time zone `tz` (default: UTC), for which the uses need
    hours in the history. Raises ConfigurationError for a wrong argument.
    """
    tables, asked = tables or default_tables(), window(since, until, tz)
    if metric not in ("converted", "uses", "value"):
        raise ConfigurationError(f"metric is 'converted', 'uses' or 'value', not {metric!r}")
    is_value = metric == "value"
    if is_value and not (asked.is_all_time or asked.zone.is_utc):
        raise ConfigurationError("numbers are kept by day (UTC), which a time zone divides: pass no tz, or no period")
    source = tables.dimensions if is_value else tables.history
    number, amount = (source.c.value_count, source.c.value_sum) if is_value else (source.c.usage_count, None)
    name, feature = _checked(name), checked_feature(goal)
    persons = persons_of(tables, asked, name)
    first, start = persons.c.first_exposed_at, source.c.bucket_start
    after = start >= first
    begin = select(func.min(tables.exposures.c.first_exposed_at)).where(tables.exposures.c.experiment == name)
    its = and_(
        source.c.user_id == persons.c.user_id,
        source.c.feature_name == feature,
        start >= StartOf("day", begin.scalar_subquery()),  # an index knows the days of the experiment
        *([source.c.dimension == NUMBERS] if is_value else []),
        or_(after, start == StartOf("day", first), start == StartOf("hour", first)),
        *asked.contains(asked.zone.local(start)),
    )
    used = (
        select(
            persons.c.variant,
            total(number).label("uses"),
            total(case((after, number))).label("uses_after"),
            *([_sum(amount).label("value"), _sum(case((after, amount))).label("value_after")] if is_value else []),
            # No condition: PostgreSQL would expect few rows, and loop over an index.
            func.max(persons.c.saw_several).label("saw_several"),
        )
        .join_from(persons, source, its)
        .group_by(persons.c.user_id, persons.c.variant)
        .having(func.sum(number) > ZERO)
        .subquery("used")
    )
    is_counted, has_used = persons.c.saw_several == ZERO, used.c.saw_several == ZERO
    uses, uses_after = (case((has_used, each), else_=ZERO) for each in (used.c.uses, used.c.uses_after))
    figures: dict[str, ColumnElement[Any]] = {
        "uses": total(uses),
        "uses_order_unknown": total(uses - uses_after),
        "uses_squares": func.sum(Real(uses) * Real(uses)),
    }
    if is_value:
        value, value_after = (case((has_used, used.c[each]), else_=_NOTHING) for each in ("value", "value_after"))
        figures = {
            "value": func.sum(value),
            "value_order_unknown": func.sum(value - value_after),
            "value_squares": func.sum(value * value),
        }
    numbers = ("units", "without_user", "converted", "order_unknown", *(() if is_value else tuple(figures)[:2]))
    reals = tuple(figures) if is_value else ("uses_squares",)
    nothing: dict[str, ColumnElement[Any]] = dict.fromkeys((*numbers, "saw_several"), ZERO)
    nothing |= dict.fromkeys(reals, _NOTHING)
    parts = [
        _part(_variants(tables, asked, name), nothing),
        _part(
            select(persons.c.variant).select_from(persons).group_by(persons.c.variant),
            {
                **nothing,
                "units": _number(is_counted),
                "without_user": func.count(case((is_counted, persons.c.visitor))),
                "saw_several": total(persons.c.saw_several),
            },
        ),
        _part(
            select(used.c.variant).select_from(used).group_by(used.c.variant),
            {
                **nothing,
                "converted": _number(has_used),
                "order_unknown": _number(and_(has_used, used.c.uses_after == ZERO)),
                **figures,
            },
        ),
    ]
    # Not joined: a database without statistics would sum up one part again for each row of another.
    by_variant = union_all(*parts).subquery("by_variant")
    return (
        select(
            by_variant.c.variant,
            *(total(by_variant.c[each]).label(each) for each in numbers),
            *(func.sum(by_variant.c[each]).label(each) for each in reals),
            whole(func.sum(func.sum(by_variant.c.saw_several)).over()).label("excluded"),
        )
        .group_by(by_variant.c.variant)
        .order_by(by_variant.c.variant)
    )


_NOTHING: ColumnElement[float] = literal_column("0.0")


def _sum(numbers: Any) -> ColumnElement[float]:
    return func.coalesce(func.sum(numbers), _NOTHING)


def _part(variants: Select[*tuple[Any, ...]], numbers: Mapping[str, ColumnElement[Any]]) -> Select[*tuple[Any, ...]]:
    """Some of the numbers by variant, all in one order."""
    return variants.add_columns(*(number.label(name) for name, number in numbers.items()))


def persons_of(tables: Tables, asked: Window, name: str | None = None) -> CTE:
    """The units that an experiment counts, by their first exposure: `user_id`, `visitor` (None for a user), `variant`
    (the first one by name), `first_exposed_at`, `saw_several` (1 or 0); without a name of all, by `experiment` too."""
    exposures = tables.exposures
    end, of = asked.end(), [exposures.c.experiment] if name is None else []
    rows = [] if name is None else [exposures.c.experiment == name]
    rows += [] if end is None else [asked.zone.local(exposures.c.first_exposed_at) < end]

    def same(other: FromClause, *names: str) -> ColumnElement[bool]:
        return and_(*(exposures.c[each] == other.c[each] for each in (*(each.name for each in of), *names)))

    # Few units. PostgreSQL expects few where something equals something, and so joins them by an index or a small hash.
    mixed = (
        select(*of, exposures.c.unit)
        .where(*rows)
        .group_by(*of, exposures.c.unit)
        .having(case((func.count() > ONE, ONE)) == ONE)
        .cte("mixed")
        .prefix_with(*_ONCE, dialect="postgresql")
    )
    seen = (
        select(*of, exposures.c.unit, exposures.c.user_id)
        .join_from(mixed, exposures, same(mixed, "unit"))
        .where(*rows, exposures.c.user_id.is_not(None))
        .cte("of_mixed")
        .prefix_with(*_ONCE, dialect="postgresql")
    )
    shared = select(*(seen.c[each.name] for each in of), seen.c.user_id).distinct().subquery("shared")
    known = select(*(seen.c[each.name] for each in of), seen.c.unit).distinct().subquery("known")
    is_user, variant = exposures.c.user_id.is_not(None), func.min(exposures.c.variant)
    first, start = func.min(exposures.c.first_exposed_at), asked.start()
    has_several = variant != func.max(exposures.c.variant)

    def persons(user: Any, visitor: Any, several: ColumnElement[bool]) -> Select[*tuple[Any, ...]]:
        return (
            select(
                *of,
                user.label("user_id"),
                visitor.label("visitor"),
                variant.label("variant"),
                first.label("first_exposed_at"),
                case((several, ONE), else_=ZERO).label("saw_several"),
            )
            .where(*rows)
            .having(*([] if start is None else [asked.zone.local(first) >= start]))
        )

    users = (
        persons(exposures.c.user_id, null(), or_(func.count(shared.c.user_id) > ZERO, has_several))
        .select_from(exposures.outerjoin(shared, same(shared, "user_id")))
        .where(is_user)
        .group_by(*of, exposures.c.user_id)
    )
    # The row of a visitor who has become a user under another variant is no unit of its own.
    visitors = (
        persons(null(), exposures.c.unit, has_several)
        .select_from(exposures.outerjoin(known, same(known, "unit")))
        .where(~is_user, known.c.unit.is_(None))
        .group_by(*of, exposures.c.unit)
    )
    return union_all(users, visitors).cte("persons")


_ONCE = ("MATERIALIZED",)
"""Without statistics, PostgreSQL would read such a CTE again for each row of another."""


def _variants(tables: Tables, asked: Window, name: str) -> Select[*tuple[Any, ...]]:
    """The variants with a first exposure in the window, also if all their units saw several."""
    exposures = tables.exposures
    first = asked.zone.local(exposures.c.first_exposed_at)
    found = select(exposures.c.variant).where(exposures.c.experiment == name, *asked.contains(first)).distinct()
    return select(found.subquery("variants").c.variant)


def _number(condition: ColumnElement[bool]) -> ColumnElement[int]:
    return total(case((condition, ONE)))


def _checked(name: object) -> str:
    try:
        return check_feature(name)
    except FeatureNameError as error:
        raise ConfigurationError(str(error).replace("a feature name", "the name of an experiment", 1)) from None
