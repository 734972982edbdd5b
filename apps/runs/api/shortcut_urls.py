"""The Shortcut API's routes. The words that are no toolkit's slug (skills, connect) come first."""

from django.urls import path

from . import shortcut

urlpatterns = [
    path("skills", shortcut.SkillsView.as_view()),
    path("skills/<str:integration>", shortcut.SkillView.as_view()),
    path("skills/<str:integration>/<str:endpoint>", shortcut.SkillEndpointView.as_view()),
    path("connect", shortcut.ConnectView.as_view()),
    path("connect/<str:connection_id>", shortcut.ConnectingView.as_view()),
    path("<toolkit:integration>/download", shortcut.download),
    path("<toolkit:integration>/<str:endpoint>", shortcut.EndpointView.as_view()),
    path("<str:integration>/<str:endpoint>", shortcut.unknown),
]
