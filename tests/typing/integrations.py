"""Checked by mypy and pyright, never run: the options of the integrations are known by name and type."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from flask import Flask
from sqlalchemy.ext.asyncio import create_async_engine
from starlette.applications import Starlette

from usage_instrument import Tracker
from usage_instrument.integrations import fastapi, flask, starlette

app = Flask("app")
flask.UsageInstrument(app)
flask.UsageInstrument(
    database="sqlite:///usage.db",
    users="user.id",
    features={"home": "home_seen", "admin": None, "named": lambda environ: None},
    include=["*"],
    exclude=("admin.*",),
    user=lambda environ: environ.get("REMOTE_USER"),
    metadata={"a": 1},
    success=lambda status, environ: status == 200,
    flush_interval=dt.timedelta(seconds=3),
    journal=Path("journal"),
    history=None,
).init_app(app)
flask.UsageInstrument(app, tracker=Tracker("sqlite:///usage.db"))
flask.UsageInstrument(app, db=object(), users=None)
flask.UsageInstrument(app, servise="web")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
flask.UsageInstrument(app, strict="yes")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def who(scope: Any) -> str:
    return str(scope["user"])


engine = create_async_engine("sqlite+aiosqlite:///usage.db")
starlette.instrument(Starlette(), database=engine, user=who, metadata=lambda scope: {"path": scope["path"]})
fastapi.instrument(FastAPI(), database=engine, user_id_type="string", features=lambda scope: None)
fastapi.instrument(FastAPI(), user_id_type="text")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
starlette.instrument(app)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
