"""A Django site whose use is counted, with the dashboard. Run it: python examples/django_app.py runserver --noreload

Sign in at http://127.0.0.1:8000/admin/ as ada, with the password "secret". Then look at http://127.0.0.1:8000/events,
and at the numbers in http://127.0.0.1:8000/admin/usage/.
"""

import os

import django
from django.conf import settings
from django.core.management import call_command, execute_from_command_line

DATABASE = os.environ.get("USAGE_INSTRUMENT_DATABASE_URL", "sqlite:///usage-example.db").removeprefix("sqlite:///")
USED = ("admin", "auth", "contenttypes", "messages", "sessions", "staticfiles")
CONTEXT = ("django.template.context_processors.request", "django.contrib.auth.context_processors.auth")

settings.configure(
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": DATABASE}},
    DEBUG=True,
    INSTALLED_APPS=[*(f"django.contrib.{name}" for name in USED), "usage_instrument.integrations.django"],
    LOGIN_URL="/admin/login/",
    MIDDLEWARE=[
        "usage_instrument.integrations.django.UsageMiddleware",  # the first, to see what leaves
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "django.contrib.messages.middleware.MessageMiddleware",
    ],
    ROOT_URLCONF=__name__,
    SECRET_KEY="of an example",
    STATIC_URL="static/",
    TEMPLATES=[
        {
            "BACKEND": "django.template.backends.django.DjangoTemplates",
            "APP_DIRS": True,
            "OPTIONS": {"context_processors": [*CONTEXT, "django.contrib.messages.context_processors.messages"]},
        }
    ],
    USAGE_INSTRUMENT={"exclude": ["admin:*"], "service": "django-example"},
)
django.setup()

from django.contrib import admin  # noqa: E402
from django.contrib.auth.decorators import login_required  # noqa: E402
from django.contrib.auth.models import User  # noqa: E402
from django.http import HttpRequest, JsonResponse  # noqa: E402
from django.urls import path  # noqa: E402

from usage_instrument.integrations.django.dashboard import Dashboard  # noqa: E402


def list_events(request: HttpRequest) -> JsonResponse:  # counted as "list_events", for the user who is signed in
    return JsonResponse({"events": ["Choir practice", "Book club"]})


dashboard = Dashboard(authorize=lambda request: request.user.is_superuser, login_url="/admin/login/?next={next}")
urlpatterns = [
    path("events", login_required(list_events), name="list_events"),
    path("admin/usage/", dashboard.urls),
    path("admin/", admin.site.urls),
]

if __name__ == "__main__":
    call_command("migrate", verbosity=0)
    call_command("usage", "db", "create")
    if not User.objects.exists():
        User.objects.create_superuser("ada", password="secret")
    execute_from_command_line()
