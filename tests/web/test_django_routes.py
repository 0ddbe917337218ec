"""The routes of a Django site, as templates."""

from __future__ import annotations

import pytest

from usage_instrument.web.django_routes import django_routes

django = pytest.importorskip("django")


@pytest.mark.parametrize(
    ("regex", "template"),
    [
        (r"^archive/(?P<year>\d{4})$", "/archive/{year}"),
        (r"^(?P<app_label>auth|sessions)/$", "/{app_label}/"),
        (r"a/([()]+)/(?P<kind>(?:a|(b)))/(?:v1)?c", "/a/*/{kind}/*c"),
        (r"a/[^)(]/(?P<rest>[]\[)]+)/z", "/a/[^)(]/{rest}/z"),
        (r"^$", "/"),
    ],
)
def test_a_regular_expression_is_a_template(regex: str, template: str) -> None:
    from django.urls import include, path, re_path

    (route, below) = django_routes(
        type("urls", (), {"urlpatterns": [re_path(regex, print), path("x/", include([re_path(regex, print)]))]})
    )
    assert route.templates == (template,)
    assert below.templates == ("/x" + template,)
