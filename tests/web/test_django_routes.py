"""The routes of a Django site, as templates."""

from __future__ import annotations

import pytest

from usage_instrument.web.django_routes import django_routes
from usage_instrument.web.rules import Rules

django = pytest.importorskip("django")


@pytest.mark.parametrize(
    ("regex", "template"),
    [
        (r"^archive/(?P<year>\d{4})$", "/archive/{year}"),
        (r"^(?P<app_label>auth|sessions)/$", "/{app_label}/"),
        (r"a/([()]+)/(?P<kind>(?:a|(b)))/(?:v1)?c", "/a/*/{kind}/*c"),
        (r"a/[^)(]/(?P<rest>[]\[)]+)/z", "/a/[^)(]/{rest}/z"),
        (r"^$", "/"),
        (r"^health/?$", "/health"),
        (r"^robots\.txt$", "/robots.txt"),
        (r"(?i)^health\-check/\Z", "/health-check/"),
        (r"^a\.b/(?P<file>\w+\.\w+)\.csv\/?$", "/a.b/{file}.csv"),
        (r"^price\$", r"/price\$"),
        (r"^(a/?)$", "/*"),
    ],
)
def test_a_regular_expression_is_a_template(regex: str, template: str) -> None:
    from django.urls import include, path, re_path

    (route, below) = django_routes(
        type("urls", (), {"urlpatterns": [re_path(regex, print), path("x/", include([re_path(regex, print)]))]})
    )
    assert route.templates == (template,)
    assert below.templates == ("/x" + template,)


def test_a_redirect_view_with_a_method_of_its_own_is_a_feature() -> None:
    """Each subclass was a route that only redirects, and its requests a silent zero."""
    from django.urls import path
    from django.utils.decorators import method_decorator
    from django.views.decorators.cache import never_cache
    from django.views.generic import RedirectView

    def own(self: object, *args: object, **more: object) -> None: ...

    @method_decorator(never_cache, name="dispatch")
    class Guarded(RedirectView):  # type: ignore[misc]
        permanent = True

    names = ["post", "get", "put", "patch", "delete", "get_redirect_url", "dispatch"]
    kinds = [RedirectView, Guarded, *(type(name, (Guarded,), {name: own}) for name in names)]
    patterns = [path(str(number), kind.as_view(url="/"), name=kind.__name__) for number, kind in enumerate(kinds)]
    found = django_routes(type("urls", (), {"urlpatterns": patterns}))
    assert [route.name for route in found if route.redirects] == ["RedirectView", "Guarded"]
    assert [route.name for route in found if not route.redirects] == names


@pytest.mark.parametrize(
    ("regex", "is_probe"),
    [
        (r"^health/?$", True),
        (r"^robots\.txt$", True),
        (r"(?i)^api/healthz\Z", True),
        (r"^(\w+)/robots\.txt$", False),
        (r"^(?P<shop>\w+)/healthz$", False),
        (r"^healthy\-recipes/?$", False),
    ],
)
def test_a_probe_is_one_in_a_regular_expression_too(regex: str, is_probe: bool) -> None:
    from django.urls import re_path

    (route,) = django_routes(type("urls", (), {"urlpatterns": [re_path(regex, print, name="page")]}))
    assert (Rules(None, None, None).decide(route, "GET").feature is None) is is_probe
