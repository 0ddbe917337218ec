"""A window beside the one before it: the numbers of both, and the change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

from sqlalchemy import ColumnElement, Select, case, func, null, select, union_all

from usage_instrument.database.expressions import Real
from usage_instrument.errors import ConfigurationError

from .numbers import ZERO, over, total, whole
from .windows import Moment, Window, window
from .zones import TimeZone

Compare: TypeAlias = Literal["previous"] | None
"""`previous`: beside the numbers of a window those of the window of the same length before it."""


def window_before(compare: object, since: Moment, until: Moment, tz: TimeZone = None) -> Window | None:
    """The window to compare with; None for no comparison. Raises ConfigurationError."""
    return None if checked_compare(compare) is None else window(since, until, tz).previous()


def checked_compare(compare: object) -> Compare:
    """Whether there is a comparison. Raises ConfigurationError."""
    if compare is None:
        return None
    if compare != "previous":
        raise ConfigurationError(f"compare is 'previous' or None, not {compare!r}")
    return "previous"


def changes(name: str, now: ColumnElement[Any], before: ColumnElement[Any]) -> list[ColumnElement[Any]]:
    """The columns beside a number: `NAME_before`, `NAME_change` (the difference), `NAME_relative_change`.

    The last is 0.1 for a tenth more, and None if there was nothing before.
    """
    change = now - before
    relative = case((before > ZERO, over(Real(change), before)))
    return [
        before.label(f"{name}_before"),
        change.label(f"{name}_change"),
        relative.label(f"{name}_relative_change"),
    ]


def compared(
    now: Select[*tuple[Any, ...]], before: Select[*tuple[Any, ...]], keys: Sequence[str], numbers: Sequence[str]
) -> Select[*tuple[Any, ...]]:
    """The rows of both answers by their keys, with the changes of these numbers; 0 where one of them has no row.

    The other columns are those of `now`, None where it has no row. Without an order.
    """
    ours, theirs = now.subquery("now_"), before.subquery("before_")
    names = [*ours.c.keys()]
    others = [name for name in names if name not in {*keys, *numbers}]
    sides = [
        select(
            *(side.c[name] for name in keys),
            *((side.c[name] if is_now else ZERO).label(name) for name in numbers),
            *((ZERO if is_now else side.c[name]).label(f"{name}_before") for name in numbers),
            *((side.c[name] if is_now else null()).label(name) for name in others),
        )
        for side, is_now in ((ours, True), (theirs, False))
    ]
    both = union_all(*sides).subquery("both_windows")
    found: dict[str, Any] = {name: total(both.c[name]) for name in numbers}
    found |= {name: func.max(both.c[name], type_=ours.c[name].type) for name in others}
    columns: list[Any] = []
    for name in names:
        columns.append(both.c[name] if name in keys else found[name].label(name))
        if name in numbers:
            columns += changes(name, found[name], total(both.c[f"{name}_before"]))
    return select(*columns).group_by(*(both.c[name] for name in keys))


def compared_in_order(
    now: Select[*tuple[Any, ...]], before: Select[*tuple[Any, ...]], time: str, numbers: Sequence[str]
) -> Select[*tuple[Any, ...]]:
    """The rows of `now`, each with the changes of these numbers from the row of `before` that has the same place in the
    order of their times: months have different lengths, and so have other windows. Without an order."""
    ours, theirs = (_numbered(side, time).subquery(name) for side, name in ((now, "now_"), (before, "before_")))
    columns: list[Any] = []
    for name in [*now.selected_columns.keys()]:
        columns.append(ours.c[name])
        if name in numbers:
            columns += changes(name, ours.c[name], whole(theirs.c[name]))
    return select(*columns).select_from(ours.outerjoin(theirs, theirs.c.number == ours.c.number))


def _numbered(found: Select[*tuple[Any, ...]], time: str) -> Select[*tuple[Any, ...]]:
    rows = found.subquery()
    return select(rows, func.row_number().over(order_by=rows.c[time]).label("number"))
