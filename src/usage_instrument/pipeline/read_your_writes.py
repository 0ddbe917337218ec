"""A user's uses up to this moment: the written ones, and those that this process has not written yet."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from sqlalchemy import Connection, literal, null, select, type_coerce

from usage_instrument.database.engines import Connector, Database, connect
from usage_instrument.database.reflection import is_readable
from usage_instrument.database.spellings import Spellings
from usage_instrument.errors import UsageInstrumentError
from usage_instrument.events import MAX_COUNT, Count, is_exposure
from usage_instrument.runtime.threads import start as start_thread
from usage_instrument.runtime.waiting import in_event_loop
from usage_instrument.typing import UserId

from .batcher import Unwritten

if TYPE_CHECKING:
    from usage_instrument.database.tables import Tables

    from .hand_over import HandOverPipeline
    from .pipeline import Pipeline

T = TypeVar("T")

_ATTEMPTS = 5
"""Reads that may be disturbed by a batch that begins or ends; after that, the writer waits for the read."""
_CONNECTIONS = 5
_WAITS = -1
"""Instead of the id of a row: the row is of the outbox."""


class FeatureUse(NamedTuple):
    """How one user has used one feature."""

    feature_name: str | None
    """The feature."""
    usage_count: int
    """How often, of all time."""
    last_used: dt.datetime
    """The last time (UTC, naive)."""
    metadata: dict[str, Any] | None
    """The latest context."""


class UsageReader:
    """Reads a user's rows on connections of its own, and adds the uses that are on their way to them."""

    def __init__(self, database: Database, tables: Callable[[], Tables]) -> None:
        self._database = database
        self._tables = tables
        self._connector: Connector | None = None
        self._spellings: Spellings | None = None
        self._has_outbox: bool | None = None

    def features(self, user: UserId, pipeline: Pipeline | HandOverPipeline) -> list[FeatureUse]:
        """The features that a user has used, the latest first, with the unwritten uses of `pipeline`.

        Raises what SQLAlchemy raises, and UsageInstrumentError in an event loop that an async driver would block.
        """
        for _ in range(_ATTEMPTS):
            found = self._read(user, pipeline)
            if found is not None:
                return found
        with pipeline.hold():
            return self._read(user, pipeline) or []

    def _read(self, user: UserId, pipeline: Pipeline | HandOverPipeline) -> list[FeatureUse] | None:
        """None if a batch began or ended during the read: its uses may be in both places, or in none."""
        mine = pipeline.unwritten(self._spellings_of(user, pipeline))
        applied, written, waiting = self._run(partial(self._query, user, mine))
        if pipeline.version != mine.version:
            return None
        # Read in one statement with the rows, `applied` shows whether they include the batch that is on its way.
        batch = mine.batch if mine.batch is not None and mine.batch.number > applied else None
        counts = [*waiting, *(batch.counts if batch is not None else ()), *mine.counts]
        counts = [count for count in counts if not is_exposure(count.feature)]
        return sorted(_added(written, counts), key=lambda use: (-use.last_used.timestamp(), use.feature_name or ""))

    def _spellings_of(self, user: UserId, pipeline: Pipeline | HandOverPipeline) -> Collection[UserId]:
        """The ids of unwritten uses that are the same user in the database."""
        if self._spellings is None:
            self._spellings = Spellings(self._tables())
        spellings = self._spellings
        if user is None or not spellings.may_differ:
            return (user,)
        users = {user, *pipeline.unwritten_users()}
        self._run(partial(spellings.look_up, users=users))
        return {each for each in users if spellings.of(each) == spellings.of(user)}

    def dispose(self) -> None:
        """Close the connections; the next read opens new ones. Errors do not matter."""
        connector, self._connector = self._connector, None
        if connector is None:
            return
        with contextlib.suppress(Exception):
            if connector.is_async and in_event_loop():
                start_thread(connector.dispose)
            else:
                connector.dispose()

    def _run(self, work: Callable[[Connection], T]) -> T:
        connector = self._connector
        if connector is None:
            connector = self._connector = connect(self._database, connections=_CONNECTIONS)
        if connector.is_async and in_event_loop():
            raise UsageInstrumentError("in an event loop, await usage.acount() or usage.auser_features()")
        return connector.run(work)

    def _query(
        self, user: UserId, mine: Unwritten, connection: Connection
    ) -> tuple[int, list[FeatureUse], list[Count]]:
        usage, writers, outbox = self._tables().usage, self._tables().writers, self._tables().outbox
        if self._has_outbox is None:
            self._has_outbox = is_readable(connection, outbox)
        last_batch = select(writers.c.last_batch).where(writers.c.writer_id == mine.writer_id).scalar_subquery()
        whose = usage.c.user_id.is_(None) if user is None else usage.c.user_id == user
        # An outer join: a user without rows still gets one row with the ledger's position.
        ledger = select(last_batch.label("last_batch")).subquery()
        query: Any = select(
            ledger.c.last_batch,
            usage.c.id,
            usage.c.feature_name,
            usage.c.usage_count,
            usage.c.last_used,
            usage.c.metadata,
        ).select_from(ledger.outerjoin(usage, whose))
        if self._has_outbox:  # in one statement, since a writer may move rows meanwhile
            theirs = outbox.c.user_id.is_(None) if user is None else outbox.c.user_id == user
            nothing = type_coerce(null(), usage.c.metadata.type)
            query = query.union_all(
                select(null(), literal(_WAITS), outbox.c.feature_name, outbox.c.uses, outbox.c.used_at, nothing).where(
                    theirs
                )
            )
        found = connection.execute(query).all()
        applied = max((row.last_batch for row in found if row.last_batch is not None), default=0)
        written = [
            FeatureUse(row.feature_name, row.usage_count or 0, row.last_used, row.metadata)
            for row in found
            if row.id not in (None, _WAITS)
        ]
        waiting = [Count(row.feature_name, user, row.usage_count, row.last_used) for row in found if row.id == _WAITS]
        return applied, written, waiting


def _added(written: Iterable[FeatureUse], counts: Iterable[Count]) -> Iterable[FeatureUse]:
    uses = {use.feature_name: use for use in written}
    for count in counts:
        metadata = None if count.metadata is None else json.loads(count.metadata)
        old = uses.get(count.feature)
        if old is None:
            uses[count.feature] = FeatureUse(count.feature, min(count.uses, MAX_COUNT), count.last_used, metadata)
        else:
            uses[count.feature] = FeatureUse(
                count.feature,
                min(old.usage_count + count.uses, MAX_COUNT),
                max(old.last_used, count.last_used),
                _merged(old, count, metadata),
            )
    return uses.values()


def _merged(old: FeatureUse, count: Count, metadata: dict[str, Any] | None) -> dict[str, Any] | None:
    """Merge as the flush does: newer keys win, ties are newer, and a value that is no object is replaced."""
    if metadata is None or not isinstance(old.metadata, dict):
        return metadata if metadata is not None else old.metadata
    return {**old.metadata, **metadata} if count.last_used >= old.last_used else {**metadata, **old.metadata}
