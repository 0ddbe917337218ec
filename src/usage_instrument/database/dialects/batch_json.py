"""A batch as one JSON text, for dialects that unpack it on the server."""

from __future__ import annotations

import datetime as dt
import functools
import json
from collections.abc import Iterable, Sequence
from uuid import UUID

from usage_instrument.events import Count
from usage_instrument.typing import UserId

from ..dimensions import DimensionRow
from ..exposures import ExposureRow

_quote = json.encoder.encode_basestring_ascii
_feature = functools.lru_cache(1024)(_quote)


def has_metadata(counts: Iterable[Count]) -> bool:
    """Whether a count has metadata. Most batches have none, and merging NULL is as expensive as counting."""
    return any(count.metadata is not None for count in counts)


def usage_json(counts: Iterable[Count]) -> str:
    """The counts as a JSON array of objects: u(ser), f(eature), n(umber), t(ime), b(ucket), m(etadata).

    The text is concatenated, because metadata is JSON text already.
    """
    rows = [
        f'{{"u":{_user(user)},"f":{_feature(feature)},"n":{uses},"t":{_time(used)}'
        f"{_more(metadata, history) if metadata is not None or history else ''}}}"
        for feature, user, uses, used, metadata, history, _ in counts
    ]
    return f"[{','.join(rows)}]"


def history_json(counts: Iterable[Count]) -> str:
    """The buckets of the counts as a JSON array of objects: u(ser), f(eature), b(ucket), n(umber)."""
    rows = [
        f'{{"u":{_user(count.user)},"f":{_feature(count.feature)},"b":{_time(start)},"n":{uses}}}'
        for count in counts
        for start, uses in count.history
    ]
    return f"[{','.join(rows)}]"


def exposures_json(rows: Iterable[ExposureRow]) -> str:
    """The rows as a JSON array of objects: e(xperiment), x (the unit), v(ariant), u(ser), s (the first), t (the last
    time), n(umber)."""
    texts = (
        f'{{"e":{_quote(row.experiment)},"x":{_quote(row.unit)},"v":{_quote(row.variant)},'
        f'"u":{_user(row.user)},"s":{_time(row.first)},"t":{_time(row.last)},'
        f'"n":{row.exposed}}}'
        for row in rows
    )
    return f"[{','.join(texts)}]"


def dimensions_json(rows: Iterable[DimensionRow]) -> str:
    """The rows as a JSON array of objects: u(ser), f(eature), d(imension), v(alue), b(ucket), n(umber of uses), c (the
    number of those with a number), s(um), q (the sum of the squares), l(east), g(reatest)."""
    texts = (
        f'{{"u":{_user(user)},"f":{_feature(feature)},"d":{_quote(each.dimension)},"v":{_quote(each.value)},'
        f'"b":{_time(each.start)},"n":{each.uses},"c":{each.numbers},"s":{each.total!r},"q":{each.squares!r},'
        f'"l":{_real(each.least)},"g":{_real(each.greatest)}}}'
        for user, feature, each in rows
    )
    return f"[{','.join(texts)}]"


def _real(number: float | None) -> str:
    return "null" if number is None else repr(number)


def _more(metadata: str | None, history: Sequence[tuple[dt.datetime, int]]) -> str:
    """Metadata, and the bucket of a count with exactly one, which then has all its uses."""
    bucket = f',"b":{_time(history[0][0])}' if len(history) == 1 else ""
    return bucket if metadata is None else f'{bucket},"m":{metadata}'


@functools.lru_cache(1024)  # all uses of a cycle have one time
def _time(moment: dt.datetime) -> str:
    return f'"{moment.isoformat(" ")}"'


def _user(user: UserId) -> str:
    if isinstance(user, UUID):
        return f'"{user.int.to_bytes(16, "big").hex()}"'  # str(user) takes four times as long
    if user is None:
        return "null"
    return str(user) if isinstance(user, int) else _quote(user)
