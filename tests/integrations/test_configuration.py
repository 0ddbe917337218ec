"""A misspelt option of a middleware is refused when the app starts."""

from __future__ import annotations

import pytest

from usage_instrument import asgi, wsgi


@pytest.mark.parametrize("middleware", [asgi.UsageMiddleware, wsgi.UsageMiddleware])
def test_a_misspelt_option_is_refused(middleware: type) -> None:
    with pytest.raises(TypeError, match="'exclud' is no option; did you mean 'exclude'"):
        middleware(lambda *arguments: None, exclud=["x"])
