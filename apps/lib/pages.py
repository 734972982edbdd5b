"""Pages that belong to no app: the list of errors that every error answer links to."""

from __future__ import annotations

from collections.abc import Iterator

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from .errors import Failure


def _tree(base: type[Failure]) -> Iterator[type[Failure]]:
    for cls in base.__subclasses__():
        yield cls
        yield from _tree(cls)


@require_safe
def error_page(request: HttpRequest) -> HttpResponse:
    """Every code of the error tree, with its meaning and what helps."""
    codes: dict[str, list[type[Failure]]] = {}
    for cls in _tree(Failure):
        codes.setdefault(cls.code, []).append(cls)
    rows = [
        {"code": code, "statuses": sorted({cls.status for cls in classes}), "classes": classes}
        for code, classes in sorted(codes.items())
    ]
    return render(request, "docs/errors.html", {"rows": rows})
