"""A FastAPI shop with an A/B test. Run it: uvicorn --app-dir examples experiment_app:app

curl -b jar -c jar http://127.0.0.1:8000/            # a red or a blue button; the same each time
curl -b jar -X POST http://127.0.0.1:8000/checkout
Then open http://127.0.0.1:8000/usage/experiment?experiment=button_color&goal=checkout&weights=red=1,blue=1
"""

from __future__ import annotations

import os
import uuid
from collections.abc import MutableMapping
from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import Cookie, FastAPI, HTTPException, Response
from fastapi.responses import HTMLResponse

import usage_instrument as usage
from usage_instrument.dashboard.asgi import Dashboard
from usage_instrument.schema import create_all

DATABASE = os.environ.get("USAGE_INSTRUMENT_DATABASE_URL", "sqlite:///usage-example.db")
# No foreign key: this shop knows its visitors by a cookie alone.
create_all(sa.create_engine(DATABASE, poolclass=sa.NullPool), user_id_type="string", users=None)
usage.configure(DATABASE, user_id_type="string", service="experiment-example")


def is_local(scope: MutableMapping[str, Any]) -> bool:
    """For the example only: let your login decide."""
    return scope["client"] is not None and scope["client"][0] == "127.0.0.1"


app = FastAPI()
app.mount("/usage", Dashboard(DATABASE, authorize=is_local))


@app.get("/", response_class=HTMLResponse)
def show_cart(response: Response, visitor: Annotated[str | None, Cookie()] = None) -> str:
    if visitor is None:
        visitor = uuid.uuid4().hex
        response.set_cookie("visitor", visitor, httponly=True, samesite="lax")
    color = usage.variant("button_color", ["red", "blue"], user=visitor)  # here, where the visitor sees it
    return f'<form method="post" action="checkout"><button style="color: {color}">Buy</button></form>'


@app.post("/checkout")
def checkout(visitor: Annotated[str | None, Cookie()] = None) -> dict[str, str]:
    if visitor is None:
        raise HTTPException(400, "look at the cart first")
    usage.track("checkout", user=visitor)  # the goal
    return {"thanks": "for your purchase"}
