"""Audited functions and calls of `track`: which access each one is, and what happens where it cannot be recorded."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

import usage_instrument as usage
from conftest import Database
from reading import all_of, balanced, made
from usage_instrument import AuditUnavailable, Settings, Tracker
from usage_instrument.audit.verify import verify
from usage_instrument.errors import ConfigurationError, DeclarationError, SchemaError, UsageInstrumentError
from usage_instrument.events import Use
from usage_instrument.testing import CapturedUsage, capture_usage

ADA, BOB = uuid.UUID(int=2**64 + 1), uuid.UUID(int=2**64 + 2)
KINDS = pytest.mark.parametrize("audit", [True, "required"])


@pytest.fixture
def captured() -> Iterator[CapturedUsage]:
    with capture_usage() as captured:
        yield captured


def outcomes(captured: CapturedUsage) -> list[str]:
    return [access.outcome for access in captured.accesses]


# ---- what a call is


@KINDS
def test_a_call_is_an_access_and_a_use(captured: CapturedUsage, audit: Any) -> None:
    @usage.tracks("open_vault", audit=audit, metadata=["drawer"])
    def open_vault(drawer: int) -> int:
        return drawer * 2

    with usage.as_user(ADA, actor=BOB):
        assert open_vault(4) == 8
    attempts = ["attempted"] if audit == "required" else []
    assert outcomes(captured) == [*attempts, "success"]
    assert {(each.feature, each.user, each.actor) for each in captured.accesses} == {("open_vault", ADA, BOB)}
    assert captured.accesses[-1].metadata == {"drawer": 4}
    captured.assert_tracked("open_vault", ADA, times=1)


@KINDS
@pytest.mark.parametrize(
    ("error", "outcome"),
    [(ValueError("no"), "failed"), (PermissionError("no"), "denied"), (KeyboardInterrupt(), "failed")],
)
def test_what_ends_with_an_exception_is_an_access_and_no_use(
    captured: CapturedUsage, audit: Any, error: BaseException, outcome: str
) -> None:
    @usage.tracks("open_vault", audit=audit)
    def open_vault() -> None:
        raise error

    with pytest.raises(type(error)):
        open_vault()
    assert outcomes(captured)[-1] == outcome
    assert captured.uses == []


@pytest.mark.parametrize(("when", "uses"), [("success", 0), ("call", 1), ("failure", 1)])
def test_what_counts_is_told_as_ever(captured: CapturedUsage, when: Any, uses: int) -> None:
    @usage.tracks("open_vault", audit=True, when=when)
    def open_vault() -> None:
        raise ValueError

    with pytest.raises(ValueError):
        open_vault()
    assert outcomes(captured) == ["failed"]
    assert len(captured.uses) == uses


@KINDS
def test_a_coroutine_is_an_access_when_it_ends(captured: CapturedUsage, audit: Any) -> None:
    @usage.tracks("open_vault", audit=audit)
    async def open_vault(how: str) -> str:
        await asyncio.sleep(0)
        if how == "refused":
            raise PermissionError
        return how

    async def main() -> None:
        assert await open_vault("well") == "well"
        with pytest.raises(PermissionError):
            await open_vault("refused")
        task = asyncio.ensure_future(open_vault("late"))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert [each for each in outcomes(captured) if each != "attempted"] == ["success", "denied", "failed"]
    captured.assert_tracked("open_vault", times=1)


def test_a_function_that_hands_out_a_coroutine_ends_with_it(captured: CapturedUsage) -> None:
    async def inner() -> int:
        return 3

    @usage.tracks("open_vault", audit=True)
    def open_vault() -> Any:
        return inner()

    assert asyncio.run(_awaited(open_vault())) == 3
    assert outcomes(captured) == ["success"]


async def _awaited(awaitable: Any) -> Any:
    return await awaitable


def test_paused_and_discarded_uses_are_accesses_all_the_same(captured: CapturedUsage) -> None:
    @usage.tracks("open_vault", audit=True)
    def open_vault() -> None: ...

    with usage.paused():
        open_vault()
        usage.track("read_report", audit=True)
    assert outcomes(captured) == ["success", "success"]
    assert captured.uses == []


@KINDS
def test_a_call_of_track_is_an_access(captured: CapturedUsage, audit: Any) -> None:
    usage.track("open_vault", user=ADA, metadata={"drawer": 4}, audit=audit)
    asyncio.run(usage.atrack("open_vault", user=ADA, metadata={"drawer": 4}, audit=audit))
    assert [(each.user, each.outcome, each.metadata) for each in captured.accesses] == [
        (ADA, "success", {"drawer": 4})
    ] * 2
    captured.assert_tracked("open_vault", ADA, times=2)


# ---- mistakes


@pytest.mark.parametrize("audit", ["always", 1, None, "Required"])
def test_another_word_than_true_and_required_is_refused(audit: Any) -> None:
    with pytest.raises(ConfigurationError, match="audit"):
        usage.tracks("open_vault", audit=audit)


def test_a_generator_is_no_access() -> None:
    with pytest.raises(DeclarationError, match="generator"):

        @usage.tracks("open_vault", audit=True)
        def open_vault() -> Iterator[int]:
            yield 1


def test_nobody_gets_through_where_nothing_is_configured() -> None:
    called = []

    @usage.tracks("open_vault", audit="required")
    def open_vault() -> None:
        called.append(True)

    with pytest.raises(AuditUnavailable, match=r"not configured: call usage_instrument\.configure"):
        open_vault()
    with pytest.raises(AuditUnavailable, match="not configured"):
        usage.track("open_vault", audit="required")
    assert called == []


def test_nobody_gets_through_a_tracker_that_is_not_enabled(sqlite: Database) -> None:
    tracker = Tracker(sqlite.url, Settings(enabled=False))
    with pytest.raises(AuditUnavailable, match="not enabled"):
        tracker.track("open_vault", audit="required")


def test_a_user_that_is_none_gets_nobody_through(captured: CapturedUsage) -> None:
    @usage.tracks("open_vault", audit="required", user_arg="who")
    def open_vault(who: Any) -> None: ...

    with pytest.raises(AuditUnavailable, match="float"):
        open_vault(3.5)


def test_a_user_that_is_none_is_no_reason_to_say_nothing(captured: CapturedUsage) -> None:
    @usage.tracks("open_vault", audit=True, user_arg="who")
    def open_vault(who: Any) -> None: ...

    open_vault(3.5)
    (access,) = captured.accesses
    assert access.user is None
    assert "float" in str(access.metadata)
    assert captured.uses == []
    assert len(captured.rejected) == 1


# ---- through to the trail


class Vault:
    """A tracker of one's own with an audited feature."""

    def __init__(self, database: Database, **settings: Any) -> None:
        self.engine = database.engine()
        self.tables = made(self.engine)
        # A minute, since a busy machine takes longer than the two seconds of the default to connect.
        waits = {"audit_timeout": 60, "shutdown_timeout": 60, **settings}
        self.tracker = Tracker(database.url, Settings(flush_interval=0, **waits))
        self.tracker.tracks("open_vault", audit="required")(len)

    def rows(self) -> list[sa.Row[Any]]:
        rows = all_of(self.engine, self.tables.access)
        return sorted(rows, key=lambda row: (row.occurred_at, row.outcome, row.number))

    def holds(self) -> bool:
        with self.engine.connect() as connection:
            return verify(connection, self.tables, self.tracker.settings.audit_key).findings == ()


@pytest.mark.parametrize("journal", [False, True])
def test_an_access_is_a_row_and_its_use_a_count(database: Database, tmp_path: Path, journal: bool) -> None:
    vault = Vault(database, journal=tmp_path / "journal" if journal else None, service="web", audit_key="k" * 32)
    tracker = vault.tracker

    @tracker.tracks("open_vault", audit=True, metadata=["drawer"])
    def open_vault(drawer: int) -> None:
        if drawer > 3:
            raise PermissionError

    with tracker.as_user(ADA, actor=BOB):
        open_vault(1)
        with pytest.raises(PermissionError):
            open_vault(4)
    assert tracker.flush(30)
    first, second = vault.rows()
    assert (first.user_id, first.actor_id, first.feature_name, first.outcome) == (ADA, BOB, "open_vault", "success")
    assert (first.service, first.metadata, second.metadata) == ("web", '{"drawer":1}', '{"drawer":4}')
    assert second.outcome == "denied"
    assert (second.chain_id, second.number) == (first.chain_id, first.number + 1)
    assert vault.holds()
    (count,) = all_of(vault.engine, vault.tables.usage)
    assert count.usage_count == 1
    stats = tracker.stats()
    assert (stats.audited, stats.audit_pending, stats.audit_lost, stats.captured) == (2, 0, 0, 1)
    assert balanced(stats)
    assert tracker.shutdown()


def test_a_required_call_is_preceded_by_its_row(database: Database) -> None:
    vault = Vault(database)
    seen: list[list[str]] = []

    @vault.tracker.tracks("open_vault", audit="required", user=ADA)
    def open_vault() -> None:
        seen.append([row.outcome for row in vault.rows()])

    open_vault()
    assert seen == [["attempted"]]
    assert vault.tracker.flush()
    attempt, success = vault.rows()
    assert (attempt.outcome, success.outcome) == ("attempted", "success")
    assert attempt.access_id == success.access_id
    assert attempt.chain_id != success.chain_id  # the gate's, and the writer's
    assert vault.holds()
    assert vault.tracker.shutdown()
    assert vault.tracker.stats().audited == 2


def test_an_async_required_call_holds_up_no_event_loop(database: Database) -> None:
    vault = Vault(database)
    ticks: list[int] = []

    @vault.tracker.tracks("open_vault", audit="required")
    async def open_vault(number: int) -> int:
        return number

    async def main() -> list[int]:
        async def tick() -> None:
            while True:
                ticks.append(1)
                await asyncio.sleep(0)

        ticking = asyncio.ensure_future(tick())
        found = await asyncio.gather(*(open_vault(number) for number in range(20)))
        ticking.cancel()
        return found

    assert asyncio.run(main()) == list(range(20))
    assert len(ticks) > 20
    assert vault.tracker.shutdown()
    assert len(vault.rows()) == 40
    assert vault.holds()


def test_a_sync_required_call_refuses_to_hold_up_an_event_loop(sqlite: Database) -> None:
    vault = Vault(sqlite)

    @vault.tracker.tracks("open_vault", audit="required")
    def open_vault() -> None: ...

    async def main() -> None:
        with pytest.raises(AuditUnavailable, match="event loop"):
            open_vault()
        await asyncio.to_thread(open_vault)

    asyncio.run(main())
    assert vault.tracker.shutdown()


def test_a_missing_table_refuses_what_is_required_and_keeps_the_rest(database: Database) -> None:
    vault = Vault(database)
    vault.tables.access.drop(vault.engine)
    with pytest.raises(AuditUnavailable, match="feature_usage_access does not exist") as refused:
        vault.tracker.track("open_vault", audit="required")
    assert isinstance(refused.value.__cause__, SchemaError)
    vault.tracker.track("open_vault", audit=True)
    assert not vault.tracker.flush()
    assert "feature_usage_access does not exist" in str(vault.tracker.stats().last_error)
    (count,) = all_of(vault.engine, vault.tables.usage)
    assert count.usage_count == 1  # the counts of everybody go on
    assert vault.tracker.stats().audit_pending == 1
    vault.tables.access.create(vault.engine)
    while not vault.tracker.flush():  # it looks again once a second
        assert vault.tracker.stats().audit_pending == 1
    assert [row.outcome for row in vault.rows()] == ["success"]
    vault.tracker.track("open_vault", audit="required")
    assert vault.tracker.shutdown()
    assert vault.holds()


def test_the_hook_sees_accesses_and_may_scrub_but_not_hide_them(sqlite: Database) -> None:
    seen: list[Use] = []

    def scrub(use: Use) -> Use | None:
        seen.append(use)
        if use.feature == "secret":
            return None
        return use._replace(metadata={"drawer": "***"})

    vault = Vault(sqlite, before_track=scrub)
    vault.tracker.track("open_vault", user=ADA, metadata={"drawer": 4}, audit=True)
    vault.tracker.track("open_vault", user=ADA, metadata={"drawer": 4}, audit="required")
    vault.tracker.track("secret", user=ADA, metadata={"drawer": 4}, audit=True)
    assert vault.tracker.shutdown()
    assert len(seen) >= 3
    assert {(row.feature_name, row.metadata) for row in vault.rows()} == {
        ("open_vault", '{"drawer":"***"}'),
        ("secret", None),
    }
    (count,) = all_of(vault.engine, vault.tables.usage)
    assert (count.feature_name, count.usage_count) == ("open_vault", 2)
    assert vault.holds()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform forks nothing")
def test_a_forked_child_has_a_chain_of_its_own(server: Database) -> None:
    vault = Vault(server)
    vault.tracker.track("open_vault", audit="required")
    child = os.fork()
    if not child:
        try:
            vault.tracker.track("open_vault", audit="required")
            os._exit(0 if vault.tracker.shutdown() else 1)
        except BaseException:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    vault.tracker.track("open_vault", audit="required")
    assert vault.tracker.shutdown()
    rows = vault.rows()
    assert len(rows) == 3
    assert len({row.chain_id for row in rows}) == 2
    assert vault.holds()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform forks nothing")
def test_children_of_a_parent_that_did_nothing_yet_have_chains_of_their_own(server: Database) -> None:
    """As the workers of `gunicorn --preload`."""
    vault = Vault(server)
    children = []
    for _ in range(3):
        child = os.fork()
        if not child:
            try:
                for _ in range(5):
                    vault.tracker.track("open_vault", audit="required")
                os._exit(0 if vault.tracker.shutdown() else 1)
            except BaseException:
                os._exit(2)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    rows = vault.rows()
    assert len(rows) == 15
    assert len({row.chain_id for row in rows}) == 3
    assert vault.holds()


def test_a_required_call_after_shutdown_begins_anew(sqlite: Database) -> None:
    vault = Vault(sqlite)
    for _ in range(2):
        vault.tracker.track("open_vault", audit="required")
        assert vault.tracker.shutdown()
    assert len(vault.rows()) == 2
    assert vault.tracker.stats().audited == 2
    assert vault.holds()


def test_what_cannot_be_recorded_says_so_itself() -> None:
    error = AuditUnavailable.of("open_vault", "why")
    assert isinstance(error, UsageInstrumentError)
    assert error.status_code == 503
    assert str(error) == "'open_vault' was not called, as the access could not be recorded: why"
