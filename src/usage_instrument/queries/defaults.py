"""What a question takes for granted: the default tables, and the form that numbers have in every answer."""

from __future__ import annotations

import functools
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, MetaData, cast, func, literal_column

from usage_instrument.schema import Tables, define_tables
from usage_instrument.typing import UserIdType


@functools.cache
def default_tables(user_id_type: UserIdType = "uuid") -> Tables:
    """The tables of the connection's own schema."""
    return define_tables(MetaData(), users=None, user_id_type=user_id_type)


def total(counts: ColumnElement[Any]) -> ColumnElement[int]:
    """A sum that is an int, 0 for nothing; by itself MariaDB adds integers up to a Decimal."""
    return cast(func.coalesce(func.sum(counts), literal_column("0")), BigInteger)
