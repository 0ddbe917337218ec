"""The anomalies: days that stand out, of features or of users, and features that fell silent."""

from __future__ import annotations

from usage_instrument.queries.drops import DROPS
from usage_instrument.queries.silent import SILENT
from usage_instrument.queries.spikes import SPIKES

from ..errors import PageError
from ..html import render
from ..page_request import PageRequest
from ..results import result

_ENTITIES = ("feature", "user")


def anomalies(request: PageRequest) -> str:
    """The page. Raises PageError."""
    by = request.parameters.get("by") or _ENTITIES[0]
    if by not in _ENTITIES:
        raise PageError(400, f"There are no anomalies by “{by[:60]}”", f"Choose one of {' and '.join(_ENTITIES)}.")
    return render(
        "anomalies.html",
        request=request,
        entities=_ENTITIES,
        by=by,
        results=[result(question, request) for question in (SPIKES, DROPS, SILENT)],
    )
