"""Moves the counts, the history, the dimensions, the exposures and the waiting uses of a guest to a user."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias, TypeVar

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    Table,
    Text,
    and_,
    cast,
    delete,
    inspect,
    literal,
    or_,
    select,
    type_coerce,
)

from usage_instrument.database import dialects, outbox, suppressions
from usage_instrument.database.dialects import Fault
from usage_instrument.database.dialects.base import KEY_COLUMNS, ConcurrentInsertError
from usage_instrument.database.dimensions import DimensionRow
from usage_instrument.database.exposures import ExposureRow
from usage_instrument.database.ledger import Ledger, utcnow
from usage_instrument.database.suppressions import Key
from usage_instrument.database.users_table import is_in_users_table
from usage_instrument.errors import IdentifiedUserError, UnknownUserError
from usage_instrument.events import Batch, Count, Slice
from usage_instrument.pipeline.backend import Backend
from usage_instrument.pipeline.retry import persistently
from usage_instrument.pipeline.store import Store, WriteError
from usage_instrument.settings import Settings
from usage_instrument.typing import UserId, _Unset

T = TypeVar("T")

PATIENCE = 10.0
"""Seconds to retry while a lock or the network is in the way: a person waits for the login."""
_KEYS_PER_QUERY = 100
_SLICE = (
    "bucket_start", "dimension", "dimension_value", "usage_count", "value_count", "value_sum", "value_squares",
    "value_minimum", "value_maximum",
)  # fmt: skip
"""The columns of a Slice, in its order."""
_ExposureKey: TypeAlias = tuple[str, str, str]
"""Experiment, unit and variant."""


@dataclass(frozen=True)
class MergeReceipt:
    """What `merge` did. It names neither the guest nor the user."""

    moved: Mapping[str, int] = field(default_factory=dict)
    """Rows that were the guest's, by table; no table if nothing is configured or enabled."""
    uses: int = 0
    """The sum of their counts in `feature_usage`."""
    suppressed: bool = False
    """Whether rows stay the guest's, because the guest or the user is erased or opted out."""
    finished_at: dt.datetime = field(default_factory=utcnow)
    """UTC, naive."""


@dataclass(frozen=True)
class _Part:
    """What one transaction moved."""

    moved: Mapping[str, int]
    uses: int = 0
    is_last: bool = True
    suppressed: bool = False
    number: int = 0
    """Its number in the ledger; that of the part before if there was nothing to move."""


class Merge:
    """The merge of one guest into one user of one database.

    Each part is a batch of a writer of its own: the part counts once, also if the answer of its COMMIT is lost, and
    none is applied after an erasure that it does not know of. A part adds to the user what it deletes of the guest in
    the same transaction.
    """

    def __init__(self, backend: Backend, settings: Settings, store: Store, guest: UserId, user: UserId) -> None:
        self._settings = settings
        self._store = store
        self._guest = guest
        self._user = user
        self._tables = backend.tables()
        self._ledger: Ledger = store.new_ledger()
        self._attempt = _Part({})
        """The latest attempt whose statements succeeded."""

    def run(self, *, force: bool) -> MergeReceipt:
        """Move everything that is written for the guest. Raises IdentifiedUserError unless `force`, UnknownUserError
        and UsageInstrumentError; running it again is safe."""
        moved = Counter[str]({table.fullname: 0 for table in (*self._tables.of_users, self._tables.outbox)})
        if self._guest == self._user or not self._do(self._has_rows):
            return MergeReceipt(dict(moved))
        persistently(self._store.open, PATIENCE)
        self._check_users(force)
        persistently(partial(self._store.register, self._ledger), PATIENCE)
        uses = 0
        try:
            while True:
                part = self._do(self._move)
                self._ledger.number = part.number
                moved.update(part.moved)
                uses += part.uses
                if part.is_last:
                    return MergeReceipt(dict(moved), uses, part.suppressed)
        except WriteError as error:
            if error.fault is Fault.UNKNOWN_USER:
                raise _unknown() from error
            raise
        finally:
            with contextlib.suppress(WriteError):  # maintenance prunes the row in time
                self._store.retire(self._ledger)

    def _do(self, work: Callable[[Connection], T]) -> T:
        return persistently(partial(self._store.transact, work), PATIENCE)

    def _has_rows(self, connection: Connection) -> bool:
        usage, history, exposures, dimensions = self._tables.of_users
        return (
            _has(connection, usage, _of(usage, self._guest))
            or _has(connection, history, _of(history, self._guest))
            or any(
                inspect(connection).has_table(
                    table.name, schema=table.schema
                )  # not in the schema of the release before
                and _has(connection, table, table.c.user_id == self._guest)
                for table in (exposures, dimensions, self._tables.outbox)
            )
        )

    # ---- who they are

    def _check_users(self, force: bool) -> None:
        if self._store.has_users:
            unknown = self._store.unknown_users([self._guest, self._user])
            if self._user in unknown:
                raise _unknown()
            is_identified = self._guest not in unknown
        else:
            users, schema = self._settings.users, self._tables.usage.schema
            look = partial(is_in_users_table, schema=schema, users=users, user=self._guest)
            is_identified = not force and self._do(look)
        if is_identified and not force:
            raise IdentifiedUserError

    # ---- one transaction

    def _move(self, connection: Connection) -> _Part:
        ledger, flush = self._ledger, self._store.statements
        position, number = ledger.position(connection), ledger.number
        if not isinstance(position, _Unset) and position > number:
            return self._attempt  # it was committed, and its answer lost
        flush.queue(connection)
        ledger.suppression = ledger.live_suppression(connection)
        secret = self._settings.privacy_key
        key, both = None if secret is None else Key(secret), (self._guest, self._user)
        if suppressions.any_suppressed(connection, self._tables, key, both):
            return _Part({}, suppressed=True, number=number)
        # First, as a writer takes them: those that one counts meanwhile are rows of the guest's in the next line.
        waiting = self._give_waiting(connection) if self._store.has_outbox else 0
        counts = self._take_counts(connection)
        buckets, is_last = self._take_history(connection)
        exposures = self._take_exposures(connection) if self._store.exposure_problem is None else []
        slices, is_all = self._take_dimensions(connection) if self._store.dimension_problem is None else ([], True)
        if counts or buckets or exposures or slices or waiting:
            number += 1
            if not flush.apply(connection, ledger, Batch(number, counts)):
                raise ConcurrentInsertError  # suppressed since: look again
            if buckets:
                flush.add_history(connection, _with_history(self._user, buckets))
            if exposures:
                flush.add_exposures(connection, exposures)
            if slices:
                flush.add_dimensions(connection, slices)
        numbers = map(len, (counts, buckets, exposures, slices))
        moved = {table.fullname: rows for table, rows in zip(self._tables.of_users, numbers, strict=True)}
        moved[self._tables.outbox.fullname] = waiting
        self._attempt = _Part(moved, sum(count.uses for count in counts), is_last and is_all, number=number)
        return self._attempt

    def _give_waiting(self, connection: Connection) -> int:
        """Make the guest's rows of the outbox the user's, which a writer counts later, and return their number."""
        guest = self._is(connection, self._tables.outbox, self._guest)
        return outbox.give(connection, self._tables, guest, self._user)

    def _take_counts(self, connection: Connection) -> tuple[Count, ...]:
        """Delete the guest's rows and return them as counts of the user."""
        usage = self._tables.usage
        is_text = connection.dialect.name != "postgresql"  # elsewhere it may hold invalid JSON
        text: ColumnElement[Any] = type_coerce(usage.c.metadata, Text()) if is_text else cast(usage.c.metadata, Text())
        is_guest = self._is(connection, usage, self._guest)
        query = select(
            usage.c.feature_name,
            usage.c.usage_count,
            usage.c.last_used,
            text.label("context"),
            is_guest.label("is_guest"),
        ).where(or_(is_guest, self._is(connection, usage, self._user)))
        # The user's rows are locked too: all writers lock rows in one order, so none is in a deadlock with another.
        query = query.order_by(*self._store.statements.row_order(usage)).with_for_update()
        rows = [row for row in self._read(connection, query) if row.is_guest]
        self._delete(connection, usage, is_guest, len(rows))
        return tuple(
            Count(row.feature_name, self._user, row.usage_count or 0, row.last_used, _object(row.context))
            for row in sorted(rows, key=lambda row: str(row.feature_name))
        )

    def _take_history(self, connection: Connection) -> tuple[Sequence[Any], bool]:
        """Delete the oldest rows of the guest's history and return them, and whether they were the last."""
        history, limit = self._tables.history, self._settings.flush_rows
        old = self._is(connection, history, self._guest)
        next_ = select(history.c.bucket_start).where(old).order_by(history.c.bucket_start).offset(limit - 1).limit(1)
        latest = connection.scalar(next_)
        if latest is not None:
            old = and_(old, history.c.bucket_start <= latest)
        query = select(history.c.feature_name, history.c.bucket_start, history.c.usage_count).where(old)
        query = query.order_by(*self._store.statements.row_order(history), history.c.bucket_start).with_for_update()
        rows = self._read(connection, query)
        self._delete(connection, history, old, len(rows))
        return rows, latest is None

    def _take_exposures(self, connection: Connection) -> list[ExposureRow]:
        """Delete the guest's exposures and return them as those of the user.

        The unit that is the guest's id becomes the user's id: one person is one unit, and has several rows if they saw
        several variants. Units of the host's own, such as the id of a visitor, stay.
        """
        exposures = self._tables.exposures
        old: set[_ExposureKey] = {
            (row.experiment, row.unit, row.variant)
            for row in connection.execute(select(exposures).where(exposures.c.user_id == self._guest))
            if row.user_id == self._guest  # in a table made by hand, the database may take another id for equal
        }
        new = {(experiment, self._unit(unit), variant) for experiment, unit, variant in old}
        found = [row for row in self._lock_exposures(connection, sorted(old | new)) if row.user_id == self._guest]
        for row in found:
            self._delete(connection, exposures, _is_exposure(exposures, (row.experiment, row.unit, row.variant)), 1)
        rows = (ExposureRow(*row)._replace(unit=self._unit(row.unit), user=self._user) for row in found)
        return sorted(rows, key=lambda row: row[:3])

    def _take_dimensions(self, connection: Connection) -> tuple[list[DimensionRow], bool]:
        """Delete some of the guest's rows of dimensions and return them as those of the user, and whether they were
        the last."""
        dimensions, limit = self._tables.dimensions, self._settings.flush_rows
        is_guest = self._is(connection, dimensions, self._guest)
        order = self._store.statements.row_order(dimensions)
        order += self._store.statements.by_bytes(*(dimensions.c[name] for name in KEY_COLUMNS))
        columns = (dimensions.c[name] for name in ("id", "feature_name", *_SLICE))
        query = select(*columns).where(is_guest).order_by(*order).limit(limit + 1).with_for_update()
        rows = self._read(connection, query)
        is_all, rows = len(rows) <= limit, rows[:limit]
        for start in range(0, len(rows), _KEYS_PER_QUERY):
            some = rows[start : start + _KEYS_PER_QUERY]
            self._delete(connection, dimensions, dimensions.c.id.in_([row.id for row in some]), len(some))
        found = (DimensionRow(self._user, feature, Slice(*its)) for _, feature, *its in rows)
        return sorted(found, key=lambda row: row.order), is_all

    def _unit(self, unit: str) -> str:
        return str(self._user) if unit == str(self._guest) else unit

    def _lock_exposures(self, connection: Connection, keys: Sequence[_ExposureKey]) -> Iterator[Any]:
        """The rows with these keys, locked in the order of all writers: by the bytes of the primary key."""
        exposures = self._tables.exposures
        for start in range(0, len(keys), _KEYS_PER_QUERY):
            some = [_is_exposure(exposures, key) for key in keys[start : start + _KEYS_PER_QUERY]]
            query = select(exposures).where(or_(*some))
            query = query.order_by(*self._store.statements.by_bytes(*exposures.primary_key.columns)).with_for_update()
            yield from self._read(connection, query)

    def _is(self, connection: Connection, table: Table, user: UserId) -> ColumnElement[bool]:
        """The named rows of a user, and of none whose id a table made by hand takes for equal."""
        dialect = dialects.get(connection.dialect.name)
        key = dialect.unique_key(connection, table, self._tables.user_id_type)[0]
        return and_(_of(table, user), key == user)

    def _read(self, connection: Connection, query: Select[Any]) -> Sequence[Any]:
        dialect = dialects.get(connection.dialect.name)
        return connection.execute(dialect.without_waiting(connection, query, self._settings)).all()

    def _delete(self, connection: Connection, table: Table, which: ColumnElement[bool], rows: int) -> None:
        dialect = dialects.get(connection.dialect.name)
        statement = dialect.without_waiting(connection, delete(table).where(which), self._settings)
        if connection.execute(statement).rowcount != rows:
            raise ConcurrentInsertError  # another writer has inserted one since: take that one too


def _is_exposure(exposures: Table, key: _ExposureKey) -> ColumnElement[bool]:
    return and_(*(column == value for column, value in zip(exposures.primary_key.columns, key, strict=True)))


def _has(connection: Connection, table: Table, which: ColumnElement[bool]) -> bool:
    return connection.scalar(select(literal(1)).select_from(table).where(which).limit(1)) is not None


def _of(table: Table, user: UserId) -> ColumnElement[bool]:
    """The named rows: the package writes no others, and counts none by a missing name."""
    return and_(table.c.user_id == user, table.c.feature_name.is_not(None))


def _with_history(user: UserId, buckets: Sequence[Any]) -> list[Count]:
    uses: defaultdict[str, list[tuple[dt.datetime, int]]] = defaultdict(list)
    for row in buckets:
        uses[row.feature_name].append((row.bucket_start, row.usage_count or 0))
    return [
        Count(feature, user, sum(number for _, number in found), max(found)[0], None, tuple(found))
        for feature, found in sorted(uses.items())
    ]


def _object(text: str | None) -> str | None:
    """Metadata as the flush merges it: a JSON object. Other values, which the package does not write, are left out."""
    try:
        return text if isinstance(json.loads(text or "null"), dict) else None
    except ValueError:
        return None


def _unknown() -> UnknownUserError:
    return UnknownUserError("the user is not in the users table: commit the user first, then merge")
