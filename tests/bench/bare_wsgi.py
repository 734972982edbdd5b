"""The measure: a bare Django view that only makes the upstream call, with the product's own client."""

from __future__ import annotations

import os

import django
from django.conf import settings
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpRequest, HttpResponse
from django.urls import path

settings.configure(
    SECRET_KEY="bench",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    MIDDLEWARE=[],
    INSTALLED_APPS=[],
    JACKFIELD_EGRESS_ALLOW="127.0.0.0/8",
)
django.setup()

from apps.lib import http  # noqa: E402 - reads the settings

UPSTREAM = os.environ["BENCH_UPSTREAM"]


def call(request: HttpRequest) -> HttpResponse:
    answer = http.send(http.Outgoing(method="GET", url=UPSTREAM, safe=True))
    return HttpResponse(answer.body, content_type="application/json")


urlpatterns = [path("", call)]
application = WSGIHandler()
