"""Buffer, aggregator and writer as one: no use is out of sight on its way from one to the next."""

from __future__ import annotations

import threading
from uuid import UUID

from conftest import Database
from reading import balanced, made, total
from usage_instrument.capture.registry import Catalog
from usage_instrument.pipeline.backend import Backend
from usage_instrument.pipeline.pipeline import Pipeline
from usage_instrument.settings import Settings
from usage_instrument.typing import UserId


def test_what_the_folder_has_in_hand_is_waited_for(sqlite: Database) -> None:
    engine = sqlite.engine()
    tables = made(engine)
    settings = Settings()
    backend = Backend(sqlite.url, settings, tables)
    in_hand, go_on = threading.Event(), threading.Event()

    def canonical(user: UserId) -> UserId:
        in_hand.set()
        assert go_on.wait(60)
        return user

    pipeline = Pipeline(settings, backend, Catalog(), canonical, lambda: None)
    pipeline.buffer.plain("search").append(UUID(int=1))
    pipeline.arm()
    assert in_hand.wait(60)
    hasty = pipeline.ask(0.01, final=True)  # as a tracker that another one replaces
    assert hasty is not None
    assert not hasty.wait()
    patient = pipeline.ask(60, final=True)
    assert patient is not None
    go_on.set()
    assert patient.wait()
    assert pipeline.closed(patient)
    assert balanced(pipeline.stats())
    assert total(engine, tables) == 1
