from django.urls import path

from . import sessions

urlpatterns = [
    path("<str:published_module_id>/sessions", sessions.StartSessionView.as_view()),
    path("<str:published_module_id>/sessions/<str:session_id>", sessions.SessionView.as_view()),
]
