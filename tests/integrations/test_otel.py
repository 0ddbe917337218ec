"""The figures as OpenTelemetry metrics, traces in metadata, and a writer that makes no spans."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("opentelemetry.sdk")
pytest.importorskip("prometheus_client")

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from prometheus_client import REGISTRY, generate_latest

import usage_instrument as usage
from conftest import Database
from reading import made
from usage_instrument.integrations.otel import instrument, trace_metadata
from usage_instrument.integrations.stats_metrics import METRICS
from usage_instrument.testing import CapturedUse, capture_usage


def figures(reader: InMemoryMetricReader) -> dict[str, Any]:
    """The values by name; none has an attribute."""
    data = reader.get_metrics_data()
    if data is None:
        return {}
    found = {}
    for metric in data.resource_metrics[0].scope_metrics[0].metrics:
        (point,) = metric.data.data_points
        assert not point.attributes
        found[metric.name] = point.value  # type: ignore[union-attr]
    return found


def test_the_figures_of_the_configured_tracker(sqlite: Database) -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    instrument(provider)
    instrument(provider)
    made(sqlite.engine(), user_id_type="integer")
    usage.configure(sqlite.url, user_id_type="integer")
    assert figures(reader)["usage_instrument.uses.captured"] == 0
    usage.track("export", user=7, count=3)
    usage.track("export", user=3.5)
    assert usage.flush()
    usage.track("export", user=7)
    found = figures(reader)
    assert found.pop("usage_instrument.heartbeat") >= 0
    assert found == {
        "usage_instrument.uses.captured": 5,
        "usage_instrument.uses.recovered": 0,
        "usage_instrument.uses.written": 3,
        "usage_instrument.uses.dropped": 0,
        "usage_instrument.uses.rejected": 1,
        "usage_instrument.uses.pending": 1,
        "usage_instrument.uses.in.outbox": 0,
        "usage_instrument.accesses.audited": 0,
        "usage_instrument.accesses.lost": 0,
        "usage_instrument.accesses.pending": 0,
        "usage_instrument.metadata.lost": 0,
        "usage_instrument.retries": 0,
    }
    provider.shutdown()


def test_the_trace_of_a_use_is_its_metadata() -> None:
    tracer = TracerProvider().get_tracer("test")

    @usage.tracks("export", metadata=trace_metadata)
    def export(kind: str, *, rows: int) -> None: ...

    with capture_usage() as captured:
        with tracer.start_as_current_span("request") as span:
            export("csv", rows=3)
        export("csv", rows=3)
    trace_id = f"{span.get_span_context().trace_id:032x}"
    assert captured.uses == [CapturedUse("export", None, {"trace_id": trace_id}), CapturedUse("export")]


SILENT = """
import sys
import sqlalchemy as sa

url, async_url = sys.argv[1:]
early = []

def begin(database):
    import usage_instrument as usage

    tracker = usage.Tracker(database, usage.Settings(user_id_type="integer"))
    use(tracker)
    return tracker

def use(tracker):
    tracker.track("export", user=7, metadata={{"n": 1}})
    assert tracker.flush(30)
    assert tracker.count(7, "export")

{first}
from opentelemetry.instrumentation.sqlalchemy import SQLAlchemyInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

spans, provider = InMemorySpanExporter(), TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(spans))
SQLAlchemyInstrumentor().instrument(tracer_provider=provider, skip_dep_check=True)  # it knows no SQLAlchemy 2.1 yet

from sqlalchemy.ext.asyncio import create_async_engine

engine = sa.create_engine(url)
with engine.connect() as connection:
    connection.execute(sa.text("SELECT 1"))
assert "SELECT" in spans.get_finished_spans()[-1].name, "the host's own SQL makes spans"
spans.clear()
for tracker in early + list(map(begin, (url, engine, async_url, create_async_engine(async_url)))):
    use(tracker)
    assert tracker.shutdown()
print([span.name for span in spans.get_finished_spans()])
"""
FIRST = {"the instrumentation": "", "the writer": "early += map(begin, (url, async_url))"}


@pytest.mark.parametrize("first", FIRST)
def test_the_writer_makes_no_spans_whichever_was_there_first(sqlite: Database, first: str) -> None:
    pytest.importorskip("opentelemetry.instrumentation.sqlalchemy")
    made(sqlite.engine(), user_id_type="integer")
    done = subprocess.run(
        [sys.executable, "-c", SILENT.format(first=FIRST[first]), sqlite.url, sqlite.async_url],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, sys.path))},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


def test_the_page_about_observability_runs() -> None:
    page = (Path(__file__).parents[2] / "docs" / "guides" / "monitoring.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {"__name__": "page"}
    tracer = TracerProvider().get_tracer("test")
    with capture_usage() as captured:
        for snippet in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
            exec(compile(snippet, "monitoring.md", "exec"), names)
        with tracer.start_as_current_span("request"):
            names["export"](1)
    assert captured.uses[0].metadata is not None
    shown = generate_latest(REGISTRY).decode()
    for name in re.findall(r"\b(usage_instrument_\w+)", page):
        assert name in shown or name == "usage_instrument_heartbeat_seconds", name
    dotted = [f"usage_instrument.{metric.name.replace(' ', '.')}" for metric in METRICS]
    for name in re.findall(r"`(usage_instrument\.[a-z.]+)`", page):
        assert name in dotted, name
