"""The options that every integration takes are those of the middleware and of the settings, none left out."""

from __future__ import annotations

import inspect

import pytest

from usage_instrument import asgi, wsgi
from usage_instrument.integrations.options import MiddlewareOptions


@pytest.mark.parametrize("middleware", [asgi.UsageMiddleware, wsgi.UsageMiddleware])
def test_every_option_of_the_middleware_is_known(middleware: type) -> None:
    options = [name for name in inspect.signature(middleware).parameters if name != "app"]
    assert list(MiddlewareOptions.__annotations__) == options
