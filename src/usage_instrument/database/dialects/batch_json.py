"""A batch as one JSON text, for dialects that unpack it on the server."""

from __future__ import annotations

import json
from collections.abc import Iterable
from uuid import UUID

from usage_instrument.events import Count
from usage_instrument.typing import UserId

from ..dimensions import DimensionRow
from ..exposures import ExposureRow

_quote = json.encoder.encode_basestring_ascii


def has_metadata(counts: Iterable[Count]) -> bool:
    """Whether a count has metadata. Most batches have none, and merging NULL is as expensive as counting."""
    return any(count.metadata is not None for count in counts)


def usage_json(counts: Iterable[Count], *, hex_users: bool = False) -> str:
    """The counts as a JSON array of objects: u(ser), f(eature), n(umber), t(ime), b(ucket), m(etadata).

    The text is concatenated, because metadata is JSON text already.
    """
    rows = (
        f'{{"u":{_user(count.user, hex_users)},"f":{_quote(count.feature)},"n":{count.uses},'
        f'"t":"{count.last_used.isoformat(" ")}"{_bucket(count)}{_metadata(count)}}}'
        for count in counts
    )
    return f"[{','.join(rows)}]"


def history_json(counts: Iterable[Count], *, hex_users: bool = False) -> str:
    """The buckets of the counts as a JSON array of objects: u(ser), f(eature), b(ucket), n(umber)."""
    rows = (
        f'{{"u":{_user(count.user, hex_users)},"f":{_quote(count.feature)},"b":"{start.isoformat(" ")}","n":{uses}}}'
        for count in counts
        for start, uses in count.history
    )
    return f"[{','.join(rows)}]"


def exposures_json(rows: Iterable[ExposureRow], *, hex_users: bool = False) -> str:
    """The rows as a JSON array of objects: e(xperiment), x (the unit), v(ariant), u(ser), s (the first), t (the last
    time), n(umber)."""
    texts = (
        f'{{"e":{_quote(row.experiment)},"x":{_quote(row.unit)},"v":{_quote(row.variant)},'
        f'"u":{_user(row.user, hex_users)},"s":"{row.first.isoformat(" ")}","t":"{row.last.isoformat(" ")}",'
        f'"n":{row.exposed}}}'
        for row in rows
    )
    return f"[{','.join(texts)}]"


def dimensions_json(rows: Iterable[DimensionRow], *, hex_users: bool = False) -> str:
    """The rows as a JSON array of objects: u(ser), f(eature), d(imension), v(alue), b(ucket), n(umber of uses), c (the
    number of those with a number), s(um), q (the sum of the squares), l(east), g(reatest)."""
    texts = (
        f'{{"u":{_user(user, hex_users)},"f":{_quote(feature)},"d":{_quote(each.dimension)},"v":{_quote(each.value)},'
        f'"b":"{each.start.isoformat(" ")}","n":{each.uses},"c":{each.numbers},"s":{each.total!r},"q":{each.squares!r},'
        f'"l":{_real(each.least)},"g":{_real(each.greatest)}}}'
        for user, feature, each in rows
    )
    return f"[{','.join(texts)}]"


def _real(number: float | None) -> str:
    return "null" if number is None else repr(number)


def _bucket(count: Count) -> str:
    """The bucket of a count with exactly one, which then has all its uses."""
    return f',"b":"{count.history[0][0].isoformat(" ")}"' if len(count.history) == 1 else ""


def _metadata(count: Count) -> str:
    return "" if count.metadata is None else f',"m":{count.metadata}'


def _user(user: UserId, hex_users: bool) -> str:
    if user is None:
        return "null"
    if isinstance(user, UUID):
        return f'"{user.hex if hex_users else user}"'
    return str(user) if isinstance(user, int) else _quote(user)
