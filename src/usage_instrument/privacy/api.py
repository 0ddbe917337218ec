"""Export, opt-out and erasure of a user's data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from sqlalchemy import Connection

from usage_instrument.capture import user_ids
from usage_instrument.database import suppressions
from usage_instrument.database.ledger import utcnow
from usage_instrument.database.suppressions import FORGOTTEN, FORGOTTEN_KEPT, OPTED_IN, OPTED_OUT, Key, State
from usage_instrument.errors import ConfigurationError, UsageInstrumentError, UserIdError
from usage_instrument.pipeline.backend import Backend
from usage_instrument.pipeline.retry import persistently
from usage_instrument.pipeline.store import Store
from usage_instrument.runtime.waiting import in_event_loop, without_blocking
from usage_instrument.settings import ENVIRONMENT_PREFIX, Settings
from usage_instrument.typing import UserId

from .erasure import PATIENCE, Erasure, Receipt
from .merge import PATIENCE as MERGE_PATIENCE
from .merge import Merge, MergeReceipt
from .personal_data import personal_data

_LOCK_TIMEOUT, _STATEMENT_TIMEOUT = 10.0, 60.0  # seconds: longer than the writer's, as no request waits


class Privacy:
    """The rights of users in one database. The construction opens no connection.

    `canonical` returns a user id as the tables hold it; `flush` writes the pending counts of this process within a
    number of seconds. All methods raise UserIdError for the anonymous user and for values that are no user id,
    ConfigurationError without the setting `privacy_key`, and UsageInstrumentError if the database does not answer or
    lacks a table. After an error, calling again is safe.
    """

    def __init__(
        self,
        backend: Backend,
        settings: Settings,
        canonical: Callable[[UserId], UserId],
        flush: Callable[[float], bool] = lambda timeout: True,
    ) -> None:
        self._settings = replace(settings, lock_timeout=_LOCK_TIMEOUT, statement_timeout=_STATEMENT_TIMEOUT)
        self._backend = Backend(backend.database, self._settings, backend.tables_given)
        self._canonical = canonical
        self._flush = flush

    def export(self, user: object) -> dict[str, Any]:
        """All data of a user as JSON values: `user_id`, `exported_at` (UTC), `usage`, `history`, `dimensions`,
        `exposures`, `waiting` (committed uses that no writer has counted yet), `accesses` as user or actor, and
        `counted`, which is None without a `privacy_key`. Needs no `privacy_key`."""
        given, secret = self._user_id(user), self._settings.privacy_key
        self._flush(self._settings.shutdown_timeout)

        def read(connection: Connection) -> dict[str, Any]:
            tables = self._backend.tables()
            state = None if secret is None else suppressions.state_of(connection, tables, Key(secret), user_id)
            return {
                "user_id": user_id if isinstance(user_id, int) else str(user_id),
                "exported_at": utcnow().isoformat(),
                "counted": None if secret is None else state not in (FORGOTTEN, FORGOTTEN_KEPT, OPTED_OUT),
                **personal_data(
                    connection,
                    tables,
                    user_id,
                    accesses=store.audit_problem is None,
                    exposures=store.exposure_problem is None,
                    dimensions=store.dimension_problem is None,
                    waiting=store.has_outbox,
                ),
            }

        with self._store() as store:
            (user_id,) = persistently(partial(store.spellings_of, [given]), PATIENCE)
            return persistently(partial(store.transact, read), PATIENCE)

    aexport = without_blocking(export)

    def opt_out(self, user: object) -> None:
        """Stop counting a user in all processes, from their next flush on. Existing counts stay."""
        self._suppress(user, OPTED_OUT)

    aopt_out = without_blocking(opt_out)

    def opt_in(self, user: object) -> None:
        """Count a user again, also after `forget`."""
        self._suppress(user, OPTED_IN)

    aopt_in = without_blocking(opt_in)

    def _suppress(self, user: object, state: State) -> None:
        given, key, tables = self._user_id(user), self._key(), self._backend.tables()
        with self._store() as store:
            (user_id,) = persistently(partial(store.spellings_of, [given]), PATIENCE)
            for work in (
                partial(suppressions.suppress, tables=tables, key=key, user=user_id, state=state),
                partial(suppressions.announce, tables=tables),  # the state must be committed before writers read it
            ):
                persistently(partial(store.transact, work), PATIENCE)

    def forget(self, user: object, *, actor: object = None, keep_audit: bool = False, force: bool = False) -> Receipt:
        """Erase a user from every table, buffer and journal, permanently: only a keyed hash is kept. The audit trail
        replaces their id by a pseudonym and records `actor` as who ordered it; with `keep_audit` it goes on naming
        the user.

        Takes seconds: it waits for the processes that share the `journal`, and for calls under required audit. Raises
        UnknownUserError if there is no trace of the user, unless `force`: another process may hold unwritten uses.
        """
        given, key = self._user_id(user), self._key()
        ordered_by = self._canonical(user_ids.user_id_of(actor))

        def flush() -> bool:
            return self._flush(self._settings.shutdown_timeout)

        flush()
        with self._store() as store:
            user_id, actor_id = persistently(partial(store.spellings_of, [given, ordered_by]), PATIENCE)
            erasure = Erasure(self._backend, self._settings, self._canonical, store, user_id, key)
            return erasure.run(flush, actor=actor_id, keep_audit=keep_audit, force=force)

    aforget = without_blocking(forget)

    def merge(self, *, guest: object, user: object, force: bool = False) -> MergeReceipt:
        """Move the counts, history and exposures of a guest to a user: sums, the newer metadata, the later `last_used`.

        A guest who was exposed under their own id becomes the unit of the user. If both saw several variants of an
        experiment, the user has a row for each, and counts for none of them.
        The audit trail does not change. Uses that other processes have not written yet stay the guest's, until `merge`
        is called again. Nothing moves if either is erased or opted out. Needs a `privacy_key` only where users are
        suppressed. Raises IdentifiedUserError if the guest is in the users table, unless `force`, and UnknownUserError
        if `user_id` refers to a users table that does not have the user.
        """
        given = [self._user_id(guest), self._user_id(user)]
        self._flush(self._settings.shutdown_timeout)
        with self._connected() as store:
            guest_id, user_id = persistently(partial(store.spellings_of, given), MERGE_PATIENCE)
            return Merge(self._backend, self._settings, store, guest_id, user_id).run(force=force)

    amerge = without_blocking(merge)

    def _user_id(self, user: object) -> UserId:
        user_id = self._canonical(user_ids.user_id_of(user))
        if user_id is None:
            raise UserIdError("the anonymous user has no data of their own: pass a user")
        return user_id

    def _key(self) -> Key:
        secret = self._settings.privacy_key
        if secret is None:
            raise ConfigurationError(
                f"the setting privacy_key (${ENVIRONMENT_PREFIX}PRIVACY_KEY) is not set: give every process the same "
                "text, such as `python -c 'import secrets; print(secrets.token_hex(32))'` prints"
            )
        return Key(secret)

    @contextmanager
    def _store(self) -> Iterator[Store]:
        with self._connected() as store:
            persistently(store.open, PATIENCE)
            yield store

    @contextmanager
    def _connected(self) -> Iterator[Store]:
        connector = self._backend.connect()
        if connector.is_async and in_event_loop():
            raise UsageInstrumentError("in an event loop, await the function of this name with an a in front")
        store = Store(connector, self._backend.tables(), self._settings)
        try:
            yield store
        finally:
            store.dispose()
