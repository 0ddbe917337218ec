"""Names, users and metadata: what passes, what is refused, and that nothing changes on its way."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import ipaddress
import json
import math
import pathlib
import types
import uuid
from collections import ChainMap, OrderedDict
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from usage_instrument.errors import FeatureNameError, MetadataError, UserIdError
from usage_instrument.events import (
    NIL,
    Batch,
    Count,
    Loss,
    bucket_start,
    canonical_user,
    check_feature,
    encode_metadata,
    in_row_order,
    keep_metadata,
)
from usage_instrument.typing import UserIdType

MOMENT = dt.datetime(2024, 2, 29, 23, 59, 59, 999_999)


class Name(str):
    __slots__ = ()


class Colour(enum.Enum):
    RED = "red"
    ID = uuid.UUID(int=7)
    BAD = "a\0b"


class Level(enum.IntEnum):
    LOW = 1


class Mode(str, enum.Enum):
    ON = "on"


# ---- feature names


@pytest.mark.parametrize(
    "name", ["a", "calendar_follow_event", "x" * 100, "é" * 100, "😀" * 100, "a b\n", " ", "POST /x/{id}"]
)
def test_names(name: str) -> None:
    assert check_feature(name) is name


def test_a_name_is_an_exact_str() -> None:
    found = check_feature(Name("export"))
    assert type(found) is str
    assert found == "export"


@pytest.mark.parametrize("name", ["", "x" * 101, "a\0b", "\ud800", "a\udfffb", None, 5, b"export", object(), ["a"]])
def test_what_is_no_name(name: object) -> None:
    with pytest.raises(FeatureNameError):
        check_feature(name)


def test_a_long_name_is_not_repeated_at_length() -> None:
    with pytest.raises(FeatureNameError) as raised:
        check_feature("x" * 10_000_000)
    assert len(str(raised.value)) < 200


def test_a_wrong_name_is_a_value_error() -> None:
    with pytest.raises(ValueError):
        check_feature("")


# ---- users

UUIDS = st.uuids(allow_nil=False)
BIGINTS = st.integers(-(2**63) + 2, 2**63 - 1)
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=255)


@given(UUIDS)
def test_a_uuid_and_its_text_are_the_same_user(user: uuid.UUID) -> None:
    as_uuid = canonical_user("uuid")
    assert as_uuid(user) is user
    for text in (str(user), user.hex, str(user).upper(), user.urn, f"{{{user}}}"):
        assert as_uuid(text) == user


@given(BIGINTS)
def test_an_int_and_its_digits_are_the_same_user(user: int) -> None:
    as_integer = canonical_user("integer")
    assert as_integer(user) == as_integer(str(user)) == user


@given(st.one_of(TEXTS, UUIDS, BIGINTS))
def test_a_string_id_reads_as_what_was_given(user: str | uuid.UUID | int) -> None:
    assert canonical_user("string")(user) == str(user)


@given(st.text(max_size=40))
def test_any_text_is_refused_or_means_the_same_uuid(text: str) -> None:
    try:
        found = canonical_user("uuid")(text)
    except UserIdError:
        return
    assert isinstance(found, uuid.UUID)
    assert found.hex == text.lower().removeprefix("urn:uuid:").strip("{}").replace("-", "")


@given(st.one_of(st.text(max_size=25), st.integers().map(str), st.from_regex(r"[ +-]?[0-9_]{1,5}\n?", fullmatch=True)))
def test_any_text_is_refused_or_reads_back_from_the_integer(text: str) -> None:
    try:
        found = canonical_user("integer")(text)
    except UserIdError:
        return
    assert type(found) is int
    assert str(found) == text


def test_rows_have_one_order_in_every_process() -> None:
    now, ids = dt.datetime(2026, 1, 1), [uuid.UUID(int=2**127), uuid.UUID(int=3), None]
    counts = [Count(feature, user, 1, now) for feature in ("b", "a\U0001f600", "a\uffff") for user in ids]
    by_bytes = sorted((c for c in counts if c.user), key=lambda c: (c.user.bytes, c.feature.encode()))  # type: ignore[union-attr]
    anonymous = sorted((c for c in counts if c.user is None), key=lambda c: c.feature.encode())
    assert list(in_row_order(counts)) == by_bytes + anonymous
    for users in (["b", "a", None], [10, -2, None]):
        counts = [Count(feature, user, 1, now) for feature in "ba" for user in users]
        found = [(count.user, count.feature) for count in in_row_order(counts)]
        assert found == [(user, feature) for user in (users[1], users[0], None) for feature in "ab"]


@pytest.mark.parametrize("kind", ["uuid", "integer", "string"])
def test_none_is_anonymous(kind: UserIdType) -> None:
    assert canonical_user(kind)(None) is None


@pytest.mark.parametrize("kind", ["uuid", "integer", "string"])
def test_what_stands_in_for_null_is_no_user(kind: UserIdType) -> None:
    with pytest.raises(UserIdError):
        canonical_user(kind)(NIL[kind])


HEX = "0123456789abcdef" * 2


@pytest.mark.parametrize(
    ("kind", "user"),
    [
        ("uuid", 42),
        ("uuid", "42"),
        ("uuid", ""),
        ("uuid", "x" * 36),
        ("uuid", str(uuid.UUID(int=0))),
        # int(…, 16) would take all of these:
        ("uuid", "+" + HEX[:31]),
        ("uuid", " " + HEX[:31]),
        ("uuid", HEX[:31] + "\n"),
        ("uuid", "0x" + HEX[:30]),
        ("uuid", "1_" + HEX[:30]),
        ("uuid", "\u0661" * 32),
        ("integer", uuid.UUID(int=5)),
        ("integer", 2**63),
        ("integer", -(2**63)),
        ("integer", str(2**63)),
        ("integer", "1" * 5000),
        ("integer", 10**5000),
        ("integer", ""),
        ("integer", "-"),
        ("integer", "--5"),
        ("integer", "-0"),
        ("integer", "007"),
        ("integer", "+7"),
        ("integer", " 7"),
        ("integer", "1_0"),
        ("integer", "1.0"),
        ("integer", "\u0663"),
        ("string", ""),
        ("string", "x" * 256),
        ("string", "a\0b"),
        ("string", "\udc80"),
        ("string", 10**5000),
    ],
    ids=range(32),
)
def test_another_user_is_never_made_up(kind: UserIdType, user: Any) -> None:
    with pytest.raises(UserIdError):
        canonical_user(kind)(user)


def test_a_refusal_does_not_tell_the_id() -> None:
    for kind, user in (("uuid", "jane@example.org"), ("integer", "jane@example.org"), ("string", "jane@example.org\0")):
        with pytest.raises(UserIdError) as raised:
            canonical_user(kind)(user)  # type: ignore[arg-type]
        assert "jane" not in str(raised.value)


# ---- metadata


def test_no_metadata() -> None:
    assert keep_metadata(None) is None
    assert keep_metadata({}) is None
    assert keep_metadata(types.MappingProxyType({})) is None


def test_flat_metadata_is_copied() -> None:
    given_ = {"text": "x", "int": 1, "float": 0.5, "bool": True, "none": None}
    kept = keep_metadata(given_)
    assert kept == given_
    assert kept is not given_


def test_nested_metadata_is_encoded_at_once() -> None:
    inner = [1]
    kept = keep_metadata({"a": inner})
    inner.append(2)
    assert kept == '{"a":[1]}'


@pytest.mark.parametrize(
    "mapping", [OrderedDict(a=1), ChainMap({"a": 1}), types.MappingProxyType({"a": 1})], ids=lambda m: type(m).__name__
)
def test_any_mapping_will_do(mapping: Any) -> None:
    assert keep_metadata(mapping) == {"a": 1}


@pytest.mark.parametrize("given_", [[("a", 1)], "a", 5, b"{}", {"a"}, object()])
def test_metadata_is_a_mapping(given_: object) -> None:
    with pytest.raises(MetadataError, match="metadata is a mapping"):
        keep_metadata(given_)


@pytest.mark.parametrize(
    ("key", "text"),
    [
        (1, "1"),
        (True, "true"),
        (None, "null"),
        (Mode.ON, "on"),
        (Level.LOW, "1"),
        (Colour.RED, "red"),
        (Name("a"), "a"),
    ],
)
def test_a_key_becomes_text_by_its_value(key: object, text: str) -> None:
    assert keep_metadata({key: 1, "b": 2}) == f'{{"{text}":1,"b":2}}'


@pytest.mark.parametrize("key", [("a",), b"a", object(), Colour.BAD])
def test_another_key_is_lost_alone(key: object) -> None:
    lost: list[str] = []
    assert keep_metadata({key: 1, "b": 2}, lambda name, error: lost.append(name)) == '{"b":2}'
    assert len(lost) == 1
    with pytest.raises(MetadataError):
        keep_metadata({key: 1})


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (decimal.Decimal("1.10"), "1.10"),
        (decimal.Decimal("NaN"), "NaN"),
        (dt.date(2024, 2, 29), "2024-02-29"),
        (dt.datetime(2024, 2, 29, 1, 2, 3, 4, dt.UTC), "2024-02-29T01:02:03.000004+00:00"),
        (dt.time(1, 2), "01:02:00"),
        (Colour.RED, "red"),
        (Colour.ID, "00000000-0000-0000-0000-000000000007"),
        (Level.LOW, 1),
        (Mode.ON, "on"),
        (Name("sub"), "sub"),
        ({3, 1, 2}, [1, 2, 3]),
        (frozenset("ba"), ["a", "b"]),
        ((1, [2, {"a": None}]), [1, [2, {"a": None}]]),
        ("é😀\u2028\\u0000\\ud800", "é😀\u2028\\u0000\\ud800"),
        (["\\ud800"], ["\\ud800"]),
        (10**400, 10**400),
        ([], []),
        ({}, {}),
        (dt.timedelta(hours=1), "1:00:00"),
        (pathlib.PurePosixPath("/a/b"), "/a/b"),
        (b"caf\xc3\xa9", "café"),
        (ipaddress.ip_address("::1"), "::1"),
        (ipaddress.ip_network("10.0.0.0/8"), "10.0.0.0/8"),
        (np.int64(7), 7),
        (np.float32(0.5), 0.5),
        ({1: Mode.ON, Mode.ON: 1}, {"1": "on", "on": 1}),
    ],
    ids=range(27),
)
def test_what_json_or_a_web_app_knows_is_kept(value: object, expected: object) -> None:
    kept = keep_metadata({"k": value})
    text = kept if isinstance(kept, str) else encode_metadata(kept or {})
    assert json.loads(text) == {"k": expected}


def _nested(depth: int, leaf: object = 1) -> object:
    value = leaf
    for level in range(depth):
        value = [value] if level % 2 else {"k": value}
    return value


HOSTILE: dict[str, object] = {
    "nul": "a\0b",
    "nul in a list": ["a\0b"],
    "nul in a key": {"a\0b": 1},
    "nul in an enum": Colour.BAD,
    "nul in a set": {"a\0"},
    "nul in a tuple": (("\0",),),
    "lone surrogate": "\ud800",
    "lone surrogate beside a pair": "😀\udfff",
    "lone surrogate in a key": {"\udfff": 1},
    "nan": math.nan,
    "nan in a list": [math.nan],
    "infinity": math.inf,
    "minus infinity": [-math.inf],
    "1e400": 1e400,
    "5000 digits": 10**5000,
    "bytes that are no text": b"\xff",
    "bytes with a nul": b"\0",
    "an object": object(),
    "complex": 1j,
    "mixed set": {1, "a"},
    "tuple keys": {("a", "b"): 1},
    "a mapping that is no dict": [types.MappingProxyType({})],
    "30 levels": _nested(30),
    "400 levels": _nested(400),
    "400 levels over a nul": _nested(400, "\0"),
    "950 levels over a surrogate": _nested(950, "\ud800"),
    "950 levels": _nested(950),
    "100,000 levels": _nested(100_000),
}


@pytest.mark.parametrize("value", HOSTILE.values(), ids=HOSTILE.keys())
def test_what_json_or_a_database_refuses(value: object) -> None:
    def keep_and_encode() -> None:
        kept = keep_metadata({"k": value})
        if isinstance(kept, dict):  # flat: encoded later
            encode_metadata(kept)

    with pytest.raises(MetadataError):
        keep_and_encode()
    lost: list[str] = []
    kept = keep_metadata({"k": value, "good": [1]}, lambda key, error: lost.append(key))
    assert (kept, lost) == ('{"good":[1]}', ["'k'"]), "it costs its key alone"


def test_a_structure_that_holds_itself() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(MetadataError):
        keep_metadata({"k": loop})


def test_29_levels_below_the_object_are_kept() -> None:
    text = keep_metadata({"k": _nested(29)})
    assert isinstance(text, str)
    assert json.loads(text) == {"k": _nested(29)}


def test_many_brackets_side_by_side_are_not_deep() -> None:
    value = {"k": [[n] for n in range(100)]}
    assert json.loads(encode_metadata(value)) == value


@given(
    st.dictionaries(
        st.text(max_size=5),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
            max_leaves=8,
        ),
        max_size=4,
    )
)
def test_metadata_is_the_same_afterwards_or_refused(metadata: dict[str, Any]) -> None:
    lost: list[str] = []

    def lose(key: str, error: MetadataError) -> None:
        lost.append(key)

    try:
        kept = keep_metadata(metadata, lose)
        text = kept if isinstance(kept, str) else encode_metadata(kept or {}, lose)
    except MetadataError:
        return
    assert json.loads(text) == {key: value for key, value in metadata.items() if repr(key)[:40] not in lost}
    text.encode()


# ---- buckets and batches


def test_buckets() -> None:
    assert bucket_start(MOMENT, "day") == dt.datetime(2024, 2, 29)
    assert bucket_start(MOMENT, "hour") == dt.datetime(2024, 2, 29, 23)


@given(st.datetimes(min_value=dt.datetime(1970, 1, 1)))
def test_a_moment_lies_in_its_bucket(moment: dt.datetime) -> None:
    for bucket, length in (("hour", dt.timedelta(hours=1)), ("day", dt.timedelta(days=1))):
        start = bucket_start(moment, bucket)  # type: ignore[arg-type]
        assert dt.timedelta(0) <= moment - start < length
        assert bucket_start(start, bucket) == start  # type: ignore[arg-type]


def test_a_batch_adds_up() -> None:
    batch = Batch(1, (Count("a", None, 2, MOMENT), Count("b", 1, 3, MOMENT)), (Loss(MOMENT.date(), "why", 9),))
    assert batch.uses == 5
