"""What the attacks on the dashboard share."""

from __future__ import annotations

import pytest

from usage_instrument.dashboard import page_jobs


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages are waited for, however busy this machine is; the test of the other case sets its own."""
    monkeypatch.setattr(page_jobs, "SOON", 60)
