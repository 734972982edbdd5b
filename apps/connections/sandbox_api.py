"""The sandbox toolkit's service: who am I, and a few notes. Called with access tokens of our own identity provider."""

from __future__ import annotations

from typing import Any

from allauth.idp.oidc.models import Token
from django.http import HttpResponse
from django.urls import path
from rest_framework import serializers

from apps.lib import errors
from apps.lib.api import ApiView, json_answer, no_content

from . import sandbox
from .models import SandboxNote

MOST_NOTES = 1000


class NoteBody(serializers.Serializer[Any]):
    text = serializers.CharField(max_length=2000)
    tags = serializers.ListField(
        child=serializers.CharField(max_length=50), max_length=20, required=False, default=list
    )


class SandboxView(ApiView):
    """Needs a living access token that was issued to the sandbox's client."""

    def initial(self, request: Any, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        scheme, _, value = request.META.get("HTTP_AUTHORIZATION", "").partition(" ")
        token = Token.objects.lookup(Token.Type.ACCESS_TOKEN, value) if scheme.lower() == "bearer" else None
        if token is None or token.user is None or token.client_id != sandbox.CLIENT_ID:
            raise errors.InvalidUserToken("The access token is not valid.")
        self.person = token.user


class MeView(SandboxView):
    def get(self, request: Any) -> HttpResponse:
        return json_answer({"id": str(self.person.pk), "email": self.person.email, "name": self.person.get_full_name()})


class NotesView(SandboxView):
    def get(self, request: Any) -> HttpResponse:
        rows = SandboxNote.objects.filter(user=self.person, text__icontains=request.GET.get("search", "")[:100])
        limit = request.GET.get("limit", "50")
        most = min(int(limit), 100) if limit.isascii() and limit.isdigit() else 50
        return json_answer({"notes": [_row(note) for note in rows.order_by("-pk")[:most]]})

    def post(self, request: Any) -> HttpResponse:
        body = self.body(NoteBody)
        if SandboxNote.objects.filter(user=self.person).count() >= MOST_NOTES:
            raise errors.Conflict(f"The sandbox keeps at most {MOST_NOTES} notes.")
        note = SandboxNote.objects.create(user=self.person, text=body["text"], tags=body["tags"])
        return json_answer(_row(note), 201)


class NoteView(SandboxView):
    def _note(self, note_id: int) -> SandboxNote:
        note = SandboxNote.objects.filter(user=self.person, pk=note_id).first()
        if note is None:
            raise errors.NotFound("There is no such note.")
        return note

    def get(self, request: Any, note_id: int) -> HttpResponse:
        return json_answer(_row(self._note(note_id)))

    def put(self, request: Any, note_id: int) -> HttpResponse:
        note = self._note(note_id)
        note.text = self.body(NoteBody)["text"]
        note.save(update_fields=["text"])
        return json_answer(_row(note))

    def delete(self, request: Any, note_id: int) -> HttpResponse:
        self._note(note_id).delete()
        return no_content()


class EchoView(SandboxView):
    def post(self, request: Any) -> HttpResponse:
        return json_answer({"received": request.data, "method": request.method})


class FailView(SandboxView):
    def get(self, request: Any, status: int) -> HttpResponse:
        if not 400 <= status <= 599:
            raise errors.NotFound
        return json_answer({"error": "failed on purpose", "status": status}, status)


def _row(note: SandboxNote) -> dict[str, Any]:
    return {"id": note.pk, "text": note.text, "tags": note.tags, "createdAt": note.created_at.isoformat()}


urlpatterns = [
    path("sandbox/api/me", MeView.as_view()),
    path("sandbox/api/notes", NotesView.as_view()),
    path("sandbox/api/notes/<int:note_id>", NoteView.as_view()),
    path("sandbox/api/echo", EchoView.as_view()),
    path("sandbox/api/fail/<int:status>", FailView.as_view()),
]
