"""A FastAPI app with bearer tokens, and the dashboard for its admins. Run it: uvicorn --app-dir examples bearer_app:app

TOKEN=$(curl -d "name=ada&password=secret" http://127.0.0.1:8000/login)
curl -H "Authorization: Bearer $TOKEN" http://127.0.0.1:8000/admin/usage/top-features.csv

A browser that opens a page sends no such header: the login also sets the token as a cookie, for the dashboard alone.
"""

import hmac
import os
from urllib.parse import parse_qsl

import sqlalchemy as sa
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.requests import HTTPConnection

from usage_instrument.dashboard.asgi import Dashboard
from usage_instrument.integrations.fastapi import instrument
from usage_instrument.schema import create_all

DATABASE = os.environ.get("USAGE_INSTRUMENT_DATABASE_URL", "sqlite:///usage-example.db")
KEY, PASSWORDS, ADMINS, ADMIN = os.urandom(32), {"ada": "secret", "bob": "secret"}, {"ada"}, "/admin/usage"
FORM = '<form method="post"><input name="name"><input name="password" type="password"><button>Sign in</button></form>'
create_all(sa.create_engine(DATABASE, poolclass=sa.NullPool), user_id_type="string")


def token_for(name: str) -> str:  # stands for your JWT
    return f"{name}.{hmac.digest(KEY, name.encode(), 'sha256').hex()}"


def user_in(scope: object) -> str | None:
    request = HTTPConnection(scope)  # type: ignore[arg-type]
    token = request.headers.get("Authorization", "").removeprefix("Bearer ") or request.cookies.get("token", "")
    name = token.partition(".")[0]
    return name if hmac.compare_digest(token.encode(), token_for(name).encode()) else None


app = FastAPI()
instrument(app, database=DATABASE, user_id_type="string", user=user_in, exclude=["/login"])
app.mount(ADMIN, Dashboard(DATABASE, authorize=lambda scope: user_in(scope) in ADMINS, login_url="/login?next={next}"))
app.get("/login")(lambda: HTMLResponse(FORM))


@app.post("/login")
async def log_in(request: Request, next: str = "") -> Response:  # noqa: A002
    given = dict(parse_qsl((await request.body()).decode()))
    name, password = given.get("name", ""), given.get("password")
    if not password or PASSWORDS.get(name) != password:
        raise HTTPException(401)
    token = token_for(name)
    response = RedirectResponse(next, 303) if next.startswith(f"{ADMIN}/") else PlainTextResponse(token)
    response.set_cookie("token", token, path=ADMIN, httponly=True, samesite="strict")
    return response


@app.get("/events")
async def list_events() -> list[str]:  # counted as "list_events", for the user of the token
    return ["Choir practice", "Book club"]
