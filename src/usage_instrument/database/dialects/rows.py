"""The rows of a batch, as one JSON text for dialects that unpack it on the server."""

from __future__ import annotations

import json
from collections.abc import Iterable
from uuid import UUID

from usage_instrument.events import Count
from usage_instrument.typing import UserId


def has_metadata(counts: Iterable[Count]) -> bool:
    """Whether any of the counts has some: most batches have none, and to merge nothing costs as much as to count."""
    return any(count.metadata is not None for count in counts)


def rows_text(counts: Iterable[Count], *, hex_users: bool = False) -> str:
    """Counts as a JSON array: u(ser), f(eature), n(umber), t(ime), b(ucket) and m(etadata) where there are any. Put
    together by hand, around metadata that is JSON text already."""
    quote = json.encoder.encode_basestring_ascii
    return (
        "["
        + ",".join(
            f'{{"u":{_user(count.user, hex_users)},"f":{quote(count.feature)},"n":{count.uses},'
            f'"t":"{count.last_used.isoformat(" ")}"{_bucket(count)}{_metadata(count)}}}'
            for count in counts
        )
        + "]"
    )


def history_text(counts: Iterable[Count], *, hex_users: bool = False) -> str:
    """Counts by bucket as a JSON array: u(ser), f(eature), b(ucket), n(umber)."""
    quote = json.encoder.encode_basestring_ascii
    return (
        "["
        + ",".join(
            f'{{"u":{_user(count.user, hex_users)},"f":{quote(count.feature)},"b":"{start.isoformat(" ")}","n":{uses}}}'
            for count in counts
            for start, uses in count.history
        )
        + "]"
    )


def _bucket(count: Count) -> str:
    """Only where it has one bucket, whose uses are all of the count's."""
    return f',"b":"{count.history[0][0].isoformat(" ")}"' if len(count.history) == 1 else ""


def _metadata(count: Count) -> str:
    return "" if count.metadata is None else f',"m":{count.metadata}'


def _user(user: UserId, hex_users: bool) -> str:
    if user is None:
        return "null"
    if isinstance(user, UUID):
        return f'"{user.hex if hex_users else user}"'
    return str(user) if isinstance(user, int) else json.encoder.encode_basestring_ascii(user)
