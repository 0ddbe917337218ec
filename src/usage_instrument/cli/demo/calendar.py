"""The app of the demo: a shared calendar that tracks its usage."""

from __future__ import annotations

import datetime as dt
import secrets
from uuid import UUID

import sqlalchemy as sa
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

import usage_instrument as usage
from usage_instrument.asgi import UsageMiddleware

from .database import events, follows, users

FEATURES = {
    "POST /sign-in/{name}": "calendar_sign_in",
    "GET /events": "calendar_browse",
    "GET /events/{event_id:int}": "calendar_open_event",
    "GET /search": "calendar_search",
}
"""The features that the middleware counts; the others are decorated."""


class Session:
    """Finds the user of the cookie: `request.state.user` for the app, `identify` for the usage."""

    def __init__(self, app: ASGIApp, known: dict[str, UUID]) -> None:
        self.app = app
        self.known = known

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            connection = HTTPConnection(scope)
            user = self.known.get(connection.cookies.get("session", ""))
            connection.state.user = user
            if user is not None:
                usage.identify(user)
        await self.app(scope, receive, send)


def create_app(url: str) -> Starlette:
    """The app on a database."""
    usage.configure(url, service="calendar", flush_interval=1)
    sessions: dict[str, UUID] = {}
    app = Starlette(
        routes=[
            Route("/health", health),
            Route("/sign-in/{name}", sign_in, methods=["POST"]),
            Route("/events", browse),
            Route("/events/{event_id:int}", open_event),
            Route("/events/{event_id:int}/follow", follow, methods=["POST"]),
            Route("/events/{event_id:int}/share", share, methods=["POST"]),
            Route("/search", search),
            Route("/export", export),
            Route("/print", print_month),
        ],
        middleware=[Middleware(UsageMiddleware, features=FEATURES), Middleware(Session, known=sessions)],
    )
    app.state.engine = sa.create_engine(url)
    app.state.sessions = sessions
    return app


def health(request: Request) -> Response:
    """A probe, which is never a use."""
    return PlainTextResponse("ok")


def sign_in(request: Request) -> Response:
    """Start a session."""
    with request.app.state.engine.connect() as connection:
        user = connection.scalar(sa.select(users.c.id).where(users.c.name == request.path_params["name"]))
    if user is None:
        raise HTTPException(403, "unknown name")
    usage.identify(user)
    token = secrets.token_urlsafe()
    request.app.state.sessions[token] = user
    response = Response(status_code=204)
    response.set_cookie("session", token, httponly=True, samesite="lax")
    return response


def browse(request: Request) -> Response:
    """The month's events."""
    return _rows(request, sa.select(events).order_by(events.c.starts).limit(10))


def search(request: Request) -> Response:
    """Find events by their title."""
    words = request.query_params.get("q", "")
    if not words:
        raise HTTPException(400, "a search needs words")
    return _rows(request, sa.select(events).where(events.c.title.icontains(words, autoescape=True)))


def open_event(request: Request) -> Response:
    """One event."""
    return JSONResponse(_event(request))


def _the_event(request: Request) -> dict[str, int]:
    return {"event_id": request.path_params["event_id"]}


@usage.tracks("calendar_follow_event", metadata=_the_event)
def follow(request: Request) -> Response:
    """Follow the changes of an event."""
    row = {"user_id": _signed_in(request), "event_id": _event(request)["id"]}
    with request.app.state.engine.begin() as connection:
        connection.execute(follows.insert().prefix_with("OR IGNORE"), row)
    return RedirectResponse(f"/events/{row['event_id']}", status_code=303)


@usage.tracks("calendar_share_event", metadata=_the_event)
def share(request: Request) -> Response:
    """Make a link to an event."""
    _signed_in(request)
    return JSONResponse({"link": f"/events/{_event(request)['id']}?by={secrets.token_hex(4)}"}, status_code=201)


@usage.tracks("calendar_export", metadata=lambda request: {"format": request.query_params.get("format", "ics")})
def export(request: Request) -> Response:
    """Export the calendar as a file, ics or csv."""
    _signed_in(request)
    if request.query_params.get("format", "ics") not in {"ics", "csv"}:
        return PlainTextResponse("ics or csv", status_code=400)
    with request.app.state.engine.connect() as connection:
        lines = [f"{row.starts:%Y-%m-%d %H:%M},{row.title}" for row in connection.execute(sa.select(events))]
    return PlainTextResponse("\n".join(lines), media_type="text/csv")


@usage.tracks("calendar_print")
def print_month(request: Request) -> Response:
    """Print a month on one page."""
    return browse(request)


def _signed_in(request: Request) -> UUID:
    user: UUID | None = request.state.user
    if user is None:
        raise HTTPException(401, "sign in first")
    return user


def _event(request: Request) -> dict[str, object]:
    with request.app.state.engine.connect() as connection:
        row = connection.execute(sa.select(events).where(events.c.id == request.path_params["event_id"])).one_or_none()
    if row is None:
        raise HTTPException(404, "no such event")
    return {"id": row.id, "title": row.title, "starts": row.starts.isoformat()}


def _rows(request: Request, query: sa.Select[tuple[int, str, dt.datetime]]) -> Response:
    with request.app.state.engine.connect() as connection:
        return JSONResponse([{"id": row.id, "title": row.title} for row in connection.execute(query)])
