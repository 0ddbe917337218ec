"""The hash chain: each row's link is a hash over the row and the link before it.

The hash covers what identifies a person through salted digests. Erasing a person replaces the value and its salt by the
digest: the links still verify, and the digest does not reveal the value.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
import json
import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from json.encoder import encode_basestring_ascii
from typing import Any
from uuid import UUID, uuid4

from usage_instrument.events import Use
from usage_instrument.typing import UserId

PARTS = ("user", "actor", "details")
"""The parts of a row that may identify a person. Each has its own salt and digest."""

_EPOCH = dt.datetime(1970, 1, 1)  # noqa: DTZ001 - naive, as the columns are
_FIRST = b"usage-instrument audit trail 1"

_encoders: dict[type, Callable[[Any], str]] = {str: encode_basestring_ascii, int: str}

MALFORMED = (ValueError, KeyError, TypeError, AttributeError, RecursionError)
"""What parsing raises for a text that is none of ours."""
Row = Mapping[str, Any]
"""The columns of `feature_usage_access` by name."""


class Chain:
    """The chain of one writer. No other process appends to it, so that processes do not wait for each other."""

    def __init__(self, key: str | None, trail: UUID | None = None) -> None:
        self._key = key
        self.chain_id = uuid4()
        self.number = 0
        """Of the last committed row."""
        self.link = first_link(key, self.chain_id, trail)

    def rows(self, uses: Sequence[Use], service: str) -> list[dict[str, Any]]:
        """The rows of these accesses behind the last committed row."""
        number, before, rows = self.number, self.link, []
        for use in uses:
            number += 1
            row = row_of(use, service, self.chain_id, number)
            before = row["link"] = link(self._key, before, row)
            rows.append(row)
        return rows

    def appended(self, rows: Sequence[Row]) -> None:
        """Note that these rows, which `rows` made, are committed."""
        if rows:
            self.number, self.link = rows[-1]["number"], rows[-1]["link"]


def row_of(use: Use, service: str, chain_id: UUID, number: int) -> dict[str, Any]:
    """An access as a row without its link. Raises ValueError for a use without one."""
    access = use.access
    if access is None:
        raise ValueError(f"{use.feature!r} was not audited")
    return {
        "chain_id": chain_id,
        "number": number,
        "occurred_at": _EPOCH + dt.timedelta(microseconds=access.occurred_at),
        "access_id": access.id,
        "user_id": use.user,
        "actor_id": access.actor,
        "feature_name": use.feature,
        "outcome": access.outcome,
        "request_id": access.request_id,
        "service": service,
        "metadata": use.metadata,
        "seal": secrets.token_hex(16),
    }


def first_link(key: str | None, chain_id: UUID, trail: UUID | None = None) -> str:
    """The link before the first row of a chain. The release before knew no trail."""
    return _hash(key, _FIRST + chain_id.bytes + (b"" if trail is None else trail.bytes))


def first_links(key: str | None, chain_id: UUID, trail: UUID | None) -> tuple[str, str]:
    """The links that may be before the first row of a chain."""
    return first_link(key, chain_id, trail), first_link(key, chain_id)


def link(key: str | None, before: str, row: Row, number: int | None = None) -> str:
    """The link of a row behind the link `before`; with `number`, as if the row had that number."""
    content = [
        before,
        row["chain_id"].hex,
        row["number"] if number is None else number,
        row["occurred_at"].isoformat(),
        row["access_id"].hex,
        row["feature_name"],
        row["outcome"],
        row["service"],
        *_digests(row).values(),
    ]
    return _hash(key, _encoded(content).encode("ascii"))


def is_linked(key: str | None, before: str, row: Row) -> bool:
    """Whether the row's own link is valid behind the link `before`."""
    try:
        return bool(link(key, before, row) == row["link"])
    except MALFORMED:
        return False


def is_erased(row: Row) -> bool:
    """Whether a part of the row has been erased."""
    return str(row["seal"]).startswith("{")


def erased(row: Row, parts: Collection[str], pseudonym: str) -> dict[str, Any]:
    """The new values of a row's columns when these parts are erased. The row's link stays valid."""
    salts, digests = _seal_of(row)
    made = _digests(row)
    digests = {**digests, **{part: made[part] for part in parts}}
    names = {**_names_of(row), **dict.fromkeys(parts, pseudonym)}
    return {
        "user_id": None if "user" in digests else row["user_id"],
        "actor_id": None if "actor" in digests else row["actor_id"],
        "request_id": None if "details" in digests else row["request_id"],
        "metadata": None if "details" in digests else row["metadata"],
        "seal": _seal(salts, digests, names),
    }


def has_seal(row: Row, names: Mapping[str, str]) -> bool:
    """Whether exactly these parts are erased, with these pseudonyms. No link covers the pseudonyms."""
    if not is_erased(row):
        return not names
    salts, digests = _seal_of(row)
    return digests.keys() == names.keys() and row["seal"] == _seal(salts, digests, names)


def pseudonym_of(row: Row, part: str) -> str | None:
    """The pseudonym in an erased part of the row."""
    return _names_of(row).get(part)


def _seal(salts: Mapping[str, str], digests: Mapping[str, str], names: Mapping[str, str]) -> str:
    # In the order of PARTS, so that the order of erasures does not matter.
    seal = {
        "salts": {part: salts.get(part, "") for part in PARTS if part not in digests},
        "digests": {part: digests[part] for part in PARTS if part in digests},
        "names": {part: names[part] for part in PARTS if part in names},
    }
    return json.dumps(seal, separators=(",", ":"))


def _names_of(row: Row) -> dict[str, str]:
    if not is_erased(row):
        return {}
    try:
        return {str(part): str(name) for part, name in json.loads(row["seal"])["names"].items()}
    except MALFORMED:  # `verify` reports it
        return {}


def _seal_of(row: Row) -> tuple[dict[str, str], dict[str, str]]:
    """The salts of the readable parts, and the digests of the erased ones."""
    if not is_erased(row):
        return {part: hashlib.sha256(f"{row['seal']} {part}".encode()).hexdigest() for part in PARTS}, {}
    try:
        seal = json.loads(row["seal"])
        return dict(seal["salts"]), dict(seal["digests"])
    except MALFORMED:  # then no link is valid
        return {}, {}


def _digests(row: Row) -> dict[str, str]:
    values: dict[str, Sequence[str | None] | None] = {
        "user": _identity(row["user_id"]),
        "actor": _identity(row["actor_id"]),
        "details": [row["request_id"], row["metadata"]],
    }
    salts, digests = _seal_of(row)
    found = {}
    for part, value in values.items():
        is_readable = value not in (None, [None, None])
        # A stored digest counts only where the columns are empty: a value put beside it breaks the link.
        found[part] = _digest(salts.get(part, ""), value) if is_readable or part not in digests else str(digests[part])
    return found


def _hash(key: str | None, content: bytes) -> str:
    if key is None:
        return hashlib.sha256(content).hexdigest()
    return hmac.digest(key.encode(), content, "sha256").hex()


def _encoded(values: Sequence[str | int | None]) -> str:
    """Compact ASCII JSON. json.dumps would make an encoder each time, four times a row."""
    return f"[{','.join(['null' if value is None else _encoders[type(value)](value) for value in values])}]"


def _digest(salt: str, value: Sequence[str | None] | None) -> str:
    text = "null" if value is None else _encoded(value)
    return hashlib.sha256(f"{salt} {text}".encode()).hexdigest()


def _identity(user: UserId) -> list[str] | None:
    """An id with its type: 7 and "7" are different people."""
    if user is None:
        return None
    kind = "uuid" if isinstance(user, UUID) else "integer" if isinstance(user, int) else "string"
    return [kind, str(user)]
