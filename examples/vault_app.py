"""A FastAPI app whose accesses are audited. Run it: uvicorn --app-dir examples vault_app:app

curl -H "X-User: ada" http://127.0.0.1:8000/vault/4
curl -H "X-User: bob" http://127.0.0.1:8000/vault/4
curl -H "X-User: auditor" "http://127.0.0.1:8000/admin/usage/audit.csv?outcome=denied"
"""

from __future__ import annotations

import os

import sqlalchemy as sa
from fastapi import FastAPI, HTTPException, Request

from usage_instrument.dashboard.asgi import Dashboard
from usage_instrument.integrations.fastapi import instrument
from usage_instrument.schema import create_all
from usage_instrument.typing import Scope

DATABASE = os.environ.get("USAGE_INSTRUMENT_DATABASE_URL", "sqlite:///usage-example.db")
MAY_OPEN = {"ada"}

engine = sa.create_engine(DATABASE, poolclass=sa.NullPool)
create_all(engine, user_id_type="string")


def user_in(scope: Scope) -> str | None:  # for the example only: the user of your verified login
    return dict(scope["headers"]).get(b"x-user", b"").decode() or None


def is_admin(scope: Scope) -> bool:
    return user_in(scope) in {"admin", "auditor"}


def is_auditor(scope: Scope) -> bool:
    return user_in(scope) == "auditor"


app = FastAPI()
instrument(
    app,
    database=DATABASE,
    user_id_type="string",
    service="vault-example",
    user=user_in,
    features={"/vault/{drawer}": "open_vault"},
    audit={"open_vault": "required"},  # no call without a committed row
)
app.mount("/admin/usage", Dashboard(DATABASE, authorize=is_admin, authorize_audit=is_auditor))


@app.get("/vault/{drawer}")
async def open_vault(drawer: int, request: Request) -> str:
    if user_in(request.scope) not in MAY_OPEN:
        raise HTTPException(403)
    return f"the gold of drawer {drawer}"
