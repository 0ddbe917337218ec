"""What a person may ask for: their own data, not to be counted, and to be forgotten."""

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
from usage_instrument.database.suppressions import FORGOTTEN, OPTED_IN, OPTED_OUT, Key, State
from usage_instrument.errors import ConfigurationError, UsageInstrumentError, UserIdError
from usage_instrument.pipeline.backend import Backend
from usage_instrument.pipeline.store import Store, persistently
from usage_instrument.runtime.waiting import in_event_loop, in_worker_thread
from usage_instrument.settings import ENVIRONMENT_PREFIX, Settings
from usage_instrument.typing import UserId

from .erasure import PATIENCE, Forgetting, Receipt
from .personal_data import personal_data

_LOCKS, _STATEMENT = 10.0, 60.0  # seconds: somebody waits for this, and it is no request


class Privacy:
    """One database, as the persons see it whom it tells of. Opens no connection by itself.

    `canonical` makes the id that the tables hold; `flush` writes what this process holds within so many seconds. Users
    are given as everywhere. All methods raise UserIdError for what no user can be, the anonymous one included;
    ConfigurationError without the setting `privacy_key`; and UsageInstrumentError where the database does not answer
    or lacks a table: what was done by then stays, and to ask again is safe.
    """

    def __init__(
        self,
        backend: Backend,
        settings: Settings,
        canonical: Callable[[UserId], UserId],
        flush: Callable[[float], bool] = lambda timeout: True,
    ) -> None:
        self._settings = replace(settings, lock_timeout=_LOCKS, statement_timeout=_STATEMENT)
        self._backend = Backend(backend.database, self._settings, backend.tables_given)
        self._canonical = canonical
        self._flush = flush

    # ---- one's own data

    def export(self, user: object) -> dict[str, Any]:
        """All that the tables tell of a user, as JSON can carry it: `user_id`, `exported_at` (UTC), `usage`, `history`,
        `accesses` by them or as them, and whether they are `counted` (None without a `privacy_key`, which this alone
        does not need)."""
        who, secret = self._who(user), self._settings.privacy_key
        self._flush(self._settings.shutdown_timeout)

        def read(connection: Connection) -> dict[str, Any]:
            tables = self._backend.tables()
            state = None if secret is None else suppressions.state_of(connection, tables, Key(secret), who)
            return {
                "user_id": who if isinstance(who, int) else str(who),
                "exported_at": utcnow().isoformat(),
                "counted": None if secret is None else state not in (FORGOTTEN, OPTED_OUT),
                **personal_data(connection, tables, who, accesses=store.audit_problem is None),
            }

        with self._store() as store:
            return persistently(partial(store.transact, read), PATIENCE)

    async def aexport(self, user: object) -> dict[str, Any]:
        """As export, without blocking the event loop."""
        return await in_worker_thread(partial(self.export, user))

    # ---- to be counted, or not

    def opt_out(self, user: object) -> None:
        """Count nothing of this user any more, in any process, from its next flush on; what was counted stays."""
        self._suppress(user, OPTED_OUT)

    async def aopt_out(self, user: object) -> None:
        """As opt_out, without blocking the event loop."""
        await in_worker_thread(partial(self.opt_out, user))

    def opt_in(self, user: object) -> None:
        """Count this user again, also one who was forgotten."""
        self._suppress(user, OPTED_IN)

    async def aopt_in(self, user: object) -> None:
        """As opt_in, without blocking the event loop."""
        await in_worker_thread(partial(self.opt_in, user))

    def _suppress(self, user: object, state: State) -> None:
        who, key, tables = self._who(user), self._key(), self._backend.tables()
        with self._store() as store:
            for work in (
                partial(suppressions.suppress, tables=tables, key=key, user=who, state=state),
                partial(suppressions.announce, tables=tables),  # whoever is told to look has to find it: committed
            ):
                persistently(partial(store.transact, work), PATIENCE)

    # ---- to be forgotten

    def forget(self, user: object, *, keep_audit: bool = False, force: bool = False) -> Receipt:
        """Erase a user from every table, buffer and journal, and keep a keyed hash alone, so that nobody brings them
        back. In the audit trail a pseudonym takes their place, unless `keep_audit`.

        It takes seconds, as it waits for the processes that share the `journal`, and for calls that are audited as
        required. Raises UnknownUserError where nothing tells of such a user, unless `force`: another process may know
        them that has written nothing yet.
        """
        who, key = self._who(user), self._key()

        def flush() -> bool:
            return self._flush(self._settings.shutdown_timeout)

        flush()
        with self._store() as store:
            forgetting = Forgetting(self._backend, self._settings, self._canonical, store, who, key)
            return forgetting.run(flush, keep_audit=keep_audit, force=force)

    async def aforget(self, user: object, *, keep_audit: bool = False, force: bool = False) -> Receipt:
        """As forget, without blocking the event loop."""
        return await in_worker_thread(partial(self.forget, user, keep_audit=keep_audit, force=force))

    # ---- the database

    def _who(self, user: object) -> UserId:
        who = self._canonical(user_ids.user_id_of(user))
        if who is None:
            raise UserIdError("the anonymous user is nobody in particular: there is no one to ask for")
        return who

    def _key(self) -> Key:
        secret = self._settings.privacy_key
        if secret is None:
            raise ConfigurationError(
                f"the setting privacy_key (${ENVIRONMENT_PREFIX}PRIVACY_KEY) is not set: a secret of 32 characters or "
                "more, the same in every process, by which users are remembered without being named"
            )
        return Key(secret)

    @contextmanager
    def _store(self) -> Iterator[Store]:
        connector = self._backend.connect()
        if connector.is_async and in_event_loop():
            raise UsageInstrumentError("in an event loop, await the function of this name with an a in front")
        store = Store(connector, self._backend.tables(), self._settings)
        try:
            persistently(store.open, PATIENCE)
            yield store
        finally:
            store.dispose()
