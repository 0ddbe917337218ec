"""A Django site of every kind of view, with real users, for the tests of the integration."""
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators, no-check-untyped-defs, allow-subclassing-any

from __future__ import annotations

import atexit
import io
import os
import shutil
import tempfile
from pathlib import Path

import django
from django.conf import settings

DATABASE = Path(tempfile.mkdtemp(prefix="usage-instrument-django-")) / "site.db"


def _remove(maker: int = os.getpid()) -> None:
    if os.getpid() == maker:  # a forked child that runs its exit handlers leaves it to the parent
        shutil.rmtree(DATABASE.parent, ignore_errors=True)


atexit.register(_remove)

if not settings.configured:
    settings.configure(
        ALLOWED_HOSTS=["*"],
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": DATABASE}},
        INSTALLED_APPS=[
            "django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions",
            "django.contrib.admin", "django.contrib.messages",
            "usage_instrument.integrations.django", "usage_instrument.integrations.django.panel",
        ],
        MIDDLEWARE=[
            "usage_instrument.integrations.django.UsageMiddleware",
            "django.contrib.sessions.middleware.SessionMiddleware",
            "django.middleware.common.CommonMiddleware",
            "django.contrib.auth.middleware.AuthenticationMiddleware",
            "django.contrib.messages.middleware.MessageMiddleware",
        ],
        PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
        ROOT_URLCONF=__name__,
        SECRET_KEY="secret",
        SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
        TEMPLATES=[
            {
                "BACKEND": "django.template.backends.django.DjangoTemplates",
                "APP_DIRS": True,
                "OPTIONS": {
                    "context_processors": [
                        "django.template.context_processors.request",
                        "django.contrib.auth.context_processors.auth",
                        "django.contrib.messages.context_processors.messages",
                    ]
                },
            }
        ],
        USE_TZ=True,
    )  # fmt: skip
    django.setup()

from django.contrib import admin  # noqa: E402
from django.contrib.auth import authenticate, login, logout  # noqa: E402
from django.contrib.auth.decorators import login_required  # noqa: E402
from django.contrib.auth.models import User as User  # noqa: E402
from django.http import FileResponse, Http404, HttpResponse, HttpResponseRedirect, StreamingHttpResponse  # noqa: E402
from django.urls import include, path, re_path  # noqa: E402
from django.views import View, static  # noqa: E402

import usage_instrument as usage  # noqa: E402


def plain(request, **_):
    return HttpResponse("plain")


async def aplain(request, **_):
    return HttpResponse("async")


def reads_user(request):
    return HttpResponse(request.user.get_username())


async def areads_user(request):
    return HttpResponse((await request.auser()).get_username())


def redirects(request):
    return HttpResponseRedirect("/shop/plain")


def not_found(request):
    raise Http404


def fails(request):
    raise ZeroDivisionError


def logs_in(request):
    login(request, authenticate(request, username=request.GET["name"], password="secret"))
    return HttpResponse("in")


def logs_out(request):
    logout(request)
    return HttpResponse("out")


def identifies(request):
    usage.identify(77)
    usage.track("identified_inside")
    return HttpResponse("ok")


def discards(request):
    usage.discard()
    return HttpResponse("ok")


@usage.tracks("decorated")
def decorated(request):
    return HttpResponse("ok", status=int(request.GET.get("status", 200)))


def pieces(request):
    for letter in "abc":
        usage.track("piece")
        yield letter


async def apieces(request):
    for piece in pieces(request):
        yield piece


def failing(request):
    raise ZeroDivisionError
    yield ""


def streams(request):
    usage.identify(5)
    return StreamingHttpResponse({"plain": pieces, "async": apieces, "failing": failing}[request.GET["kind"]](request))


def file(request):
    return FileResponse(io.BytesIO(b"file"), filename="report.csv")


class Events(View):
    """The events."""

    def get(self, request):
        return HttpResponse("ok")

    @usage.tracks("event_created")
    def post(self, request):
        return HttpResponse("ok")


class AsyncEvents(View):
    async def get(self, request):
        return HttpResponse("ok")


shop = [
    path("plain", plain, name="plain"),
    path("async", aplain, name="async"),
    path("items/<int:pk>", plain, name="item"),
    path("user", reads_user, name="user"),
    path("auser", areads_user, name="auser"),
    path("redirects", redirects, name="redirects"),
    path("notfound", not_found, name="notfound"),
    path("fails", fails, name="fails"),
    path("login", logs_in, name="login"),
    path("logout", logs_out, name="logout"),
    path("identifies", identifies, name="identifies"),
    path("discards", discards, name="discards"),
    path("private", login_required(plain), name="private"),
    path("decorated", decorated, name="decorated"),
    path("streams", streams, name="streams"),
    path("file", file, name="file"),
    path("events", Events.as_view(), name="events"),
    path("aevents", AsyncEvents.as_view(), name="aevents"),
]
urlpatterns = [
    path("shop/", include((shop, "shop"), namespace="store")),
    path("unnamed", plain),
    path("admin/", admin.site.urls),
    path("healthz", plain, name="healthz"),
    re_path(r"^archive/(?P<year>\d{4})$", plain, name="archive"),
    path("static/<path:path>", static.serve, {"document_root": Path(__file__).parent}),
]


def blocks(get_response):
    """A sync middleware that answers itself."""

    def middleware(request):
        return HttpResponse("blocked") if "blocked" in request.GET else get_response(request)

    return middleware
